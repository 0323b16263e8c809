/* Whole training runs of a tiny model: what a step is, what is frozen, when it ends, what is
 * refused. */
#include "train_watch.h"

#include "train/trainer.h"

enum { FAR_POSITION = 50 };

/* --- What a step is ----------------------------------------------------------------------------
 */

/* After one step AdamW's m is (1 - beta1) times the gradient. Clipping would hide a wrong scale. */
static void any_split_of_a_batch_gives_the_same_gradient(void **state)
{
    (void)state;
    static const char *const splits[] = {
        "--micro-batch-size 1 --gradient-accumulation-steps 8",
        "--micro-batch-size 2 --global-batch-size 8", "--micro-batch-size 8",
        "--micro-batch-size 4 --gradient-accumulation-steps 2 --global-batch-size 8"};
    static const char *const packings[] = {"--packing off", "--packing on"};
    char name[32], words[256];
    for (int p = 0; p < 2; p++) {
        record_of_run first = {0};
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "split-%d-%d", p, i);
            snprintf(words, sizeof words,
                     "--epochs 1 --save-steps 1 --save-total-limit 0 --max-grad-norm 0 %s %s",
                     packings[p], splits[i]);
            watch(name, words);
            if (i == 0) first = seen;
            assert_int_equal(seen.step_count, first.step_count);
            for (int s = 0; s < seen.step_count; s++) {
                assert_int_equal(seen.steps[s].trained_tokens, first.steps[s].trained_tokens);
                assert_int_equal(seen.steps[s].input_tokens, first.steps[s].input_tokens);
                assert_true(fabs(seen.steps[s].loss - first.steps[s].loss) < 1e-4);
                assert_true(fabs(seen.steps[s].gradient_norm / first.steps[s].gradient_norm - 1) <
                            1e-3);
            }
            double d = distance(at("split-%d-0/checkpoint-1/optimizer.safetensors", p),
                                at("%s/checkpoint-1/optimizer.safetensors", name), "m.");
            if (d > 1e-5) fail_msg("%s: the gradient differs by %g of its norm", words, d);
        }
    }
}

/* The same documents in rows of their own or side by side. */
static void packing_gives_the_same_held_out_loss(void **state)
{
    (void)state;
    watch("packed", "--max-steps 1 --learning-rate 0 --packing on");
    double packed = seen.evaluations[0].loss;
    watch("unpacked", "--max-steps 1 --learning-rate 0 --packing off");
    assert_true(fabs(packed - seen.evaluations[0].loss) < 1e-5);
}

static void the_loss_falls(void **state)
{
    (void)state;
    lt_train_result result =
        watch("learns", "--epochs 8 --learning-rate 1e-2 --eval-samples 2 --logging-steps 1");
    assert_int_equal(seen.starts, 1);
    assert_int_equal(seen.ends, 1);
    assert_true(seen.evaluations[0].step == 0 && !seen.evaluations[0].is_best);
    assert_true(result.eval_loss < 0.6 * seen.evaluations[0].loss);
    assert_true(result.best_eval_loss <= result.eval_loss);
    assert_true(fabs(exp(result.eval_loss) -
                     seen.evaluations[seen.evaluation_count - 1].perplexity) < 1e-9);
    assert_int_equal(seen.samples, 2 * seen.evaluation_count);
    for (int i = 0; i < seen.step_count; i++) {
        const lt_step_info *s = &seen.steps[i];
        assert_true(s->taken && s->gradient_norm > 0 && s->flops > 0 && s->learning_rate > 0);
        assert_true(s->trained_tokens > 0 && s->trained_tokens < s->input_tokens);
    }
    assert_true(lt_path_exists(at("learns/report.html")));
    assert_true(lt_path_exists(at("learns/log.jsonl")));
    assert_true(lt_path_exists(at("learns/best/model.safetensors")));
    assert_true(lt_path_exists(at("learns/final/tokenizer.json")));
}

static int64_t number_in(const char *path, const char *key)
{
    json_t *object = NULL;
    lt_err err = {0};
    int64_t value = -1;
    must(lt_json_load(path, &object, &err), &err);
    must(lt_json_get_int(object, key, -1, INT64_MAX, path, &value, &err), &err);
    json_decref(object);
    return value;
}

/* After the_loss_falls. */
static void the_vocabulary_grows_and_the_stop_token_is_noted(void **state)
{
    (void)state;
    assert_non_null(strstr(seen.setup, "grown by 3 vocabulary rows"));
    int64_t before = number_in(at("model/config.json"), "vocab_size");
    assert_int_equal(number_in(at("learns/final/config.json"), "vocab_size"), before + 3);
    assert_int_equal(number_in(at("learns/final/config.json"), "eos_token_id"), before);
    assert_int_equal(number_in(at("learns/final/generation_config.json"), "eos_token_id"), before);
    /* what was trained can be trained again: tokenizer and model still match, nothing grows */
    char words[600];
    snprintf(words, sizeof words, "--max-steps 1 --model %s", at("learns/final"));
    watch("again", words);
    assert_null(strstr(seen.setup, "grown"));
    assert_true(seen.evaluations[0].loss < 4);
}

static void frozen_layers_stay(void **state)
{
    (void)state;
    lt_safetensors before, after;
    lt_err err = {0};
    watch("frozen", "--max-steps 3 --learning-rate 1e-2 --freeze-layers 2");
    must(lt_safetensors_open(at("frozen/final/model.safetensors"), &after, &err), &err);
    must(lt_safetensors_open(at("model/model.safetensors"), &before, &err), &err);
    int same = 0, changed = 0;
    for (size_t i = 0; i < before.count; i++) {
        const lt_safetensors_entry *was = &before.entries[i];
        const lt_safetensors_entry *is = lt_safetensors_find(&after, was->name);
        assert_non_null(is);
        bool equal = memcmp(was->data, is->data, was->size) == 0; /* grown rows come after */
        bool is_frozen = strstr(was->name, "wte") || strstr(was->name, "wpe") ||
                         strstr(was->name, "h.0.") || strstr(was->name, "h.1.");
        if (equal != is_frozen) fail_msg("%s is %s", was->name, equal ? "unchanged" : "changed");
        same += equal;
        changed += !equal;
    }
    assert_true(same > 20 && changed > 10);
    lt_safetensors_close(&before);
    lt_safetensors_close(&after);
}

static void dropout_is_off_unless_asked_for(void **state)
{
    (void)state;
    watch("no-dropout", "--max-steps 1");
    double loss = seen.steps[0].loss;
    assert_non_null(strstr(seen.setup, "only used when asked for"));
    watch("dropout", "--max-steps 1 --resid-pdrop 0.5");
    assert_non_null(strstr(seen.setup, "residual 0.5"));
    assert_true(fabs(seen.steps[0].loss - loss) > 1e-4);
}

/* Two steps over the only document with weights that stay: just the masks can differ. */
static void every_step_has_masks_of_its_own(void **state)
{
    (void)state;
    char words[600];
    fixture_data("single", 2); /* one of them is held out */
    snprintf(words, sizeof words, "--max-steps 2 --learning-rate 0 --data %s", at("single.h5"));
    watch("still", words);
    assert_true(seen.steps[0].loss == seen.steps[1].loss);
    strcat(words, " --resid-pdrop 0.3");
    watch("masked", words);
    assert_true(fabs(seen.steps[0].loss - seen.steps[1].loss) > 1e-4);
}

/* --- When it ends ------------------------------------------------------------------------------
 */

static void patience_ends_a_run(void **state)
{
    (void)state;
    /* nothing learned: the first evaluation is the best there will be */
    lt_train_result result = watch("patience", "--max-steps 20 --learning-rate 0 --eval-steps 2 "
                                               "--early-stopping-patience 3");
    assert_true(result.stopped_early);
    assert_false(result.interrupted);
    assert_int_equal(result.best_step, 2);
    assert_int_equal(result.steps, 8);
    assert_true(lt_path_exists(at("patience/final/model.safetensors")));
    assert_true(lt_path_exists(at("patience/checkpoint-8/manifest.json")));
    /* the same command again does not go on */
    result = watch("patience", "--max-steps 20 --learning-rate 0 --eval-steps 2 "
                               "--early-stopping-patience 3");
    assert_int_equal(seen.step_count, 0);
}

static void epochs_decide_the_steps(void **state)
{
    (void)state;
    watch("epochs-1", "--epochs 1 --packing off --micro-batch-size 4");
    int one = seen.step_count;
    assert_true(fabs(seen.steps[one - 1].epoch - 1) < 1e-12);
    watch("epochs-2", "--epochs 2.5 --packing off --micro-batch-size 4");
    assert_int_equal(seen.step_count, (5 * one + 1) / 2);
}

static void a_dry_run_writes_nothing(void **state)
{
    (void)state;
    watch("dry", "--dry-run");
    assert_int_equal(seen.starts, 1);
    assert_int_equal(seen.step_count, 0);
    assert_false(lt_path_exists(at("dry")));
    static const char *const parts[] = {"weights", "gradients", "optimizer", "activations",
                                        "total",   "available", "schedule",  "batch"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        assert_non_null(strstr(seen.setup, parts[i]));
}

static void set_nan(lt_model *model)
{
    const lt_param *param = lt_model_param(model, "final_norm.weight");
    ((float *)param->weight.data)[3] = NAN;
}

static void a_run_that_is_not_finite_stops(void **state)
{
    (void)state;
    fixture_model("poisoned", "gpt2", 1, set_nan);
    char words[600];
    snprintf(words, sizeof words, "--max-steps 20 --save-steps 2 --eval-steps 100 --model %s",
             at("poisoned"));
    refuse("nan", words, LT_ERR_NUMERIC, "3 steps in a row");
    assert_int_equal(seen.step_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_false(seen.steps[i].taken);
        assert_true(isnan(seen.steps[i].loss));
        assert_int_equal(seen.steps[i].skipped_steps, i + 1);
    }
    assert_int_equal(seen.ends, 1);
    assert_false(lt_path_exists(at("nan/final")));
    lt_err err = {0};
    train("nan", words, NULL, NULL, &err); /* resumed from checkpoint-2, which had two of them */
    assert_message(&err, "nan/checkpoint-2");
}

/* --- Results that are read later ----------------------------------------------------------------
 */

/* NaN where only the longest documents come. */
static void set_far_position_to_nan(lt_model *model)
{
    const lt_param *param = lt_model_param(model, "embed_positions.weight");
    float *row = (float *)param->weight.data + FAR_POSITION * param->shape[1];
    for (int64_t i = 0; i < param->shape[1]; i++)
        row[i] = NAN;
}

/* Steps are told one by one, in order, with the same numbers, whenever they are read; those that
 * were not taken too. */
static void when_results_are_read_makes_no_difference(void **state)
{
    (void)state;
    static const char *const intervals[] = {"--logging-steps 1", "--logging-steps 100",
                                            "--logging-steps 7 --save-steps 4"};
    record_of_run first = {0};
    char words[600], name[32];
    fixture_model("patchy", "gpt2", 1, set_far_position_to_nan);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "read-%d", i);
        snprintf(words, sizeof words,
                 "--max-steps 24 --micro-batch-size 1 --packing off --eval-steps 100 "
                 "--save-steps 100 --learning-rate 1e-2 --model %s %s",
                 at("patchy"), intervals[i]);
        lt_train_result result = watch(name, words);
        assert_int_equal(seen.progress, 24);
        assert_int_equal(seen.step_count, 24);
        if (i == 0) first = seen;
        int skipped = 0;
        for (int s = 0; s < 24; s++) {
            const lt_step_info *a = &first.steps[s], *b = &seen.steps[s];
            skipped += !b->taken;
            assert_int_equal(b->step, s + 1);
            assert_int_equal(b->skipped_steps, skipped);
            assert_int_equal(b->taken, a->taken);
            assert_memory_equal(&b->loss, &a->loss, sizeof a->loss);
            assert_memory_equal(&b->gradient_norm, &a->gradient_norm, sizeof a->gradient_norm);
            assert_true(b->taken == isfinite(b->loss) && b->seconds > 0);
            assert_int_equal(b->total_input_tokens, a->total_input_tokens);
        }
        assert_true(skipped > 1 && skipped < 12);
        assert_int_equal(result.steps, 24 - skipped);
        assert_same_file(at("read-0/checkpoint-24/model.safetensors"),
                         at("%s/checkpoint-24/model.safetensors", name));
        assert_same_file(at("read-0/checkpoint-24/optimizer.safetensors"),
                         at("%s/checkpoint-24/optimizer.safetensors", name));
    }
}

/* More than there are slots for. */
static void many_steps_are_read_in_time(void **state)
{
    (void)state;
    const int steps = 2 * LT_MAX_UNREAD_STEPS + 10;
    char words[200];
    snprintf(words, sizeof words,
             "--max-steps %d --micro-batch-size 1 --eval-steps 1000 --save-steps 1000 "
             "--logging-steps 1000",
             steps);
    lt_train_result result = watch("many", words);
    assert_int_equal(seen.progress, steps);
    assert_int_equal(result.steps, steps);
    for (int s = 0; s < MAX_STEPS; s++)
        assert_int_equal(seen.steps[s].step, s + 1);
}

/* Three bad steps end a run at the third, though more may have been handed to the device. */
static void bad_steps_are_noticed_when_they_are_read(void **state)
{
    (void)state;
    char words[600];
    snprintf(words, sizeof words,
             "--max-steps 20 --save-steps 100 --eval-steps 100 --logging-steps 8 --model %s",
             at("poisoned"));
    refuse("late", words, LT_ERR_NUMERIC, "3 steps in a row, the last of them step 3");
    assert_int_equal(seen.step_count, 3);
    assert_true(seen.progress >= 3 && seen.progress <= 8);
    assert_false(lt_path_exists(at("late/final")));
}

/* --- Kinds of optimizer state ------------------------------------------------------------------
 */

static void short_state_learns_alike(void **state)
{
    (void)state;
    static const char *const kinds[] = {"adamw", "adamw-bf16", "adamw-8bit"};
    double losses[3], first = 0;
    char words[128];
    for (int k = 0; k < 3; k++) {
        snprintf(words, sizeof words, "--epochs 8 --learning-rate 1e-2 --optimizer %s", kinds[k]);
        losses[k] = watch(kinds[k], words).eval_loss;
        first = seen.evaluations[0].loss;
        snprintf(words, sizeof words, "optimizer    %s, betas", kinds[k]);
        assert_non_null(strstr(seen.setup, words));
    }
    for (int k = 1; k < 3; k++)
        if (fabs(losses[k] - losses[0]) > 0.05 * (first - losses[0]))
            fail_msg("%s ends at %g, adamw at %g, from %g", kinds[k], losses[k], losses[0], first);
}

/* --- An error in mid-run -----------------------------------------------------------------------
 */

static void a_failure_says_how_to_go_on(void **state)
{
    (void)state;
    static char output[] = "out";
    lt_trainer t = {.settings = {.output = output}, .saved_step = -1, .state = {.step = 7}};
    lt_err err = {0};
    lt_fail(&err, LT_ERR_IO, "matmul: the GPU fell off the bus");
    assert_int_equal(lt_explain_failure(&t, LT_ERR_IO, &err), LT_ERR_IO);
    assert_message(&err, "matmul: the GPU fell off the bus. Training ended in step 8");
    assert_message(&err, "before its first checkpoint");
    t.saved_step = 5;
    lt_fail(&err, LT_ERR_IO, "matmul: the GPU fell off the bus");
    assert_int_equal(lt_explain_failure(&t, LT_ERR_IO, &err), LT_ERR_IO);
    assert_message(&err, "out/checkpoint-5 is whole, and the same command goes on from it");
    lt_fail(&err, LT_ERR_NUMERIC, "not finite");
    lt_explain_failure(&t, LT_ERR_NUMERIC, &err);
    assert_string_equal(err.message, "not finite");
    lt_explain_failure(&t, LT_OK, &err);
    assert_string_equal(err.message, "not finite");
}

/* --- The optimizer -----------------------------------------------------------------------------
 */

static lt_model *open_model(const lt_backend *backend)
{
    lt_model *model = NULL;
    lt_err err = {0};
    must(lt_model_load(at("model"), backend, &model, &err), &err);
    must(lt_model_allocate_gradients(model, &err), &err);
    return model;
}

static float *gradient_values(const lt_model *model)
{
    return (float *)model->params[0].gradient.data;
}

static lt_optimizer_step a_step(double learning_rate, double *tokens, float *norm)
{
    return (lt_optimizer_step){.tokens = lt_tensor_1d(tokens, LT_F64, 1),
                               .learning_rate = learning_rate,
                               .beta1 = 0.9,
                               .beta2 = 0.99,
                               .epsilon = 1e-8,
                               .weight_decay = learning_rate,
                               .max_grad_norm = 1,
                               .number = 1,
                               .norm = lt_tensor_1d(norm, LT_F32, 1)};
}

/* A scale that is not finite changes neither weights nor state. */
static void a_step_with_nan_is_no_step(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_backend *backend = fixture_backend();
    lt_model *model = open_model(backend);
    lt_optimizer optimizer;
    must(lt_optimizer_create(model, &(lt_optimizer_settings){0}, &optimizer, &err), &err);
    float norm;
    double tokens = 1;
    const lt_optimizer_step step = a_step(0.1, &tokens, &norm);
    for (int64_t i = 0; i < 100; i++)
        gradient_values(model)[i] = 1;
    must(lt_optimizer_sum_squares(&optimizer, model, &err), &err);
    must(lt_optimizer_apply(&optimizer, &step, &err), &err);
    assert_true(fabs(norm - 10) < 1e-5);

    size_t weight_bytes = (size_t)model->weight_count * sizeof(float);
    size_t moment_bytes = (size_t)model->gradient_count * sizeof(float);
    void *weights = malloc(weight_bytes), *m = malloc(moment_bytes), *v = malloc(moment_bytes);
    memcpy(weights, model->params[0].weight.data, weight_bytes);
    memcpy(m, optimizer.m.data, moment_bytes);
    memcpy(v, optimizer.v.data, moment_bytes);
    tokens = 0;
    for (int i = 0; i < 2; i++) {
        must(lt_optimizer_sum_squares(&optimizer, model, &err), &err);
        must(lt_optimizer_apply(&optimizer, &step, &err), &err);
        assert_false(isfinite(norm));
        assert_memory_equal(weights, model->params[0].weight.data, weight_bytes);
        assert_memory_equal(m, optimizer.m.data, moment_bytes);
        assert_memory_equal(v, optimizer.v.data, moment_bytes);
        tokens = 1; /* and the same for a gradient */
        gradient_values(model)[7] = INFINITY;
    }
    free(weights);
    free(m);
    free(v);
    lt_optimizer_free(&optimizer);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* Decay is for matrices only. */
static void vectors_do_not_decay(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_backend *backend = fixture_backend();
    lt_model *model = open_model(backend);
    lt_optimizer optimizer;
    float norm;
    double tokens = 1;
    must(lt_optimizer_create(model, &(lt_optimizer_settings){0}, &optimizer, &err), &err);
    const lt_optimizer_step step = a_step(0.5, &tokens, &norm);
    const lt_param *matrix = lt_model_param(model, "layers.1.mlp.up.weight");
    const lt_param *vector = lt_model_param(model, "layers.1.mlp_norm.weight");
    float before = ((float *)matrix->weight.data)[5];
    must(lt_optimizer_sum_squares(&optimizer, model, &err), &err); /* no gradient */
    must(lt_optimizer_apply(&optimizer, &step, &err), &err);
    assert_true(fabs(((float *)matrix->weight.data)[5] - 0.75 * before) < 1e-7);
    assert_true(((float *)vector->weight.data)[5] == 1.0F);
    lt_optimizer_free(&optimizer);
    lt_model_free(model);
    lt_backend_free(backend);
}

/* --- What is refused ---------------------------------------------------------------------------
 */

static void settings_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    char words[600];
    refuse("r1", "--micro-batch-size 3 --global-batch-size 8", LT_ERR_USAGE, "not a multiple");
    refuse("r1", "--micro-batch-size 2 --gradient-accumulation-steps 2 --global-batch-size 8",
           LT_ERR_USAGE, "is not --micro-batch-size 2 times");
    refuse("r1", "--max-length 161", LT_ERR_USAGE, "160 positions");
    refuse("r1", "--max-length 4", LT_ERR_USAGE, "fits in 4 tokens");
    refuse("r1", "--freeze-layers 4", LT_ERR_USAGE, "3 of them");
    refuse("r1", "--freeze .", LT_ERR_USAGE, "nothing is left to be trained");
    refuse("r1", "--device cpu --dtype bfloat16", LT_ERR_USAGE, "needs a GPU");
    refuse("r1", "--device cpu --matmul cublas", LT_ERR_USAGE, "is for a GPU");
    refuse("r1", "--device gpu", LT_ERR_USAGE, "there are auto, cpu, cuda");
    refuse("r1", "--device cpu --gradient-dtype bfloat16", LT_ERR_USAGE, "--dtype bfloat16");
    refuse("r1", "--device cpu --offload-optimizer", LT_ERR_USAGE, "this run is on the CPU");
    refuse("r1", "--optimizer sgd", LT_ERR_USAGE, "adamw|adamw-bf16|adamw-8bit");
    refuse("r1", "--model gpt2-124m --max-length 64", LT_ERR_IO, "gpt2-124m"); /* only a plan */
    refuse("r1", "--model /nowhere", LT_ERR_IO, "/nowhere");
    snprintf(words, sizeof words, "--data %s", at("model/config.json"));
    refuse("r1", words, LT_ERR_FORMAT, "config.json");
    assert_false(lt_path_exists(at("r1")));
    refuse("model", "", LT_ERR_USAGE, "is not empty");
    refuse("data.h5", "", LT_ERR_USAGE, "is not a directory");
}

/* Other rows for other tokens: nothing would notice but the answers. */
static void another_tokenizer_is_refused(void **state)
{
    (void)state;
    lt_err err = {0};
    char words[600];
    lt_tokenizer *other = NULL;
    const char *const token = "<|stranger|>"; /* where the dataset has "### End" */
    size_t added;
    must(lt_tokenizer_load(FIXTURE_TOKENIZER, &other, &err), &err);
    must(lt_tokenizer_add_special_tokens(other, &token, 1, &added, &err), &err);
    fixture_model("stranger", "gpt2", 1, NULL);
    must(lt_tokenizer_save(other, at("stranger"), &err), &err);
    lt_tokenizer_free(other);
    snprintf(words, sizeof words, "--model %s", at("stranger"));
    refuse("r2", words, LT_ERR_USAGE, "do not match");
}

/* By the plan alone: the weights are not there, and are not missed. */
static void too_little_memory_is_refused_beforehand(void **state)
{
    (void)state;
    static const char config[] =
        "{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"], \"n_embd\": 65536,"
        "\"n_layer\": 96, \"n_head\": 64, \"n_positions\": 160, \"vocab_size\": 600}";
    lt_err err = {0};
    char words[600];
    must(lt_make_directories(at("huge"), &err), &err);
    must(lt_write_file(at("huge/config.json"), config, strlen(config), &err), &err);
    snprintf(words, sizeof words, "--model %s", at("huge"));
    refuse("r3", words, LT_ERR_NOMEM, "not enough memory");
    assert_int_equal(seen.starts, 0);
    assert_false(lt_path_exists(at("r3")));
    snprintf(words, sizeof words, "--dry-run --model %s", at("huge"));
    refuse("r3", words, LT_ERR_NOMEM, "--micro-batch-size (now 8)");
    assert_non_null(strstr(seen.setup, "optimizer"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_split_of_a_batch_gives_the_same_gradient),
        cmocka_unit_test(packing_gives_the_same_held_out_loss),
        cmocka_unit_test(the_loss_falls),
        cmocka_unit_test(the_vocabulary_grows_and_the_stop_token_is_noted),
        cmocka_unit_test(frozen_layers_stay),
        cmocka_unit_test(dropout_is_off_unless_asked_for),
        cmocka_unit_test(every_step_has_masks_of_its_own),
        cmocka_unit_test(patience_ends_a_run),
        cmocka_unit_test(epochs_decide_the_steps),
        cmocka_unit_test(a_dry_run_writes_nothing),
        cmocka_unit_test(a_run_that_is_not_finite_stops),
        cmocka_unit_test(when_results_are_read_makes_no_difference),
        cmocka_unit_test(many_steps_are_read_in_time),
        cmocka_unit_test(bad_steps_are_noticed_when_they_are_read),
        cmocka_unit_test(short_state_learns_alike),
        cmocka_unit_test(a_failure_says_how_to_go_on),
        cmocka_unit_test(a_step_with_nan_is_no_step),
        cmocka_unit_test(vectors_do_not_decay),
        cmocka_unit_test(settings_that_do_not_fit_are_refused),
        cmocka_unit_test(another_tokenizer_is_refused),
        cmocka_unit_test(too_little_memory_is_refused_beforehand),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
