/* What a run with an adapter, or of some rows only, is told to be: the plan, what is refused, what
 * is trained, and that another run does not go on with it. */
#include "adapter_fixture.h"

#include "base/regex.h"
#include "train/assistant.h"

#define RUN                                                                                  \
    "--max-steps 4 --learning-rate 5e-3 --micro-batch-size 3 --eval-steps 2 --save-steps 2 " \
    "--save-total-limit 0 "

static int64_t stop_at;

static void stop_there(void *context, const lt_progress_info *info)
{
    (void)context;
    if (info->step == stop_at) lt_train_request_stop();
}

static const lt_train_observer stopper = {.progress = stop_there};

static void assert_setup(const char *part)
{
    if (!strstr(seen.setup, part)) fail_msg("\"%s\" is not in:\n%s", part, seen.setup);
}

static void assert_told(const char *part)
{
    if (!strstr(seen.messages, part)) fail_msg("\"%s\" is not in: %s", part, seen.messages);
}

/* --- Another run -------------------------------------------------------------------------------
 */

typedef struct change {
    const char *run, *other, *message;
} change;

static const change changes[] = {
    {"--method lora", "--method lora --lora-r 5", "lora_r was 8, is 5"},
    {"--method lora", "--method lora --lora-alpha 4", "lora_alpha was 16.0, is 4.0"},
    {"--method lora", "--method lora --lora-dropout 0.1", "lora_dropout was 0.0, is 0.1"},
    {"--method lora", "--method lora --lora-target attention",
     "lora_target was \"all-linear\", is \"attention\""},
    {"--method lora", "--method lora --layers-to-transform 1",
     "layers_to_transform was null, is \"1\""},
    {"--method lora", "--method lora --use-rslora", "use_rslora was false, is true"},
    {"--method lora", "--method lora --use-dora", "use_dora was false, is true"},
    {"--method lora", "--method lora --modules-to-save embed",
     "modules_to_save was null, is \"embed\""},
    {"--method lora", "--method lora --base-dtype bfloat16",
     "base_dtype was \"float32\", is \"bfloat16\""},
    {"--method lora", "", "method was \"lora\", is \"full\""},
    {"--method lora", "--method prefix", "method was \"lora\", is \"prefix\""},
    {"--method prefix", "--method prefix --num-virtual-tokens 7",
     "num_virtual_tokens was 20, is 7"},
    {"--method prefix", "--method prefix --prefix-projection",
     "prefix_projection was false, is true"},
    {"--method prefix --prefix-projection",
     "--method prefix --prefix-projection --encoder-hidden-size 9",
     "encoder_hidden_size was 0, is 9"},
    {"--method prompt", "--method prompt --prompt-tuning-init random",
     "prompt_tuning_init was \"vocab\", is \"random\""},
    {"--method prompt --prompt-tuning-init text --prompt-tuning-init-text one",
     "--method prompt --prompt-tuning-init text --prompt-tuning-init-text two",
     "prompt_tuning_init_text was \"one\", is \"two\""},
    {"--method prompt", "--method p-tuning", "method was \"prompt\", is \"p-tuning\""},
    {"", "--freeze-layers 1", "freeze_layers was 0, is 1"},
    {"", "--train c_attn", "train was null, is \"c_attn\""},
    {"--freeze c_attn", "--freeze c_fc", "freeze was \"c_attn\", is \"c_fc\""},
};

static void another_run_does_not_go_on(void **state)
{
    (void)state;
    const char *before = NULL;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const change *c = &changes[i];
        lt_train_result result;
        if (!before || strcmp(before, c->run) != 0) {
            lt_remove_tree(at("run"), NULL);
            stop_at = 1;
            train_well("run", on_base(RUN "%s", c->run), &stopper, &result);
            assert_true(result.interrupted);
        }
        before = c->run;
        refuse("run", on_base(RUN "%s", c->other), LT_ERR_USAGE, c->message);
        assert_int_equal(seen.starts, 0);
        bool is_last = i + 1 == sizeof changes / sizeof *changes;
        if (!is_last && strcmp(changes[i + 1].run, c->run) == 0) continue;
        watch("run", on_base(RUN "%s", c->run)); /* nothing of this has touched it */
        assert_int_equal(seen.step_count, 3);
    }
}

/* --- The plan ----------------------------------------------------------------------------------
 */

/* A model of 25 million parameters without its weights: a plan does not read them. */
static void make_weightless(void)
{
    static const char config[] =
        "{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"], \"n_embd\": 512,"
        "\"n_layer\": 8, \"n_head\": 8, \"n_positions\": 160, \"vocab_size\": 600}";
    lt_err err = {0};
    must(lt_make_directories(at("weightless"), &err), &err);
    must(lt_write_file(at("weightless/config.json"), config, strlen(config), &err), &err);
}

/* MB in the line of the memory table that starts so; -1: there is none. */
static double planned(const char *name)
{
    char line[64];
    for (const char *start = strstr(seen.setup, "memory "); start; start = strchr(start, '\n')) {
        start += *start == '\n';
        snprintf(line, sizeof line, "%-12s ", name);
        if (strlen(start) > 13 && strncmp(start + 13, line, strlen(line)) == 0)
            return strtod(start + 13 + strlen(line), NULL);
    }
    return -1;
}

static void assert_mb(const char *name, double wanted)
{
    if (fabs(planned(name) - wanted) > 0.06)
        fail_msg("%s: %.1f MB planned, not %.1f", name, planned(name), wanted);
}

static void plan(const char *words)
{
    char all[1024];
    snprintf(all, sizeof all, "--model %s --data %s --dry-run %s", at("weightless"),
             at("alpaca.h5"), words);
    watch("planned", all);
    assert_int_equal(seen.starts, 1);
    assert_int_equal(seen.step_count, 0);
    assert_false(lt_path_exists(at("planned")));
}

/* 8 blocks of 12 * 512^2 in matrices and 13 * 512 in vectors, 760 rows of embeddings, the last
 * norm. */
#define BASE_MB ((8 * (12 * 512.0 * 512 + 13 * 512) + 761 * 512.0 + 512) * 4 / 1e6)
/* A and B of all four matrices of a block at rank 8. */
#define LORA_MB (8 * 8 * (512 + 1536 + 512 + 512 + 512 + 2048 + 2048 + 512.0) * 4 / 1e6)

/* What is frozen has neither gradient nor state. */
static void the_plan_is_of_what_is_trained(void **state)
{
    (void)state;
    make_weightless();
    plan("");
    assert_mb("weights", BASE_MB);
    assert_mb("gradients", BASE_MB);
    assert_mb("optimizer", 2 * BASE_MB);
    assert_true(planned("adapter") < 0 && planned("frozen base") < 0);
    double activations = planned("activations");

    plan("--method lora");
    assert_mb("frozen base", BASE_MB);
    assert_mb("adapter", LORA_MB);
    assert_mb("gradients", LORA_MB);
    assert_mb("optimizer", 2 * LORA_MB);
    assert_true(planned("weights") < 0);
    assert_true(fabs(planned("activations") / activations - 1) < 0.2);
    assert_setup("; lora)");
    assert_setup("adapter      rank 8, alpha 16, dropout 0, on c_attn, c_fc, c_proj\n");
    assert_setup("trained      transformer.h.0-7.attn.c_attn.lora_A.weight ");
    assert_setup("transformer.h.0-7.mlp.c_proj.lora_B.weight ");
    assert_null(strstr(seen.setup, "layers.0"));

    plan("--method lora --base-dtype bfloat16");
    assert_true(planned("frozen base") < 0.51 * BASE_MB);
    assert_mb("adapter", LORA_MB);

    plan("--method lora --lora-target c_attn --layers-to-transform 0,4-6 --lora-r 4 --use-dora");
    assert_mb("gradients", 4 * (4 * (512 + 1536.0) + 1536) * 4 / 1e6);
    assert_setup("rank 4, alpha 16, DoRA, dropout 0, on c_attn\n");
    assert_setup("transformer.h.0,4-6.attn.c_attn.lora_A.weight ");
    assert_setup("transformer.h.0,4-6.attn.c_attn.lora_magnitude_vector ");

    plan("--method lora --use-rslora --modules-to-save embed,lm_head");
    assert_mb("gradients", LORA_MB + 2 * 600 * 512 * 4 / 1e6);
    assert_setup("alpha 16 (rslora), dropout 0, on c_attn, c_fc, c_proj; whole: wte, lm_head\n");

    plan("--method prefix --num-virtual-tokens 10");
    assert_mb("gradients", 10 * 2 * 8 * 512 * 4 / 1e6);
    assert_mb("optimizer", 2 * 10 * 2 * 8 * 512 * 4 / 1e6);
    assert_setup("adapter      10 virtual tokens\n");
    assert_setup("prompt_embeddings ");

    plan("--method prefix --num-virtual-tokens 10 --prefix-projection");
    assert_mb("gradients", (10 * 512 + 512 * 512 + 512 + 8192 * 512 + 8192.0) * 4 / 1e6);
    assert_setup("adapter      10 virtual tokens, through a projection\n");
    assert_setup("prompt_encoder.transform.2.weight ");

    plan("--method prefix --num-virtual-tokens 10 --prefix-projection --encoder-hidden-size 64");
    assert_mb("gradients", (10 * 512 + 64 * 512 + 64 + 8192 * 64 + 8192.0) * 4 / 1e6);

    plan("--method p-tuning --encoder-hidden-size 64");
    assert_mb("gradients", (20 * 512 + 512 * 64 + 64 + 64 * 64 + 64 + 64 * 512 + 512.0) * 4 / 1e6);
    assert_setup("prompt_encoder.mlp_head.4.weight ");

    plan("--freeze-layers 7");
    assert_mb("gradients", (12 * 512 * 512 + 15 * 512.0) * 4 / 1e6);
    assert_setup("embeddings and 7 layers frozen");
    assert_setup("trained      layers.7.attention.qkv.weight ");

    plan("--train c_attn.weight");
    assert_mb("gradients", 8 * 512 * 1536.0 * 4 / 1e6);
    assert_mb("optimizer", 2 * 8 * 512 * 1536.0 * 4 / 1e6);
    assert_setup("layers.0-7.attention.qkv.weight ");
}

static void servers_that_can_not_load_it_are_named(void **state)
{
    (void)state;
    plan("--method lora --lora-r 16");
    assert_string_equal(seen.messages, "");
    plan("--method lora --lora-r 17");
    assert_told("--max-lora-rank 17");
    plan("--method lora --use-dora");
    assert_told("can not load DoRA: merge it");
    plan("--method lora --modules-to-save embed --use-dora --lora-r 32");
    assert_told("modules_to_save");
    assert_told("can not load DoRA");
    assert_told("--max-lora-rank 32");
    plan("--method prefix");
    assert_told("a prefix adapter is served by Lathe and by PEFT");
    plan("--method p-tuning");
    assert_told("a p-tuning adapter is served by Lathe and by PEFT");
    plan("");
    assert_string_equal(seen.messages, "");
}

/* --- What is refused ---------------------------------------------------------------------------
 */

static void what_can_not_be_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *words, *reason;
        lt_status code;
    } cases[] = {
        {"--method lora --lora-target q_proj", "no module \"q_proj\"", LT_ERR_USAGE},
        {"--method lora --lora-target c_attn,c_atn", "did you mean \"c_attn\"", LT_ERR_USAGE},
        {"--method lora --lora-target wte", "--modules-to-save", LT_ERR_UNSUPPORTED},
        {"--method lora --lora-target h.9.attn.c_attn", "match no module", LT_ERR_USAGE},
        {"--method lora --lora-r 17", "rank 17 is larger than the matrix", LT_ERR_USAGE},
        {"--method lora --layers-to-transform 3", "3 blocks count from 0", LT_ERR_USAGE},
        {"--method lora --layers-to-transform 2-1", "is not a list of blocks", LT_ERR_USAGE},
        {"--method lora --layers-to-transform one", "is not a list of blocks", LT_ERR_USAGE},
        {"--method lora --modules-to-save c_fc", "embed (wte) and lm_head", LT_ERR_USAGE},
        {"--method prefix --num-virtual-tokens 0", "at least 1", LT_ERR_USAGE},
        {"--method prefix --num-virtual-tokens 160", "no room for text", LT_ERR_USAGE},
        {"--method prefix --num-virtual-tokens 159", "no room for text", LT_ERR_USAGE},
        {"--method prompt --num-virtual-tokens 60 --max-length 101",
         "100 positions that the model has behind the virtual tokens", LT_ERR_USAGE},
        {"--method prompt --prompt-tuning-init text", "needs the text", LT_ERR_USAGE},
        {"--method prompt --prompt-tuning-init-text x", "goes with --prompt-tuning-init text",
         LT_ERR_USAGE},
        {"--method prefix --encoder-hidden-size 4", "goes with --prefix-projection", LT_ERR_USAGE},
        {"--base-dtype bfloat16", "--base-dtype does not go with --method full", LT_ERR_USAGE},
        {"--lora-r 4", "--lora-r does not go with --method full; it is for lora", LT_ERR_USAGE},
        {"--use-dora", "--use-dora does not go with --method full", LT_ERR_USAGE},
        {"--num-virtual-tokens 3", "it is for prefix prompt p-tuning", LT_ERR_USAGE},
        {"--method lora --freeze-layers 1", "--freeze-layers does not go with --method lora",
         LT_ERR_USAGE},
        {"--method prefix --train wte", "--train does not go with --method prefix", LT_ERR_USAGE},
        {"--method p-tuning --prompt-tuning-init random", "it is for prompt", LT_ERR_USAGE},
        {"--method prompt --lora-target c_attn", "--lora-target does not go", LT_ERR_USAGE},
        {"--train nothing", "--train \"nothing\" finds no parameter", LT_ERR_USAGE},
        {"--freeze (", "--freeze: the regular expression \"(\" is wrong at", LT_ERR_USAGE},
        {"--freeze .", "nothing is left to be trained", LT_ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refuse("no", on_base("%s", cases[i].words), cases[i].code, cases[i].reason);
        assert_int_equal(seen.starts, 0);
        assert_false(lt_path_exists(at("no")));
    }
}

/* An option that would do nothing is a misunderstanding. */
static void options_of_another_method_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *option, *value, *methods; /* "," before and behind each */
    } options[] = {
        {"freeze-layers", "1", ",full,"},
        {"train", "wte", ",full,"},
        {"freeze", "wte", ",full,"},
        {"base-dtype", "bfloat16", ",lora,prefix,prompt,p-tuning,"},
        {"lora-r", "4", ",lora,"},
        {"lora-alpha", "4", ",lora,"},
        {"lora-dropout", "0.5", ",lora,"},
        {"lora-target", "attention", ",lora,"},
        {"layers-to-transform", "1", ",lora,"},
        {"use-rslora", "on", ",lora,"},
        {"use-dora", "on", ",lora,"},
        {"modules-to-save", "embed", ",lora,"},
        {"num-virtual-tokens", "4", ",prefix,prompt,p-tuning,"},
        {"prefix-projection", "on", ",prefix,"},
        {"encoder-hidden-size", "4", ",prefix,p-tuning,"},
        {"prompt-tuning-init", "random", ",prompt,"},
        {"prompt-tuning-init-text", "x", ",prompt,"},
    };
    static const char *const kinds[] = {"full", "lora", "prefix", "prompt", "p-tuning"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        for (int k = 0; k < 5; k++) {
            char word[32], message[96];
            snprintf(word, sizeof word, ",%s,", kinds[k]);
            if (strstr(options[i].methods, word)) continue;
            snprintf(message, sizeof message, "--%s does not go with --method %s",
                     options[i].option, kinds[k]);
            refuse("no",
                   on_base("--method %s --%s %s", kinds[k], options[i].option, options[i].value),
                   LT_ERR_USAGE, message);
        }
    }
    assert_false(lt_path_exists(at("no")));
}

/* The defaults of another method, as a saved train_config.yaml spells them out, are no mistake. */
static void defaults_of_other_methods_may_be_given(void **state)
{
    (void)state;
    watch("defaults", on_base("--dry-run --method prefix --lora-r 8 --lora-target all-linear "
                              "--lora-dropout 0 --no-use-dora --freeze-layers 0 "
                              "--prompt-tuning-init vocab"));
    assert_int_equal(seen.starts, 1);
}

/* --- Some rows only ----------------------------------------------------------------------------
 */

/* Tensors whose name in the file matches have changed, and no others. */
static void assert_changed(const char *words, const char *output, const char *pattern)
{
    lt_safetensors before, after;
    lt_regex *regex = NULL;
    lt_err err = {0};
    int changed = 0, same = 0;
    must(lt_regex_compile(pattern, false, "the test's pattern", &regex, &err), &err);
    must(lt_safetensors_open(at("%s/final/model.safetensors", output), &after, &err), &err);
    must(lt_safetensors_open(at("base/final/model.safetensors"), &before, &err), &err);
    assert_int_equal(before.count, after.count);
    for (size_t i = 0; i < before.count; i++) {
        const lt_safetensors_entry *was = &before.entries[i];
        const lt_safetensors_entry *is = lt_safetensors_find(&after, was->name);
        bool wanted = false;
        must(lt_regex_match(regex, was->name, &wanted, &err), &err);
        assert_non_null(is);
        assert_int_equal(is->size, was->size);
        bool equal = memcmp(was->data, is->data, was->size) == 0;
        if (equal == wanted)
            fail_msg("%s: %s is %s", words, was->name, equal ? "unchanged" : "changed");
        changed += !equal;
        same += equal;
    }
    if (changed == 0 || same == 0) fail_msg("%s: %d changed, %d same", words, changed, same);
    lt_regex_free(regex);
    lt_safetensors_close(&before);
    lt_safetensors_close(&after);
}

static void only_rows_that_match_are_trained(void **state)
{
    (void)state;
    static const struct {
        const char *words, *changed;
    } cases[] = {
        {"--train c_attn", "c_attn"},
        {"--train layers\\.[02]\\.mlp\\.", "h\\.[02]\\.mlp\\."},
        {"--train wte", "wte"},
        {"--train ^final_norm", "ln_f"},
        {"--freeze wte|wpe|ln_|c_proj", "c_attn|c_fc"},
        {"--freeze ^layers.*weight$", "bias|wte|wpe|ln_f"},
        {"--train h\\.[12]\\. --freeze bias", "h\\.[12]\\..*weight"},
        {"--freeze-layers 1 --train attn", "h\\.[12]\\.attn"},
        {"--freeze-layers 2 --freeze mlp\\.", "h\\.2\\.(attn|ln)|ln_f"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_train_result result;
        train_well("some", on_base(RUN "%s", cases[i].words), NULL, NULL);
        assert_changed(cases[i].words, "some", cases[i].changed);
        stop_at = 1 + (int64_t)i % 3;
        train_well("some-stopped", on_base(RUN "%s", cases[i].words), &stopper, &result);
        assert_true(result.interrupted);
        train_well("some-stopped", on_base(RUN "%s", cases[i].words), NULL, NULL);
        assert_same_file(at("some/final/model.safetensors"),
                         at("some-stopped/final/model.safetensors"));
        assert_same_file(at("some/checkpoint-4/optimizer.safetensors"),
                         at("some-stopped/checkpoint-4/optimizer.safetensors"));
        lt_remove_tree(at("some"), NULL);
        lt_remove_tree(at("some-stopped"), NULL);
    }
}

/* --- How a prompt begins -----------------------------------------------------------------------
 */

/* The table of a prompt after a step that changes nothing. Caller frees. */
static float *initial_table(const char *words, size_t *count)
{
    watch("begins", on_base("--method prompt --num-virtual-tokens 7 --max-steps 1 "
                            "--learning-rate 0 %s",
                            words));
    float *table =
        tensors_of(at("begins/final/adapter_model.safetensors"), "prompt_embeddings", count);
    assert_int_equal(*count, 7 * 16);
    lt_remove_tree(at("begins"), NULL);
    return table;
}

/* How many rows of the table are rows of the embedding; `ids` (or NULL): at least these. */
static int rows_of_embedding(const float *table, const int32_t *ids)
{
    size_t count;
    float *embedding = tensors_of(at("base/final/model.safetensors"), "transformer.wte", &count);
    int found = 0;
    for (int i = 0; i < 7; i++) {
        const float *row = table + (size_t)i * 16;
        bool is_one = false;
        for (size_t k = 0; k < count / 16 && !is_one; k++)
            is_one = memcmp(row, embedding + k * 16, 16 * sizeof *row) == 0;
        found += is_one;
        if (ids) assert_memory_equal(row, embedding + (size_t)ids[i] * 16, 16 * sizeof *row);
    }
    free(embedding);
    return found;
}

static void a_prompt_begins_as_it_is_told(void **state)
{
    (void)state;
    static const char text[] = "What?";
    lt_err err = {0};
    lt_tokenizer *tokenizer = NULL;
    lt_encoder *encoder = NULL;
    lt_ids ids = {0};
    int32_t repeated[7];
    size_t count;
    must(lt_tokenizer_load(FIXTURE_TOKENIZER, &tokenizer, &err), &err);
    must(lt_encoder_create(tokenizer, &encoder, &err), &err);
    must(lt_encode(encoder, text, strlen(text), LT_ENCODE_ADD_SPECIAL, &ids, &err), &err);
    assert_true(ids.count > 1 && ids.count < 7);
    for (size_t i = 0; i < 7; i++)
        repeated[i] = ids.data[i % ids.count];

    float *random = initial_table("--prompt-tuning-init random", &count);
    float *vocab = initial_table("--prompt-tuning-init vocab", &count);
    float *other = initial_table("--seed 7", &count);
    float *told =
        initial_table("--prompt-tuning-init text --prompt-tuning-init-text What?", &count);
    assert_int_equal(rows_of_embedding(random, NULL), 0);
    assert_int_equal(rows_of_embedding(vocab, NULL), 7);
    assert_int_equal(rows_of_embedding(other, NULL), 7);
    assert_int_equal(rows_of_embedding(told, repeated), 7);
    assert_memory_not_equal(vocab, other, count * sizeof *vocab);
    free(random);
    free(vocab);
    free(other);
    free(told);
    lt_ids_free(&ids);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
}

/* --- Operations --------------------------------------------------------------------------------
 */

/* Frozen matrices have no gradient of their own, blocks below the lowest trained one none at all;
 * virtual tokens are seen by every token. */
static void operations_are_those_that_are_needed(void **state)
{
    (void)state;
    const double layers = 3, block = 12.0 * 16 * 16, vocab = 600, hidden = 16;
    static const char run[] = "--max-steps 1 --eval-steps 9 ";
    watch("counted", on_base("%s", run));
    const lt_step_info *step = &seen.steps[0];
    double tokens = (double)step->input_tokens, trained = (double)step->trained_tokens;
    double matrices = layers * block * tokens, head = vocab * hidden * trained;
    /* what attention takes: three times for each block, forward and twice backward */
    double attention = (step->flops - 6 * matrices - 6 * head) / (3 * layers);
    assert_true(attention > 0);
    const struct {
        const char *words;
        double flops;
    } cases[] = {
        {"--freeze-layers 2", (2 * 2 + 6) / 3.0 * matrices + 4 * head + 5 * attention},
        {"--method lora --lora-r 1 --lora-target c_fc",
         4 * matrices + 6 * layers * (16 + 64) * tokens + 4 * head + 9 * attention},
        {"--method lora --lora-r 2 --lora-target c_fc --layers-to-transform 1-2",
         (2 + 2 * 4) / 3.0 * matrices + 6 * 2 * 2 * (16 + 64) * tokens + 4 * head + 7 * attention},
        {"--method lora --lora-r 1 --lora-target c_fc --modules-to-save lm_head",
         4 * matrices + 6 * layers * (16 + 64) * tokens + 6 * head + 9 * attention},
        {"--method prefix --num-virtual-tokens 5",
         4 * matrices + 4 * head + 9 * (attention + 4 * hidden * 5 * tokens)},
        {"--method p-tuning --num-virtual-tokens 5",
         4 * matrices + 4 * head + 9 * (attention + 4 * hidden * 5 * tokens)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_remove_tree(at("counted"), NULL);
        watch("counted", on_base("%s%s", run, cases[i].words));
        if (fabs(seen.steps[0].flops / cases[i].flops - 1) > 1e-9)
            fail_msg("%s: %.0f operations, not %.0f", cases[i].words, seen.steps[0].flops,
                     cases[i].flops);
    }
}

/* --- Number types ------------------------------------------------------------------------------
 */

/* A base that is bf16 on file is held without loss: the same adapter as beside its f32 twin, up to
 * the order in which products are summed. */
static void a_base_in_half_the_memory_trains_the_same(void **state)
{
    (void)state;
    char words[600];
    snprintf(words, sizeof words,
             "--data %s --max-steps 40 --learning-rate 1e-2 --save-dtype "
             "bfloat16",
             at("alpaca.h5"));
    train_well("small", words, NULL, NULL);
    for (int half = 0; half < 2; half++) {
        snprintf(words, sizeof words, RUN "--method lora --data %s --model %s --base-dtype %s",
                 at("alpaca.h5"), at("small/final"), half ? "bfloat16" : "float32");
        watch(half ? "in-half" : "in-full", words);
        if (half) assert_setup("frozen base");
    }
    double d = distance(at("in-full/final/adapter_model.safetensors"),
                        at("in-half/final/adapter_model.safetensors"), "");
    if (d > 1e-3) fail_msg("the adapters differ by %g", d);
}

/* --- Tokens that the model has no rows for -----------------------------------------------------
 */

static const char *on_new_tokens(const char *words)
{
    static char text[1024];
    snprintf(text, sizeof text, "--model %s --data %s %s", at("model"), at("data.h5"), words);
    return text;
}

static int64_t rows_of(const lt_safetensors *file, const char *name)
{
    const lt_safetensors_entry *entry = lt_safetensors_find(file, name);
    if (!entry) fail_msg("%s has no %s", file->path, name);
    return entry->shape[0];
}

/* Answers a question with the adapter; the tokenizer is the adapter's. */
static void ask(const char *adapter)
{
    lt_err err = {0};
    lt_assistant assistant;
    lt_backend *backend = fixture_backend();
    const lt_adapter_source source = {"mine", adapter};
    must(lt_assistant_open(at("model"), &source, 1, backend, &assistant, &err), &err);
    assert_int_equal(assistant.model->config.vocab_size,
                     lt_tokenizer_vocab_size(assistant.tokenizer));
    assert_true(assistant.notes.has_template && assistant.notes.template_ == LT_TEMPLATE_DOLLY);
    const lt_prompt prompt = {.instruction = "What is next to amber?",
                              .adapter = assistant.model->adapters[0]};
    const lt_answer_settings settings = {.max_new_tokens = 20};
    lt_answer answer = {0};
    must(lt_assistant_answer(&assistant, &prompt, 1, &settings, NULL, NULL, &answer, &err), &err);
    assert_string_equal(lt_buffer_text(&answer.text), "birch");
    assert_int_equal(answer.finish, LT_FINISH_STOP);
    lt_answer_free(&answer);
    lt_assistant_close(&assistant);
    lt_backend_free(backend);
}

static void new_tokens_are_trained_beside_lora(void **state)
{
    (void)state;
    lt_safetensors file;
    lt_err err = {0};
    static const char words[] =
        "--method lora --max-steps 140 --learning-rate 2e-2 --eval-steps 70 "
        "--save-steps 70 --save-total-limit 0";
    watch("tokens", on_new_tokens(words));
    assert_told("no rows for 3 special tokens");
    assert_told("--modules-to-save embed,lm_head");
    assert_told("modules_to_save (embedding or head rows)");
    assert_setup("grown by 3 vocabulary rows");
    assert_setup("whole: wte, lm_head");
    must(lt_safetensors_open(at("tokens/final/adapter_model.safetensors"), &file, &err), &err);
    assert_int_equal(rows_of(&file, "base_model.model.transformer.wte.weight"), 603);
    assert_int_equal(rows_of(&file, "base_model.model.lm_head.weight"), 603);
    lt_safetensors_close(&file);
    ask(at("tokens/final"));
    stop_at = 73;
    train_well("tokens-stopped", on_new_tokens(words), &stopper, NULL);
    train_well("tokens-stopped", on_new_tokens(words), NULL, NULL);
    assert_same_file(at("tokens/final/adapter_model.safetensors"),
                     at("tokens-stopped/final/adapter_model.safetensors"));

    /* who asks for it is not told */
    watch("asked", on_new_tokens("--dry-run --method lora --modules-to-save embed,lm_head"));
    assert_null(strstr(seen.messages, "no rows for"));
    watch("in-bf16", on_new_tokens("--method lora --base-dtype bfloat16 --max-steps 2"));
    assert_true(seen.steps[1].taken);
    /* a model that has the rows needs none of this */
    watch("grown", on_new_tokens("--max-steps 1"));
    char again[600];
    snprintf(again, sizeof again, "--dry-run --method lora --model %s", at("grown/final"));
    watch("asked", again);
    assert_string_equal(seen.messages, "");
}

static void new_tokens_are_refused_beside_virtual_ones(void **state)
{
    (void)state;
    static const char *const kinds[] = {"prefix", "prompt", "p-tuning"};
    char words[64];
    for (int i = 0; i < 3; i++) {
        snprintf(words, sizeof words, "--method %s", kinds[i]);
        refuse("refused", on_new_tokens(words), LT_ERR_USAGE, "3 special tokens");
        refuse("refused", on_new_tokens(words), LT_ERR_USAGE, "--template alpaca");
        refuse("refused", on_new_tokens(words), LT_ERR_USAGE, "--method lora");
        assert_false(lt_path_exists(at("refused")));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_run_does_not_go_on),
        cmocka_unit_test(the_plan_is_of_what_is_trained),
        cmocka_unit_test(servers_that_can_not_load_it_are_named),
        cmocka_unit_test(what_can_not_be_is_refused),
        cmocka_unit_test(options_of_another_method_are_refused),
        cmocka_unit_test(defaults_of_other_methods_may_be_given),
        cmocka_unit_test(only_rows_that_match_are_trained),
        cmocka_unit_test(a_prompt_begins_as_it_is_told),
        cmocka_unit_test(operations_are_those_that_are_needed),
        cmocka_unit_test(a_base_in_half_the_memory_trains_the_same),
        cmocka_unit_test(new_tokens_are_trained_beside_lora),
        cmocka_unit_test(new_tokens_are_refused_beside_virtual_ones),
    };
    return cmocka_run_group_tests(tests, adapter_setup, fixture_teardown);
}
