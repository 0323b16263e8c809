/* Adapters in PEFT's files: what is saved is loaded to the bit, what PEFT wrote is written again,
 * other spellings are read. With real assets: an adapter from the Hub. */
#include "adapters.h"
#include "base/json.h"
#include "files.h"
#include "model/formats/numbers.h"

enum { ROWS = 2, LENGTH = 9 };

static test_batch some_batch(const lt_model *model)
{
    return random_batch(ROWS, LENGTH, model->config.vocab_size, 6);
}

/* The active adapters of two models give the same logits, bit for bit. */
static void check_same_logits(const char *what, const lt_model *a, const lt_model *b)
{
    test_batch batch = some_batch(a);
    size_t bytes = (size_t)(ROWS * LENGTH * a->config.vocab_size) * sizeof(float);
    float *x = logits_of(a, &batch.batch), *y = logits_of(b, &batch.batch);
    if (memcmp(x, y, bytes) != 0) fail_msg("%s: logits differ", what);
    free(x);
    free(y);
    free_batch(&batch);
}

/* --- There and back --------------------------------------------------------------------------- */

static void check_same_config(const lt_adapter *before, const lt_adapter *after)
{
    const lt_adapter_config *a = lt_adapter_config_of(before), *b = lt_adapter_config_of(after);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(lt_adapter_virtual_tokens(before), lt_adapter_virtual_tokens(after));
    if (a->kind != LT_ADAPTER_LORA) return;
    assert_true(a->r == b->r && a->lora_alpha == b->lora_alpha);
    assert_true(a->lora_dropout == b->lora_dropout);
    assert_true(a->use_rslora == b->use_rslora && a->use_dora == b->use_dora);
    assert_int_equal(a->target_modules.count, b->target_modules.count);
    for (size_t i = 0; i < a->target_modules.count; i++)
        assert_string_equal(a->target_modules.items[i], b->target_modules.items[i]);
    assert_int_equal(a->modules_to_save.count, b->modules_to_save.count);
}

/* Saved, then loaded for use, then (from the files with its state) for more training. */
static void check_there_and_back(const char *base, const adapter_case *c)
{
    char what[128];
    snprintf(what, sizeof what, "%s, %s", base, c->name);
    lt_model *model = load_golden(base, NULL, backend), *used = load_golden(base, NULL, backend);
    lt_model *resumed = load_golden(base, NULL, backend);
    lt_adapter *adapter = random_adapter(model, c, "first", 3), *loaded, *again;
    bool network = adapter->encoder.stages > 0;
    const char *directory = new_directory("adapter");
    assert_true(!lt_is_adapter_directory(directory));
    OK(lt_adapter_save(model, adapter, directory, LT_F32, true, err));
    assert_true(lt_is_adapter_directory(directory));
    assert_int_equal(lt_path_exists(scratch_path("adapter", LT_ENCODER_FILE)), network);

    OK(lt_adapter_load(used, directory, "second", &loaded, err));
    assert_int_equal(lt_model_parameter_count(used, true), 0);
    assert_ptr_equal(used->active, loaded);
    assert_int_equal(lt_adapter_file_dtype(loaded), LT_F32);
    check_same_config(adapter, loaded);
    if (!network) check_same_rows(model, adapter, used, loaded);
    check_same_logits(what, model, used);

    again = fresh_adapter(resumed, c, "third", 4);
    OK(lt_adapter_restore(resumed, again, directory, err));
    check_same_rows(model, adapter, resumed, again);
    check_same_logits(what, model, resumed);

    const char *copy = new_directory("copy");
    OK(lt_adapter_save(model, adapter, copy, LT_F32, false, err));
    assert_false(lt_path_exists(scratch_path("copy", LT_ENCODER_FILE)));
    check_same_file(scratch_path("adapter", LT_ADAPTER_FILE),
                    scratch_path("copy", LT_ADAPTER_FILE));
    OK(lt_adapter_save(used, loaded, copy, LT_F32, true, err));
    check_same_file(scratch_path("adapter", LT_ADAPTER_FILE),
                    scratch_path("copy", LT_ADAPTER_FILE));
    lt_model_free(model);
    lt_model_free(used);
    lt_model_free(resumed);
}

static void test_there_and_back(void **state)
{
    (void)state;
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int i = 0; i < ADAPTER_CASES; i++)
            check_there_and_back(adapter_bases[m], &adapter_cases[i]);
}

static json_t *saved_config(const char *name)
{
    json_t *config;
    OK(lt_json_load(scratch_path(name, LT_ADAPTER_CONFIG), &config, err));
    return config;
}

/* Everything that a configuration can say is in the file, and stays there when that is read. */
static void check_saved_config(const lt_adapter_config *config, const char *const *lines)
{
    lt_model *model = load_golden("gpt2", NULL, backend),
             *other = load_golden("gpt2", NULL, backend);
    lt_adapter *adapter, *again;
    OK(lt_adapter_create(model, config, "first", 1, &adapter, err));
    OK(lt_adapter_save(model, adapter, new_directory("said"), LT_F32, false, err));
    OK(lt_adapter_load(other, scratch_path("said", NULL), "again", &again, err));
    OK(lt_adapter_save(other, again, new_directory("copy"), LT_F32, false, err));
    json_t *said = saved_config("said"), *copy = saved_config("copy"), *expected;
    if (!json_equal(said, copy)) fail_msg("the configuration changes when it is read");
    for (; *lines; lines++) {
        const char *key;
        json_t *value;
        OK(lt_json_parse(*lines, strlen(*lines), "the test", &expected, err));
        json_object_foreach(expected, key, value)
        {
            if (!json_equal(json_object_get(said, key), value)) fail_msg("not %s", *lines);
        }
        json_decref(expected);
    }
    json_decref(said);
    json_decref(copy);
    lt_model_free(model);
    lt_model_free(other);
}

static void test_configurations(void **state)
{
    (void)state;
    int64_t layers[] = {1};
    lt_model *gpt2 = load_golden("gpt2", NULL, backend);
    lt_adapter_config c = config_of(gpt2, case_named("saved embed"));
    lt_model_free(gpt2);
    c.layers_to_transform = layers;
    c.layers_to_transform_count = 1;
    c.lora_dropout = 0.25;
    c.lora_alpha = 4.5;
    c.rank_pattern = json_pack("{s:i}", "c_fc", 2);
    c.alpha_pattern = json_pack("{s:i}", "c_proj", 7);
    OK(lt_string_list_add(&c.exclude_modules, "c_attn", err));
    OK(lt_copy_string("org/base", &c.base_model, err));
    check_saved_config(
        &c, (const char *const[]){
                "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": 3}",
                "{\"base_model_name_or_path\": \"org/base\", \"inference_mode\": true}",
                "{\"lora_alpha\": 4.5, \"lora_dropout\": 0.25, \"bias\": \"none\"}",
                "{\"layers_to_transform\": [1], \"exclude_modules\": [\"c_attn\"]}",
                "{\"rank_pattern\": {\"c_fc\": 2}, \"alpha_pattern\": {\"c_proj\": 7}}",
                "{\"target_modules\": [\"attn.c_proj\", \"c_fc\"], \"fan_in_fan_out\": true}",
                "{\"modules_to_save\": [\"wte\"], \"use_dora\": false}", NULL});
    c.layers_to_transform = NULL;
    lt_adapter_config_free(&c);

    c = (lt_adapter_config){
        .kind = LT_ADAPTER_PROMPT, .num_virtual_tokens = 2, .prompt_init = LT_PROMPT_VOCAB};
    check_saved_config(
        &c, (const char *const[]){"{\"prompt_tuning_init\": \"SAMPLE_VOCAB\"}",
                                  "{\"prompt_tuning_init_text\": null, \"token_dim\": 16}", NULL});
    c.prompt_init = LT_PROMPT_TEXT;
    OK(lt_ids_push(&c.prompt_init_ids, 3, err));
    OK(lt_copy_string("Is it?", &c.prompt_init_text, err));
    OK(lt_copy_string("org/words", &c.tokenizer_name, err));
    check_saved_config(&c,
                       (const char *const[]){"{\"prompt_tuning_init\": \"TEXT\"}",
                                             "{\"prompt_tuning_init_text\": \"Is it?\"}",
                                             "{\"tokenizer_name_or_path\": \"org/words\"}", NULL});
    lt_adapter_config_free(&c);
    /* the networks' width is by default what comes out of them for a layer */
    c = (lt_adapter_config){
        .kind = LT_ADAPTER_PREFIX, .num_virtual_tokens = 2, .prefix_projection = true};
    check_saved_config(&c, (const char *const[]){"{\"encoder_hidden_size\": 16}",
                                                 "{\"prefix_projection\": true}", NULL});
    c.kind = LT_ADAPTER_P_TUNING;
    check_saved_config(&c, (const char *const[]){"{\"encoder_hidden_size\": 16}",
                                                 "{\"peft_type\": \"P_TUNING\"}", NULL});
}

/* Loading another one changes neither rows nor use of the first. */
static void test_second_adapter(void **state)
{
    (void)state;
    lt_model *alone = load_golden("llama", NULL, backend);
    lt_model *both = load_golden("llama", NULL, backend);
    load_adapter(alone, "llama_dora", "first");
    lt_adapter *first = load_adapter(both, "llama_dora", "first");
    lt_adapter *second = load_adapter(both, "llama_prefix", "second");
    assert_ptr_equal(both->active, first);
    assert_ptr_equal(lt_adapter_find(both, "second"), second);
    assert_null(lt_adapter_find(both, "third"));
    check_same_rows(alone, alone->adapters[0], both, first);
    check_same_logits("beside another", alone, both);
    lt_model_free(alone);
    lt_model_free(both);
}

/* Half types are rounded once; what was read in bf16 is written in bf16 to the byte. */
static void test_half_files(void **state)
{
    (void)state;
    static const lt_dtype types[] = {LT_BF16, LT_F16};
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < ADAPTER_CASES; i++) {
            lt_model *a = load_golden("gpt_neox", NULL, backend);
            lt_model *b = load_golden("gpt_neox", NULL, backend);
            lt_adapter *x = random_adapter(a, &adapter_cases[i], "x", 3), *y;
            OK(lt_adapter_save(a, x, new_directory("half"), types[t], false, err));
            OK(lt_adapter_load(b, scratch_path("half", NULL), "y", &y, err));
            assert_int_equal(lt_adapter_file_dtype(y), types[t]);
            OK(lt_adapter_save(b, y, new_directory("copy"), types[t], false, err));
            check_same_file(scratch_path("half", LT_ADAPTER_FILE),
                            scratch_path("copy", LT_ADAPTER_FILE));
            for (int p = 0; x->encoder.stages == 0 && p < x->param_count; p++) {
                lt_tensor w = a->params[x->first_param + p].weight;
                lt_tensor read = b->params[y->first_param + p].weight;
                for (int64_t k = 0; k < lt_tensor_count(w); k++) {
                    double step = fabs(element(w, k)) * (types[t] == LT_BF16 ? 0x1p-8 : 0x1p-11);
                    assert_true(fabs(element(w, k) - element(read, k)) <= step + 0x1p-25);
                }
            }
            lt_model_free(a);
            lt_model_free(b);
        }
}

/* A file in bf16 but for one tensor counts as bf16. */
static void test_mixed_file(void **state)
{
    (void)state;
    static const char odd[] = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight";
    lt_model *model = load_golden("gpt2", NULL, backend),
             *other = load_golden("gpt2", NULL, backend);
    lt_adapter *adapter = load_adapter(model, "gpt2_lora", "loaded"), *mixed;
    OK(lt_adapter_save(model, adapter, new_directory("mixed"), LT_BF16, false, err));
    OK(lt_adapter_save(model, adapter, new_directory("half"), LT_BF16, false, err));
    edited e = edit_file(scratch_path("half", LT_ADAPTER_FILE));
    edited f32 = edit_file(adapter_path("gpt2_lora", LT_ADAPTER_FILE));
    for (size_t i = 0; i < e.count; i++)
        e.tensors[i].dtype = LT_BF16;
    e.tensors[find_edited(&e, odd)].dtype = LT_F32;
    e.data[find_edited(&e, odd)] = f32.data[find_edited(&f32, odd)];
    write_edited(&e, scratch_path("mixed", LT_ADAPTER_FILE));
    lt_safetensors_close(&f32.file);
    OK(lt_adapter_load(other, scratch_path("mixed", NULL), "mixed", &mixed, err));
    assert_int_equal(lt_adapter_file_dtype(mixed), LT_BF16);
    lt_model_free(model);
    lt_model_free(other);
}

/* --- PEFT's own files ------------------------------------------------------------------------- */

/* clang-format off */
static const struct { const char *name, *base; } golden_adapters[] = {
    {"gpt2_dora", "gpt2"},
    {"gpt2_lora", "gpt2"},
    {"gpt2_lora_old", "gpt2"},
    {"gpt2_lora_rslora", "gpt2"},
    {"gpt2_lora_saved", "gpt2"},
    {"gpt2_p_tuning", "gpt2"},
    {"gpt2_prefix", "gpt2"},
    {"gpt2_prefix_projection", "gpt2"},
    {"gpt2_prompt", "gpt2"},
    {"gpt_neox_dora", "gpt_neox"},
    {"gpt_neox_lora", "gpt_neox"},
    {"gpt_neox_p_tuning", "gpt_neox"},
    {"gpt_neox_prefix", "gpt_neox"},
    {"gpt_neox_prefix_projection", "gpt_neox"},
    {"gpt_neox_prompt", "gpt_neox"},
    {"gpt_neox_rslora", "gpt_neox"},
    {"llama_dora", "llama"},
    {"llama_lora", "llama"},
    {"llama_lora_patterns", "llama"},
    {"llama_lora_saved", "llama"},
    {"llama_p_tuning", "llama"},
    {"llama_prefix", "llama"},
    {"llama_prefix_projection", "llama"},
    {"llama_prompt", "llama"},
    {"llama_rslora", "llama"},
};
/* clang-format on */

/* What is written of adapter_config.json has PEFT's values; in order, so that a diff is short. */
static void check_config(const char *name, const char *ours)
{
    json_t *written, *original, *value;
    const char *key, *last = "";
    OK(lt_json_load(ours, &written, err));
    OK(lt_json_load(adapter_path(name, LT_ADAPTER_CONFIG), &original, err));
    json_object_foreach(written, key, value)
    {
        const json_t *theirs = json_object_get(original, key);
        assert_true(strcmp(last, key) < 0);
        last = key;
        bool same = json_is_number(value) ? json_number_value(value) == json_number_value(theirs)
                                          : json_equal(value, theirs);
        if (theirs && !same) fail_msg("%s: %s differs", name, key);
    }
    /* nothing that is set gets lost, but for the program's own mark and keys of no effect */
    static const char *const dropped[] = {"peft_version", "qalora_group_size"};
    json_object_foreach(original, key, value)
    {
        bool set = !json_is_null(value) && !json_is_false(value) &&
                   (!json_is_object(value) || json_object_size(value) > 0);
        for (int i = 0; i < 2; i++)
            set = set && strcmp(key, dropped[i]) != 0;
        if (set && !json_object_get(written, key)) fail_msg("%s: %s is lost", name, key);
    }
    json_decref(written);
    json_decref(original);
}

static void test_written_again(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof golden_adapters / sizeof *golden_adapters; i++) {
        const char *name = golden_adapters[i].name;
        lt_model *model = load_golden(golden_adapters[i].base, NULL, backend);
        lt_adapter *adapter = load_adapter(model, name, "loaded");
        OK(lt_adapter_save(model, adapter, new_directory("again"), LT_F32, false, err));
        check_same_file(adapter_path(name, LT_ADAPTER_FILE),
                        scratch_path("again", LT_ADAPTER_FILE));
        check_config(name, scratch_path("again", LT_ADAPTER_CONFIG));
        lt_model_free(model);
    }
}

/* In memory B follows [q; k; v], in files GPT-NeoX's [q, k, v of head 0; of head 1; ...]. */
static void test_neox_rows(void **state)
{
    (void)state;
    static const char *const ends[] = {"lora_B.weight", "lora_magnitude_vector"};
    lt_model *model = load_golden("gpt_neox", NULL, backend);
    const lt_adapter *adapter = load_adapter(model, "gpt_neox_dora", "loaded");
    int64_t d = model->config.head_dim, heads = model->config.num_attention_heads;
    lt_safetensors file;
    OK(lt_safetensors_open(adapter_path("gpt_neox_dora", LT_ADAPTER_FILE), &file, err));
    for (int e = 0; e < 2; e++) {
        char name[96], key[128];
        snprintf(name, sizeof name, "gpt_neox.layers.1.attention.query_key_value.%s", ends[e]);
        snprintf(key, sizeof key, "base_model.model.%s", name);
        const lt_safetensors_entry *entry = lt_safetensors_find(&file, key);
        const lt_param *row = lt_model_param(model, name);
        assert_true(row && entry && row->adapter == adapter->index);
        int64_t columns = e ? 1 : row->shape[1];
        for (int64_t i = 0; i < 3 * heads * d * columns; i++) {
            int64_t at = i / columns, which = at / (heads * d), head = at / d % heads;
            int64_t place = ((head * 3 + which) * d + at % d) * columns + i % columns;
            float value;
            OK(lt_safetensors_read_f32(&file, entry, place, 1, &value, err));
            assert_true(element(row->weight, i) == value);
        }
    }
    lt_safetensors_close(&file);
    lt_model_free(model);
}

/* --- Other spellings -------------------------------------------------------------------------- */

/* Puts `insert` in front of the last `keep` characters of the names that end so. */
static void respell(edited *e, const char *end, size_t keep, const char *insert, lt_buffer names[])
{
    for (size_t i = 0; i < e->count; i++) {
        const char *name = e->tensors[i].name;
        size_t length = strlen(name), tail = strlen(end);
        if (length < tail || strcmp(name + length - tail, end) != 0) continue;
        OK(lt_buffer_printf(&names[i], err, "%.*s%s%s", (int)(length - keep), name, insert,
                            name + length - keep));
        e->tensors[i].name = names[i].data;
    }
}

static void check_spelling(const char *base, const char *name, const char *end, size_t keep,
                           const char *insert)
{
    lt_buffer names[64] = {{0}};
    edited e = edit_file(adapter_path(name, LT_ADAPTER_FILE));
    respell(&e, end, keep, insert, names);
    const char *directory = new_directory("spelled");
    write_edited(&e, scratch_path("spelled", LT_ADAPTER_FILE));
    OK(lt_copy_file(adapter_path(name, LT_ADAPTER_CONFIG),
                    scratch_path("spelled", LT_ADAPTER_CONFIG), err));
    lt_model *a = load_golden(base, NULL, backend), *b = load_golden(base, NULL, backend);
    lt_adapter *x = load_adapter(a, name, "as PEFT"), *y;
    OK(lt_adapter_load(b, directory, "spelled", &y, err));
    check_same_rows(a, x, b, y);
    lt_model_free(a);
    lt_model_free(b);
    for (int i = 0; i < 64; i++)
        lt_buffer_free(&names[i]);
}

/* As state dicts in memory have them, which some tools write as they are. */
static void test_spellings(void **state)
{
    (void)state;
    const size_t weight = strlen(".weight");
    check_spelling("llama", "llama_lora", "lora_A.weight", weight, ".default");
    check_spelling("llama", "llama_lora", "lora_B.weight", weight, ".default");
    check_spelling("llama", "llama_dora", "lora_magnitude_vector", 0, ".weight");
    check_spelling("llama", "llama_dora", "lora_magnitude_vector", 0, ".default.weight");
    check_spelling("gpt2", "gpt2_lora_saved", "wte.weight", weight, ".modules_to_save");
    check_spelling("gpt2", "gpt2_lora_saved", "lm_head.weight", weight, ".modules_to_save.default");
}

/* GPT-NeoX's head has two names: lm_head in today's class, embed_out in files and older ones. */
static void test_neox_head(void **state)
{
    (void)state;
    lt_model *a = load_golden("gpt_neox", NULL, backend),
             *b = load_golden("gpt_neox", NULL, backend);
    lt_adapter *x = random_adapter(a, case_named("saved both"), "x", 3), *y;
    OK(lt_adapter_save(a, x, new_directory("now"), LT_F32, false, err));
    edited e = edit_file(scratch_path("now", LT_ADAPTER_FILE));
    e.tensors[find_edited(&e, "base_model.model.lm_head.weight")].name =
        "base_model.model.embed_out.weight";
    new_directory("then");
    write_edited(&e, scratch_path("then", LT_ADAPTER_FILE));
    json_t *config;
    OK(lt_json_load(scratch_path("now", LT_ADAPTER_CONFIG), &config, err));
    json_t *saved = json_pack("[s, s]", "embed_in", "embed_out");
    json_object_set_new(config, "modules_to_save", saved);
    OK(lt_json_write_file(scratch_path("then", LT_ADAPTER_CONFIG), config, err));
    json_decref(config);
    OK(lt_adapter_load(b, scratch_path("then", NULL), "y", &y, err));
    check_same_rows(a, x, b, y);
    lt_model_free(a);
    lt_model_free(b);
}

/* A module that modules_to_save names twice is saved once. */
static void test_saved_twice(void **state)
{
    (void)state;
    lt_model *a = load_golden("gpt2", NULL, backend), *b = load_golden("gpt2", NULL, backend);
    lt_adapter *x = random_adapter(a, case_named("saved embed"), "x", 3), *y;
    OK(lt_adapter_save(a, x, new_directory("twice"), LT_F32, false, err));
    json_t *config;
    OK(lt_json_load(scratch_path("twice", LT_ADAPTER_CONFIG), &config, err));
    json_t *saved = json_pack("[s, s]", "wte", "transformer.wte");
    json_object_set_new(config, "modules_to_save", saved);
    OK(lt_json_write_file(scratch_path("twice", LT_ADAPTER_CONFIG), config, err));
    json_decref(config);
    OK(lt_adapter_load(b, scratch_path("twice", NULL), "y", &y, err));
    check_same_rows(a, x, b, y);
    OK(lt_adapter_save(b, y, new_directory("copy"), LT_F32, false, err));
    check_same_file(scratch_path("twice", LT_ADAPTER_FILE), scratch_path("copy", LT_ADAPTER_FILE));
    lt_model_free(a);
    lt_model_free(b);
}

/* --- Inspection ------------------------------------------------------------------------------- */

static void check_inspection(const char *directory, lt_status expected, const char *const words[3])
{
    char *text = NULL;
    size_t size;
    lt_err err = {0};
    FILE *out = open_memstream(&text, &size);
    assert_int_equal(lt_inspect_adapter(directory, true, out, &err), expected);
    fclose(out);
    if (expected != LT_OK) assert_int_equal(size, 0);
    for (int i = 0; i < 3; i++)
        if (!strstr(expected == LT_OK ? text : err.message, words[i]))
            fail_msg("'%s' or '%s' should say '%s'", text, err.message, words[i]);
    free(text);
}

/* What an adapter is, without its base. */
static void test_inspection(void **state)
{
    (void)state;
    check_inspection(
        adapter_path("llama_lora_patterns", NULL), LT_OK,
        (const char *const[]){"lora", "down_proj", "layers.1.self_attn.q_proj.lora_A.weight"});
    check_inspection(adapter_path("gpt2_dora", NULL), LT_OK,
                     (const char *const[]){"lora", "c_attn", "lora_magnitude_vector"});
    check_inspection(adapter_path("gpt2_prefix", NULL), LT_OK,
                     (const char *const[]){"prefix", "5", "prompt_embeddings"});
    check_inspection(new_directory("nothing"), LT_ERR_IO,
                     (const char *const[]){"nothing", "no adapter", LT_ADAPTER_CONFIG});
}

/* --- From the Hub ----------------------------------------------------------------------------- */

static lt_model *gpt2_small(void)
{
    lt_model_shape shape = {.preset = "gpt2-124m",
                            .vocab_size = 50257,
                            .bos_token_id = 50256,
                            .eos_token_id = 50256,
                            .pad_token_id = -1};
    return new_model(&shape, 1, backend);
}

static void test_real_adapter(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    char path[1024];
    snprintf(path, sizeof path, "%s/adapters/gpt2-lora-tigrinya", assets ? assets : "");
    if (!assets || !lt_is_adapter_directory(path)) {
        print_message("skipped: LATHE_TEST_ASSETS is not set or has no adapter\n");
        skip();
    }
    lt_model *model = gpt2_small();
    lt_adapter *adapter = NULL;
    test_batch b = some_batch(model);
    int64_t n = ROWS * LENGTH * model->config.vocab_size;
    float *before = logits_of(model, &b.batch);
    OK(lt_adapter_load(model, path, "tigrinya", &adapter, err));
    /* c_attn, and c_proj of both halves: A and B of each in 12 blocks */
    assert_int_equal(adapter->param_count, 12 * 3 * 2);
    assert_string_equal(lt_adapter_config_of(adapter)->base_model, "gpt2");
    float *after = logits_of(model, &b.batch);
    assert_true(largest_difference(before, after, n) > 1e-3);
    OK(lt_adapter_save(model, adapter, new_directory("real"), LT_F32, false, err));
    strcat(path, "/" LT_ADAPTER_FILE);
    check_same_file(path, scratch_path("real", LT_ADAPTER_FILE));
    free(before);
    free(after);
    free_batch(&b);
    lt_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_second_adapter), cmocka_unit_test(test_half_files),
        cmocka_unit_test(test_mixed_file),     cmocka_unit_test(test_written_again),
        cmocka_unit_test(test_neox_rows),      cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_neox_head),      cmocka_unit_test(test_saved_twice),
        cmocka_unit_test(test_inspection),     cmocka_unit_test(test_real_adapter)};
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
