/* Training adapters, each method: to the same bits however it is interrupted or recomputed, over
 * any split of a batch, and without touching the model. */
#include "adapter_fixture.h"

#include "train/checkpoint.h"
#include "train/trainer.h"

/* Dropout, accumulation, more than an epoch, evaluations between: all that could have a memory. */
#define RUN                                                                                    \
    "--max-steps 6 --learning-rate 5e-3 --micro-batch-size 3 --gradient-accumulation-steps 2 " \
    "--eval-steps 2 --save-steps 3 --save-total-limit 0 --resid-pdrop 0.1 --attn-pdrop 0.1 "   \
    "--embd-pdrop 0.1 "
enum { STEPS = 6 };

static int64_t stop_at;

static void stop_there(void *context, const lt_progress_info *info)
{
    (void)context;
    if (info->step == stop_at) lt_train_request_stop();
}

static const lt_train_observer stopper = {.progress = stop_there};

/* --- The same bits -----------------------------------------------------------------------------
 */

static void assert_same_run(const method_case *m, const char *a, const char *b)
{
    static const char *const files[] = {
        "final/adapter_config.json",          "final/adapter_model.safetensors",
        "best/adapter_model.safetensors",     "checkpoint-6/adapter_model.safetensors",
        "checkpoint-6/optimizer.safetensors", "checkpoint-6/prompt_encoder.safetensors"};
    for (int i = 0; i < 5 + m->has_network; i++)
        assert_same_file(at("%s/%s", a, files[i]), at("%s/%s", b, files[i]));
    assert_true(m->has_network == lt_path_exists(at("%s/%s", a, files[5])));
    /* what only training needs is not delivered */
    assert_false(lt_path_exists(at("%s/final/prompt_encoder.safetensors", a)));
    assert_false(lt_path_exists(at("%s/final/model.safetensors", a)));
    assert_false(lt_path_exists(at("%s/checkpoint-6/model.safetensors", a)));
}

static void check_resume(const method_case *m, const char *packing, int64_t step)
{
    lt_train_result result;
    char words[700];
    snprintf(words, sizeof words, RUN "--packing %s %s", packing, m->words);
    train_well("whole", on_base("%s", words), NULL, &result);
    assert_int_equal(result.steps, STEPS);
    stop_at = step;
    train_well("stopped", on_base("%s", words), &stopper, &result);
    if (!result.interrupted || result.steps != step)
        fail_msg("%s: not interrupted at step %d", m->name, (int)step);
    assert_true(lt_is_checkpoint(at("stopped/checkpoint-%d", (int)step)));
    train_well("stopped", on_base("%s", words), NULL, &result);
    assert_int_equal(result.steps, STEPS);
    assert_same_run(m, "whole", "stopped");
    lt_remove_tree(at("stopped"), NULL);
    lt_remove_tree(at("whole"), NULL);
}

static void interrupted_runs_end_with_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < METHODS; i++) {
        check_resume(&methods[i], "on", 1 + i % (STEPS - 1));
        check_resume(&methods[i], "off", 1 + (i + 2) % (STEPS - 1));
    }
}

/* Also where a run changes it half-way. */
static void recompute_gives_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < METHODS; i++) {
        const method_case *m = &methods[i];
        lt_train_result result;
        train_well("none", on_base(RUN "--recompute none %s", m->words), NULL, NULL);
        train_well("selective", on_base(RUN "--recompute selective %s", m->words), NULL, NULL);
        stop_at = 1 + i % (STEPS - 1);
        train_well("block", on_base(RUN "--recompute block %s", m->words), &stopper, &result);
        assert_true(result.interrupted);
        train_well("block", on_base(RUN "--recompute none %s", m->words), NULL, NULL);
        assert_same_run(m, "none", "selective");
        assert_same_run(m, "none", "block");
        lt_remove_tree(at("none"), NULL);
        lt_remove_tree(at("selective"), NULL);
        lt_remove_tree(at("block"), NULL);
    }
}

/* One changed bit, at a file's end. */
static void damage(const char *path)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -3, SEEK_END), 0);
    int byte = fgetc(file);
    fseek(file, -3, SEEK_END);
    fputc(byte ^ 4, file);
    fclose(file);
}

/* Stops after `step`, does something to that checkpoint, and goes on from the one before. */
static void check_passed_over(const method_case *m, const char *file, bool missing)
{
    lt_train_result result;
    stop_at = 5;
    train_well("hurt", on_base(RUN "%s", m->words), &stopper, &result);
    assert_true(result.interrupted);
    if (missing)
        assert_int_equal(unlink(at("hurt/checkpoint-5/%s", file)), 0);
    else
        damage(at("hurt/checkpoint-5/%s", file));
    memset(&seen, 0, sizeof seen);
    train_well("hurt", on_base(RUN "%s", m->words), &watcher, NULL);
    if (!strstr(seen.messages, "passed over") || !strstr(seen.messages, file))
        fail_msg("%s is not named: %s", file, seen.messages);
    assert_int_equal(seen.steps[0].step, 4);
    assert_same_run(m, "unhurt", "hurt");
    lt_remove_tree(at("hurt"), NULL);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    (void)state;
    for (int i = 0; i < METHODS; i++) {
        const method_case *m = &methods[i];
        train_well("unhurt", on_base(RUN "%s", m->words), NULL, NULL);
        check_passed_over(m, "adapter_model.safetensors", false);
        check_passed_over(m, "adapter_config.json", i % 2);
        if (m->has_network) check_passed_over(m, "prompt_encoder.safetensors", true);
        if (m->has_network) check_passed_over(m, "prompt_encoder.safetensors", false);
        lt_remove_tree(at("unhurt"), NULL);
    }
}

/* A manifest that never had the network: the files are whole, but there is nothing to go on from.
 */
static void a_checkpoint_without_its_network_is_not_taken(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_manifest manifest;
    for (int i = 0; i < METHODS; i++) {
        const method_case *m = &methods[i];
        if (!m->has_network) continue;
        stop_at = 2;
        train_well("bare", on_base(RUN "%s", m->words), &stopper, NULL);
        const char *directory = at("bare/checkpoint-2");
        must(lt_checkpoint_verify(directory, NULL, &manifest, &err), &err);
        assert_int_equal(unlink(at("bare/checkpoint-2/prompt_encoder.safetensors")), 0);
        assert_int_equal(unlink(at("bare/checkpoint-2/manifest.json")), 0);
        must(lt_manifest_write(at("bare/checkpoint-2"), &manifest, NULL, &err), &err);
        refuse("bare", on_base(RUN "%s", m->words), LT_ERR_IO, "prompt_encoder.safetensors");
        assert_int_equal(seen.starts, 0);
        assert_false(lt_path_exists(at("bare/final")));
        lt_remove_tree(at("bare"), NULL);
    }
}

/* --- What a step is ----------------------------------------------------------------------------
 */

/* Splitting a batch changes only the order of sums. Dropout would draw other masks. */
static void any_split_of_a_batch_gives_the_same_adapter(void **state)
{
    (void)state;
    static const char *const splits[] = {"--micro-batch-size 4",
                                         "--micro-batch-size 1 --gradient-accumulation-steps 4",
                                         "--micro-batch-size 2 --gradient-accumulation-steps 2"};
    for (int i = 0; i < METHODS; i++) {
        record_of_run first = {0};
        for (int split = 0; split < 3; split++) {
            char name[32];
            snprintf(name, sizeof name, "split-%d", split);
            watch(name, on_base("--max-steps 3 --save-steps 1 --save-total-limit 0 --eval-steps 3 "
                                "--learning-rate 1e-3 --max-grad-norm 0 %s --lora-dropout 0 %s",
                                methods[i].words, splits[split]));
            if (split == 0) first = seen;
            assert_int_equal(seen.step_count, 3);
            for (int s = 0; s < 3; s++) {
                double difference = fabs(seen.steps[s].loss - first.steps[s].loss);
                assert_int_equal(seen.steps[s].trained_tokens, first.steps[s].trained_tokens);
                if (difference > 1e-6)
                    fail_msg("%s: the loss of step %d differs by %g", methods[i].name, s + 1,
                             difference);
            }
            double d = distance(at("split-0/checkpoint-1/optimizer.safetensors"),
                                at("%s/checkpoint-1/optimizer.safetensors", name), "m.");
            if (d > 1e-5) fail_msg("%s: the gradient differs by %g", methods[i].name, d);
            d = distance(at("split-0/final/adapter_model.safetensors"),
                         at("%s/final/adapter_model.safetensors", name), "");
            if (d > 1e-4) fail_msg("%s: the adapter differs by %g", methods[i].name, d);
        }
        for (int split = 0; split < 3; split++)
            lt_remove_tree(at("split-%d", split), NULL);
    }
}

/* Virtual tokens stand in front of every document, not of every row. */
static void packing_gives_the_same_held_out_loss(void **state)
{
    (void)state;
    for (int i = 0; i < METHODS; i++) {
        double loss[2];
        for (int packed = 0; packed < 2; packed++) {
            watch("packing", on_base("--max-steps 1 --learning-rate 0 --packing %s %s",
                                     packed ? "on" : "off", methods[i].words));
            loss[packed] = seen.evaluations[0].loss;
            lt_remove_tree(at("packing"), NULL);
        }
        if (fabs(loss[0] - loss[1]) > 1e-5)
            fail_msg("%s: %.8f packed, %.8f not", methods[i].name, loss[1], loss[0]);
    }
}

/* --- What it does ------------------------------------------------------------------------------
 */

static void held_out_loss_falls_and_samples_are_made(void **state)
{
    (void)state;
    watch("bare", on_base("--max-steps 1 --learning-rate 0"));
    double without = seen.evaluations[0].loss;
    for (int i = 0; i < METHODS; i++) {
        const method_case *m = &methods[i];
        lt_train_result result =
            watch("learns", on_base("--epochs 6 --learning-rate 2e-2 --eval-samples 2 "
                                    "--eval-steps 12 %s",
                                    m->words));
        double before = seen.evaluations[0].loss;
        if (!(result.best_eval_loss < before - 2e-4))
            fail_msg("%s: held-out loss %.4f, then %.4f", m->name, before, result.best_eval_loss);
        /* B = 0 changes nothing; a bf16 base is a rounded one, and virtual tokens begin somewhere
         */
        bool is_lora = strstr(m->words, "lora") != NULL && strcmp(m->name, "half") != 0;
        if (is_lora != (fabs(before - without) < 1e-6))
            fail_msg("%s: held-out loss %.8f before the first step, of the base %.8f", m->name,
                     before, without);
        assert_int_equal(seen.samples, 2 * seen.evaluation_count);
        assert_int_equal(seen.failed_saves, 0);
        for (int s = 0; s < seen.step_count; s++)
            assert_true(seen.steps[s].taken && seen.steps[s].gradient_norm > 0 &&
                        seen.steps[s].flops > 0);
        assert_true(lt_path_exists(at("learns/final/tokenizer.json")));
        assert_true(lt_path_exists(at("learns/final/lathe.json")));
        assert_true(lt_path_exists(at("learns/best/adapter_config.json")));
        assert_true(lt_path_exists(at("learns/report.html")));
        lt_remove_tree(at("learns"), NULL);
    }
}

/* What the model with this adapter (NULL: without) says to the last sample's prompt. */
static void answer_of(const char *model, const char *adapter, char *out, size_t size)
{
    lt_err err = {0};
    lt_assistant assistant;
    lt_answer answer = {0};
    lt_backend *backend = fixture_backend();
    const lt_adapter_source source = {"trained", adapter};
    must(lt_assistant_open(model, &source, adapter != NULL, backend, &assistant, &err), &err);
    char *context = strstr(seen.prompt, "\n\n");
    char instruction[512];
    snprintf(instruction, sizeof instruction, "%.*s",
             context ? (int)(context - seen.prompt) : (int)strlen(seen.prompt), seen.prompt);
    const lt_prompt prompt = {.instruction = instruction,
                              .context = context ? context + 2 : NULL,
                              .adapter = adapter ? assistant.model->adapters[0] : NULL};
    const lt_answer_settings settings = {.max_new_tokens = 96};
    must(lt_assistant_answer(&assistant, &prompt, 1, &settings, NULL, NULL, &answer, &err), &err);
    snprintf(out, size, "%s", lt_buffer_text(&answer.text));
    lt_answer_free(&answer);
    lt_assistant_close(&assistant);
    lt_backend_free(backend);
}

/* The samples are answered with the adapter, as it will be used. */
static void samples_are_of_the_adapter(void **state)
{
    (void)state;
    int different = 0;
    char words[700];
    snprintf(words, sizeof words, "--data %s --max-steps 150 --learning-rate 1e-2",
             at("alpaca.h5"));
    train_well("wise", words, NULL, NULL); /* has something to say */
    for (int i = 0; i < METHODS; i++) {
        char with[512], without[512];
        if (strstr(methods[i].words, "bfloat16")) continue; /* is opened in f32 here */
        snprintf(words, sizeof words, "--data %s --model %s --eval-samples 1 %s", at("alpaca.h5"),
                 at("wise/final"), methods[i].words);
        strcat(words, " --max-steps 20 --learning-rate 4e-2 --eval-steps 1000");
        watch("says", words);
        answer_of(at("wise/final"), at("says/final"), with, sizeof with);
        answer_of(at("wise/final"), NULL, without, sizeof without);
        assert_string_equal(seen.answer, with);
        different += strcmp(with, without) != 0;
        lt_remove_tree(at("says"), NULL);
    }
    assert_true(different >= 4);
}

/* --- What it leaves alone ----------------------------------------------------------------------
 */

/* A trainer up to its first step, as lt_train makes it; it has written nothing. */
typedef struct opened {
    lt_train_settings settings;
    lt_option_result options;
    lt_trainer trainer;
} opened;

static void open_trainer(opened *o, const char *words)
{
    char copy[1024], *argv[FIXTURE_WORDS] = {"--output", "/nowhere", "--threads", "1"};
    int argc = 4;
    lt_err err = {0};
    memset(o, 0, sizeof *o);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    must(lt_options_parse(&lt_train_options, argc, argv, &o->settings, &o->options, &err), &err);
    o->trainer = (lt_trainer){
        .settings = o->settings, .output_lock = -1, .saved_step = -1, .log_history = json_array()};
    lt_train_state_init(&o->trainer.state);
    must(lt_together_find_place(&o->trainer, &err), &err);
    must(lt_trainer_prepare(&o->trainer, &err), &err);
    must(lt_trainer_allocate(&o->trainer, &err), &err);
}

static void close_trainer(opened *o)
{
    lt_trainer_free(&o->trainer);
    lt_options_free(&lt_train_options, &o->settings, &o->options);
}

static size_t bytes_of(lt_tensor tensor)
{
    return (size_t)lt_tensor_count(tensor) * lt_dtype_size(tensor.dtype);
}

/* The bytes of every row, one after the other. Caller frees. */
static unsigned char *copy_rows(const lt_model *model)
{
    size_t total = 0;
    for (int i = 0; i < model->param_count; i++)
        total += bytes_of(model->params[i].weight);
    unsigned char *copy = malloc(total), *place = copy;
    for (int i = 0; i < model->param_count; i++) {
        size_t size = bytes_of(model->params[i].weight);
        memcpy(place, model->params[i].weight.data, size);
        place += size;
    }
    return copy;
}

/* Every row of the adapter moves, and no row of the model. */
static void only_the_adapter_moves(void **state)
{
    (void)state;
    lt_err err = {0};
    for (int i = 0; i < METHODS; i++) {
        opened o;
        bool finished;
        open_trainer(&o, on_base("--max-steps 9 --learning-rate 1e-2 %s", methods[i].words));
        const lt_model *model = o.trainer.model;
        unsigned char *before = copy_rows(model), *place = before;
        must(lt_trainer_evaluate(&o.trainer, &finished, &err), &err);
        for (int step = 0; step < 3; step++)
            must(lt_trainer_step(&o.trainer, &err), &err);
        assert_true(model->param_count > model->own_param_count);
        for (int p = 0; p < model->param_count; p++) {
            const lt_param *param = &model->params[p];
            size_t size = bytes_of(param->weight);
            bool same = memcmp(place, param->weight.data, size) == 0, own = param->adapter < 0;
            if (same != own)
                fail_msg("%s: %s is %s", methods[i].name, param->name,
                         same ? "unchanged" : "changed");
            assert_true(param->trainable != own && (param->gradient.data != NULL) != own);
            place += size;
        }
        free(before);
        close_trainer(&o);
    }
}

static void the_optimizer_is_what_was_asked_for(void **state)
{
    (void)state;
    opened o;
    open_trainer(&o, on_base("--method lora --optimizer adamw-bf16 --seed 9"));
    assert_int_equal(o.trainer.optimizer.settings.kind, LT_ADAMW_BF16);
    assert_int_equal(o.trainer.optimizer.settings.seed, 9);
    assert_int_equal(o.trainer.optimizer.m.dtype, LT_BF16);
    close_trainer(&o);
}

static char *hash_of(const char *directory)
{
    lt_name_list names = {0};
    lt_buffer all = {0};
    lt_err err = {0};
    char hash[LT_HASH_TEXT_SIZE];
    must(lt_list_directory(directory, &names, &err), &err);
    for (size_t i = 0; i < names.count; i++) {
        lt_buffer path = {0};
        must(lt_path_join(&path, directory, names.names[i], &err), &err);
        must(lt_hash_file(path.data, 0, hash, &err), &err);
        must(lt_buffer_printf(&all, &err, "%s %s\n", names.names[i], hash), &err);
        lt_buffer_free(&path);
    }
    lt_name_list_free(&names);
    return all.data;
}

static void the_files_of_the_base_stay(void **state)
{
    (void)state;
    char *before = hash_of(at("base/final"));
    assert_non_null(strstr(before, "model.safetensors"));
    for (int i = 0; i < METHODS; i++) {
        train_well("beside", on_base("--max-steps 2 %s", methods[i].words), NULL, NULL);
        char *after = hash_of(at("base/final"));
        assert_string_equal(before, after);
        free(after);
        lt_remove_tree(at("beside"), NULL);
    }
    free(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupted_runs_end_with_the_same_bits),
        cmocka_unit_test(recompute_gives_the_same_bits),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(a_checkpoint_without_its_network_is_not_taken),
        cmocka_unit_test(any_split_of_a_batch_gives_the_same_adapter),
        cmocka_unit_test(packing_gives_the_same_held_out_loss),
        cmocka_unit_test(held_out_loss_falls_and_samples_are_made),
        cmocka_unit_test(samples_are_of_the_adapter),
        cmocka_unit_test(only_the_adapter_moves),
        cmocka_unit_test(the_optimizer_is_what_was_asked_for),
        cmocka_unit_test(the_files_of_the_base_stay),
    };
    return cmocka_run_group_tests(tests, adapter_setup, fixture_teardown);
}
