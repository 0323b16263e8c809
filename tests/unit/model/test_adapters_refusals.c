/* Adapters that can not be: each is refused with a code and a message that says what is wrong, and
 * leaves the model as it was. */
#include "adapters.h"
#include "base/json.h"
#include "files.h"

enum { ROWS = 2, LENGTH = 9 };

/* --- The model, before and after -------------------------------------------------------------- */

typedef struct snapshot {
    lt_model *model;
    test_batch batch;
    float *logits;
    int64_t trainable, gradients;
    int params, adapters, segments;
    const lt_adapter *active;
} snapshot;

static snapshot take(lt_model *model)
{
    snapshot s = {.model = model,
                  .trainable = lt_model_parameter_count(model, true),
                  .gradients = model->gradient_count,
                  .params = model->param_count,
                  .adapters = model->adapter_count,
                  .segments = model->segment_count,
                  .active = model->active};
    s.batch = random_batch(ROWS, LENGTH, model->config.vocab_size, 6);
    s.logits = logits_of(model, &s.batch.batch);
    return s;
}

/* No row is left, and the model still answers as before. */
static void check_untouched(snapshot *s, const char *what)
{
    lt_model *model = s->model;
    if (model->param_count != s->params || model->adapter_count != s->adapters)
        fail_msg("%s: rows or adapters are left behind", what);
    if (lt_model_parameter_count(model, true) != s->trainable ||
        model->gradient_count != s->gradients || model->segment_count != s->segments)
        fail_msg("%s: what is trained has changed", what);
    assert_ptr_equal(model->active, s->active);
    float *logits = logits_of(model, &s->batch.batch);
    assert_memory_equal(s->logits, logits,
                        (size_t)(ROWS * LENGTH * model->config.vocab_size) * sizeof *logits);
    free(logits);
    free(s->logits);
    free_batch(&s->batch);
}

static void check_message(const char *what, lt_status status, const lt_err *err, lt_status expected,
                          const char *word)
{
    if (status != expected || err->code != expected || !strstr(err->message, word))
        fail_msg("%s: status %d instead of %d, message '%s' should say '%s'", what, status,
                 expected, err->message, word);
}

static void refuse_load(lt_model *model, const char *directory, lt_status expected,
                        const char *word)
{
    lt_err err = {0};
    lt_adapter *adapter = NULL;
    snapshot s = take(model);
    lt_status status = lt_adapter_load(model, directory, "refused", &adapter, &err);
    check_message(word, status, &err, expected, word);
    assert_null(adapter);
    check_untouched(&s, word);
}

/* Loads `directory` onto a golden model. */
static void check_load(const char *base, const char *directory, lt_status expected,
                       const char *word)
{
    lt_model *model = load_golden(base, NULL, backend);
    refuse_load(model, directory, expected, word);
    lt_model_free(model);
}

static void refuse_create(lt_model *model, const lt_adapter_config *config, lt_status expected,
                          const char *word)
{
    lt_err err = {0};
    lt_adapter *adapter = NULL;
    snapshot s = take(model);
    lt_status status = lt_adapter_create(model, config, "refused", 1, &adapter, &err);
    check_message(word, status, &err, expected, word);
    assert_null(adapter);
    check_untouched(&s, word);
}

/* --- Fresh adapters --------------------------------------------------------------------------- */

static void set_list(lt_string_list *list, const char *item)
{
    OK(lt_string_list_add(list, item, err));
}

static void test_create(void **state)
{
    (void)state;
    lt_model *model = load_golden("llama", NULL, backend);
    lt_adapter_config c = {.kind = LT_ADAPTER_LORA, .r = 3, .lora_alpha = 6};
    set_list(&c.target_modules, "c_attn");
    refuse_create(model, &c, LT_ERR_USAGE, "match no module of this model (llama, 2 layers)");
    set_list(&c.target_modules, "k_proj");
    int64_t none[] = {2, 7};
    c.layers_to_transform = none;
    c.layers_to_transform_count = 2;
    refuse_create(model, &c, LT_ERR_USAGE, "match no module");
    c.layers_to_transform = NULL;
    c.layers_to_transform_count = 0;
    c.r = 13; /* k_proj is 12 x 24 */
    refuse_create(model, &c, LT_ERR_USAGE,
                  "rank 13 is larger than the matrix of model.layers.0.self_attn.k_proj, which is "
                  "12 x 24");
    c.r = 0;
    refuse_create(model, &c, LT_ERR_USAGE, "must be at least 1");
    c.r = 3;
    set_list(&c.modules_to_save, "norm");
    refuse_create(model, &c, LT_ERR_UNSUPPORTED, "\"norm\"");
    lt_adapter_config_free(&c);

    c = (lt_adapter_config){.kind = LT_ADAPTER_LORA, .r = 3, .lora_alpha = 6};
    OK(lt_copy_string("(?:q|k_proj", &c.target_pattern, err));
    refuse_create(model, &c, LT_ERR_USAGE, "target_modules: the regular expression");
    lt_adapter_config_free(&c);
    c = (lt_adapter_config){.kind = LT_ADAPTER_LORA, .r = 3, .lora_alpha = 6};
    OK(lt_copy_string("((.*)*)*[!?]", &c.target_pattern, err));
    refuse_create(model, &c, LT_ERR_LIMIT, "target_modules: matching");
    lt_adapter_config_free(&c);
    lt_model_free(model);
}

static void test_create_prompts(void **state)
{
    (void)state;
    static const lt_adapter_kind kinds[] = {LT_ADAPTER_PREFIX, LT_ADAPTER_PROMPT,
                                            LT_ADAPTER_P_TUNING};
    static const char *const names[] = {"a prefix adapter of 0", "a prompt adapter of 0",
                                        "a p-tuning adapter of 0"};
    lt_model *model = load_golden("gpt2", NULL, backend);
    for (int i = 0; i < 3; i++) {
        lt_adapter_config c = {.kind = kinds[i]};
        refuse_create(model, &c, LT_ERR_USAGE, names[i]);
        c.num_virtual_tokens = 24;
        refuse_create(model, &c, LT_ERR_LIMIT, "leave no room for text: the model sees 24");
        c.num_virtual_tokens = -1;
        refuse_create(model, &c, LT_ERR_USAGE, "--num-virtual-tokens");
    }
    lt_adapter_config c = {
        .kind = LT_ADAPTER_PROMPT, .num_virtual_tokens = 3, .prompt_init = LT_PROMPT_TEXT};
    refuse_create(model, &c, LT_ERR_USAGE, "--prompt-tuning-init-text");
    OK(lt_ids_push(&c.prompt_init_ids, 53, err));
    refuse_create(model, &c, LT_ERR_USAGE, "token id 53");
    lt_adapter_config_free(&c);
    lt_model_free(model);
}

/* Where an adapter is there already: it stays the active one, and trained. */
static void test_beside_others(void **state)
{
    (void)state;
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_adapter *adapter = random_adapter(model, case_named("lora"), "refused", 3);
    lt_adapter_config c = {.kind = LT_ADAPTER_PROMPT, .num_virtual_tokens = 3};
    refuse_create(model, &c, LT_ERR_USAGE, "two adapters are called \"refused\"");
    refuse_load(model, adapter_path("gpt2_lora", NULL), LT_ERR_USAGE, "--adapter NAME=DIR");
    lt_adapter *other = NULL;
    lt_err err = {0};
    c.prompt_init = LT_PROMPT_TEXT;
    snapshot s = take(model);
    assert_int_equal(lt_adapter_create(model, &c, "other", 1, &other, &err), LT_ERR_USAGE);
    check_untouched(&s, "a prompt without text");
    assert_int_equal(
        lt_adapter_load(model, adapter_path("llama_lora", NULL), "other", &other, &err),
        LT_ERR_USAGE);
    assert_ptr_equal(model->active, adapter);
    assert_int_equal(lt_model_set_trainable(model, &(lt_trainable){0}, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "before adapters"));
    OK(lt_model_allocate_gradients(model, err));
    assert_int_equal(lt_adapter_load(model, adapter_path("gpt2_lora", NULL), "other", &other, &err),
                     LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "before memory for gradients"));
    assert_int_equal(lt_model_grow_vocab(model, 60, &err), LT_ERR_USAGE);
    assert_int_equal(lt_model_untie(model, &err), LT_ERR_USAGE);
    lt_model_free(model);
}

/* --- Files of another base -------------------------------------------------------------------- */

static lt_model *small_llama(int64_t layers)
{
    lt_model_shape shape = {.family = "llama",
                            .layers = layers,
                            .hidden_size = 24,
                            .heads = 4,
                            .kv_heads = 2,
                            .intermediate_size = 28,
                            .max_position = 32,
                            .vocab_size = 51,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    return new_model(&shape, 1, backend);
}

static void test_other_bases(void **state)
{
    (void)state;
    check_load("gpt2_odd", adapter_path("gpt2_lora", NULL), LT_ERR_FORMAT,
               "has shape [3, 16], but this model (gpt2, hidden size 15, 2 layers) with this "
               "adapter_config.json asks for [3, 15]: the adapter is for another base, "
               "../../models/gpt2");
    check_load("gpt2_odd", adapter_path("gpt2_prefix", NULL), LT_ERR_FORMAT, "[5, 64]");
    check_load("gpt2_odd", adapter_path("gpt2_prompt", NULL), LT_ERR_FORMAT, "[5, 16]");
    check_load("gpt2_odd", adapter_path("gpt2_p_tuning", NULL), LT_ERR_FORMAT, "[5, 16]");
    check_load("gpt2_odd", adapter_path("gpt2_lora_saved", NULL), LT_ERR_FORMAT, "another base");
    check_load("gpt2", adapter_path("llama_lora", NULL), LT_ERR_USAGE, "match no module");
    check_load("gpt2", adapter_path("llama_lora", NULL), LT_ERR_USAGE, "llama_lora");
    check_load("gpt_neox", adapter_path("llama_prompt", NULL), LT_ERR_FORMAT, "another base");
    lt_model *longer = small_llama(3), *shorter = small_llama(1);
    refuse_load(longer, adapter_path("llama_lora", NULL), LT_ERR_FORMAT,
                "than this llama model of 3 layers");
    refuse_load(shorter, adapter_path("llama_lora", NULL), LT_ERR_FORMAT,
                "does not belong to a lora adapter of this llama model");
    lt_model_free(longer);
    lt_model_free(shorter);
}

/* --- Broken files ----------------------------------------------------------------------------- */

static void copy_adapter(const char *golden)
{
    new_directory("bad");
    OK(lt_copy_file(adapter_path(golden, LT_ADAPTER_CONFIG), scratch_path("bad", LT_ADAPTER_CONFIG),
                    err));
    OK(lt_copy_file(adapter_path(golden, LT_ADAPTER_FILE), scratch_path("bad", LT_ADAPTER_FILE),
                    err));
}

static void check_edited(const char *base, edited *e, lt_status expected, const char *word)
{
    write_edited(e, scratch_path("bad", LT_ADAPTER_FILE));
    check_load(base, scratch_path("bad", NULL), expected, word);
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    static const char name[] = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    copy_adapter("llama_lora");
    edited e = edit_file(adapter_path("llama_lora", LT_ADAPTER_FILE));
    drop_edited(&e, name);
    check_edited("llama", &e, LT_ERR_FORMAT, name);

    e = edit_file(adapter_path("llama_lora", LT_ADAPTER_FILE));
    add_edited(&e, (lt_safetensors_declaration){"surplus.weight", LT_F32, 1, {1}}, "1234");
    check_edited("llama", &e, LT_ERR_FORMAT, "\"surplus.weight\" does not belong");

    e = edit_file(adapter_path("llama_lora", LT_ADAPTER_FILE));
    e.tensors[find_edited(&e, name)].dtype = LT_I32;
    check_edited("llama", &e, LT_ERR_UNSUPPORTED, "I32");

    e = edit_file(adapter_path("llama_lora", LT_ADAPTER_FILE));
    lt_safetensors_declaration *b = &e.tensors[find_edited(&e, name)];
    b->shape[0] = 3;
    b->shape[1] = 12;
    check_edited("llama", &e, LT_ERR_FORMAT, "has shape [3, 12]");

    e = edit_file(adapter_path("llama_lora", LT_ADAPTER_FILE));
    b = &e.tensors[find_edited(&e, name)];
    b->ndim = 3;
    b->shape[2] = 1;
    check_edited("llama", &e, LT_ERR_FORMAT, "has shape [12, 3, 1]");

    copy_adapter("gpt2_prefix");
    e = edit_file(adapter_path("gpt2_prefix", LT_ADAPTER_FILE));
    e.tensors[0].name = "prompt_embedding";
    check_edited("gpt2", &e, LT_ERR_FORMAT, "\"prompt_embeddings\" is missing");
}

static void test_broken_files(void **state)
{
    (void)state;
    lt_buffer bytes = {0};
    check_load("gpt2", new_directory("empty"), LT_ERR_IO, "there is no adapter_config.json in it");
    copy_adapter("gpt2_lora");
    OK(lt_read_file(adapter_path("gpt2_lora", LT_ADAPTER_FILE), 1 << 20, &bytes, err));
    static const double kept[] = {0, 0.001, 0.3, 0.99};
    for (int i = 0; i < 4; i++) {
        OK(lt_write_file(scratch_path("bad", LT_ADAPTER_FILE), bytes.data,
                         (size_t)((double)bytes.size * kept[i]), err));
        check_load("gpt2", scratch_path("bad", NULL), LT_ERR_FORMAT, LT_ADAPTER_FILE);
    }
    OK(lt_remove_tree(scratch_path("bad", LT_ADAPTER_FILE), err));
    check_load("gpt2", scratch_path("bad", NULL), LT_ERR_IO, LT_ADAPTER_FILE);
    write_text("bad", LT_ADAPTER_CONFIG, "{\"peft_type\": \"LORA\"");
    check_load("gpt2", scratch_path("bad", NULL), LT_ERR_FORMAT, LT_ADAPTER_CONFIG);
    write_text("bad", LT_ADAPTER_CONFIG, "[]");
    check_load("gpt2", scratch_path("bad", NULL), LT_ERR_FORMAT, "not a JSON object");
    lt_buffer_free(&bytes);
}

/* State of a run without the network that the table came from. */
static void test_restore(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_model *model = load_golden("gpt2", NULL, backend);
    lt_adapter *adapter = fresh_adapter(model, case_named("p-tuning"), "resumed", 1);
    assert_int_equal(lt_adapter_restore(model, adapter, adapter_path("gpt2_prompt", NULL), &err),
                     LT_ERR_IO);
    assert_non_null(strstr(err.message, LT_ENCODER_FILE));
    assert_int_equal(lt_adapter_restore(model, adapter, adapter_path("gpt2_p_tuning", NULL), &err),
                     LT_ERR_FORMAT); /* another width */
    lt_model_free(model);
}

/* --- Wrong configurations --------------------------------------------------------------------- */

/* A key of a golden adapter's configuration with another value, or (NULL) without it. */
static const struct {
    const char *adapter, *key, *value;
    lt_status status;
    const char *word;
} wrong[] = {
    /* clang-format off */
    {"gpt2_lora", "peft_type", NULL, LT_ERR_FORMAT, "no \"peft_type\""},
    {"gpt2_lora", "peft_type", "\"LOHA\"", LT_ERR_UNSUPPORTED, "type LOHA"},
    {"gpt2_lora", "peft_type", "7", LT_ERR_FORMAT, "peft_type"},
    {"gpt2_lora", "base_model_name_or_path", "[]", LT_ERR_FORMAT, "base_model_name_or_path"},
    {"gpt2_lora", "bias", "\"all\"", LT_ERR_UNSUPPORTED, "\"bias\": \"all\""},
    {"gpt2_lora", "bias", "\"lora_only\"", LT_ERR_UNSUPPORTED, "lora_only"},
    {"gpt2_lora", "bias", "true", LT_ERR_FORMAT, "bias"},
    {"gpt2_lora", "layer_replication", "[[0, 1]]", LT_ERR_UNSUPPORTED, "layer_replication"},
    {"gpt2_lora", "megatron_config", "{\"a\": 1}", LT_ERR_UNSUPPORTED, "megatron_config"},
    {"gpt2_lora", "trainable_token_indices", "[1]", LT_ERR_UNSUPPORTED, "trainable_token_indices"},
    {"gpt2_lora", "target_parameters", "[\"x\"]", LT_ERR_UNSUPPORTED, "target_parameters"},
    {"gpt2_lora", "lora_bias", "true", LT_ERR_UNSUPPORTED, "lora_bias"},
    {"gpt2_lora", "use_qalora", "true", LT_ERR_UNSUPPORTED, "use_qalora"},
    {"gpt2_lora", "r", "0", LT_ERR_FORMAT, "\"r\""},
    {"gpt2_lora", "r", "-3", LT_ERR_FORMAT, "\"r\""},
    {"gpt2_lora", "r", "3.5", LT_ERR_FORMAT, "\"r\""},
    {"gpt2_lora", "r", "\"3\"", LT_ERR_FORMAT, "\"r\""},
    {"gpt2_lora", "r", "99999999999999999999", LT_ERR_FORMAT, "\"r\""},
    {"gpt2_lora", "r", "17", LT_ERR_USAGE, "rank 17 is larger"},
    {"gpt2_lora", "r", "4", LT_ERR_FORMAT, "has shape [3, 16]"},
    {"gpt2_lora", "lora_alpha", "\"6\"", LT_ERR_FORMAT, "lora_alpha"},
    {"gpt2_lora", "lora_alpha", "NaN", LT_ERR_FORMAT, "lora_alpha"},
    {"gpt2_lora", "lora_dropout", "1", LT_ERR_FORMAT, "lora_dropout"},
    {"gpt2_lora", "lora_dropout", "-0.1", LT_ERR_FORMAT, "lora_dropout"},
    {"gpt2_lora", "lora_dropout", "{}", LT_ERR_FORMAT, "lora_dropout"},
    {"gpt2_lora", "use_rslora", "1", LT_ERR_FORMAT, "use_rslora"},
    {"gpt2_lora", "use_dora", "\"yes\"", LT_ERR_FORMAT, "use_dora"},
    {"gpt2_lora", "use_dora", "true", LT_ERR_FORMAT, "lora_magnitude_vector\" is missing"},
    {"gpt2_dora", "use_dora", "false", LT_ERR_FORMAT, "does not belong"},
    {"gpt2_lora", "target_modules", NULL, LT_ERR_FORMAT, "target_modules"},
    {"gpt2_lora", "target_modules", "[]", LT_ERR_FORMAT, "names nothing"},
    {"gpt2_lora", "target_modules", "{}", LT_ERR_FORMAT, "target_modules"},
    {"gpt2_lora", "target_modules", "[\"c_attn\", 3]", LT_ERR_FORMAT, "target_modules"},
    {"gpt2_lora", "target_modules", "[\"c_attn\"]", LT_ERR_FORMAT, "does not belong"},
    {"gpt2_lora", "target_modules", "[\"\"]", LT_ERR_USAGE, "match no module"},
    {"gpt2_lora", "target_modules", "\".*c_(attn\"", LT_ERR_USAGE, "target_modules: the regular"},
    {"gpt2_lora", "target_modules", "\"c_attn\"", LT_ERR_USAGE, "match no module"},
    {"gpt2_lora", "exclude_modules", "\"c_.*\"", LT_ERR_UNSUPPORTED, "exclude_modules"},
    {"gpt2_lora", "exclude_modules", "[\"c_fc\"]", LT_ERR_FORMAT, "does not belong"},
    {"gpt2_lora", "exclude_modules", "[1]", LT_ERR_FORMAT, "exclude_modules"},
    {"gpt2_lora", "modules_to_save", "\"wte\"", LT_ERR_FORMAT, "modules_to_save"},
    {"gpt2_lora", "modules_to_save", "[\"wpe\"]", LT_ERR_UNSUPPORTED, "\"wpe\""},
    {"gpt2_lora", "modules_to_save", "[\"wte\"]", LT_ERR_FORMAT, "wte.weight\" is missing"},
    {"gpt2_lora", "layers_to_transform", "\"0\"", LT_ERR_FORMAT, "layers_to_transform"},
    {"gpt2_lora", "layers_to_transform", "[0, 1.5]", LT_ERR_FORMAT, "layers_to_transform"},
    {"gpt2_lora", "layers_to_transform", "0", LT_ERR_FORMAT, "does not belong"},
    {"gpt2_lora", "layers_to_transform", "[-1, 2]", LT_ERR_USAGE, "match no module"},
    {"gpt2_lora", "rank_pattern", "[]", LT_ERR_FORMAT, "rank_pattern"},
    {"gpt2_lora", "rank_pattern", "{\"c_fc\": 2.5}", LT_ERR_FORMAT, "rank_pattern"},
    {"gpt2_lora", "rank_pattern", "{\"c_fc\": 0}", LT_ERR_USAGE, "must be at least 1"},
    {"gpt2_lora", "rank_pattern", "{\"c_(fc\": 2}", LT_ERR_USAGE, "rank_pattern: the regular"},
    {"gpt2_lora", "rank_pattern", "{\"((.*)*)*[!?]\": 2}", LT_ERR_LIMIT, "rank_pattern: matching"},
    {"gpt2_lora", "alpha_pattern", "{\"c_fc\": \"2\"}", LT_ERR_FORMAT, "alpha_pattern"},
    {"gpt2_lora", "alpha_pattern", "{\"c_[fc\": 2}", LT_ERR_USAGE, "alpha_pattern: the regular"},
    {"gpt2_prompt", "num_virtual_tokens", NULL, LT_ERR_FORMAT, "num_virtual_tokens"},
    {"gpt2_prompt", "num_virtual_tokens", "0", LT_ERR_FORMAT, "num_virtual_tokens"},
    {"gpt2_prompt", "num_virtual_tokens", "\"5\"", LT_ERR_FORMAT, "num_virtual_tokens"},
    {"gpt2_prompt", "num_virtual_tokens", "6", LT_ERR_FORMAT, "has shape [5, 16]"},
    {"gpt2_prompt", "num_virtual_tokens", "24", LT_ERR_LIMIT, "leave no room"},
    {"gpt2_prompt", "num_virtual_tokens", "2000000", LT_ERR_FORMAT, "num_virtual_tokens"},
    {"gpt2_prompt", "num_transformer_submodules", "2", LT_ERR_UNSUPPORTED, "encoder-decoder"},
    {"gpt2_prompt", "num_transformer_submodules", "[]", LT_ERR_FORMAT, "submodules"},
    {"gpt2_prompt", "modules_to_save", "[\"wte\"]", LT_ERR_UNSUPPORTED, "modules_to_save"},
    {"gpt2_prompt", "prompt_tuning_init_text", "5", LT_ERR_FORMAT, "prompt_tuning_init_text"},
    {"gpt2_prompt", "tokenizer_name_or_path", "{}", LT_ERR_FORMAT, "tokenizer_name_or_path"},
    {"gpt2_prefix", "prefix_projection", "\"no\"", LT_ERR_FORMAT, "prefix_projection"},
    {"gpt2_prefix", "encoder_hidden_size", "-1", LT_ERR_FORMAT, "encoder_hidden_size"},
    {"gpt2_p_tuning", "encoder_hidden_size", "\"big\"", LT_ERR_FORMAT, "encoder_hidden_size"},
    {"gpt2_p_tuning", "num_virtual_tokens", "null", LT_ERR_FORMAT, "num_virtual_tokens"},
    /* clang-format on */
};

static void test_wrong_configurations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        lt_buffer text = {0};
        json_t *config, *value = NULL;
        copy_adapter(wrong[i].adapter);
        OK(lt_json_load(scratch_path("bad", LT_ADAPTER_CONFIG), &config, err));
        if (wrong[i].value) {
            OK(lt_buffer_printf(&text, err, "{\"%s\": %s}", wrong[i].key, wrong[i].value));
            OK(lt_json_parse(text.data, text.size, "the test", &value, err));
            json_object_update(config, value);
        } else {
            json_object_del(config, wrong[i].key);
        }
        OK(lt_json_write_file(scratch_path("bad", LT_ADAPTER_CONFIG), config, err));
        check_load("gpt2", scratch_path("bad", NULL), wrong[i].status, wrong[i].word);
        check_load("gpt2", scratch_path("bad", NULL), wrong[i].status, "/bad");
        json_decref(config);
        json_decref(value);
        lt_buffer_free(&text);
    }
}

/* What is on in newer files and changes nothing here is read. */
static void test_harmless_keys(void **state)
{
    (void)state;
    json_t *config;
    lt_adapter *adapter;
    copy_adapter("gpt2_lora");
    OK(lt_json_load(scratch_path("bad", LT_ADAPTER_CONFIG), &config, err));
    json_t *more = json_pack("{s:[], s:{}, s:n, s:b, s:s}", "layer_replication", "megatron_config",
                             "lora_bias", "use_qalora", 0, "a_key_of_tomorrow", "x");
    json_object_update(config, more);
    OK(lt_json_write_file(scratch_path("bad", LT_ADAPTER_CONFIG), config, err));
    lt_model *model = load_golden("gpt2", NULL, backend);
    OK(lt_adapter_load(model, scratch_path("bad", NULL), "read", &adapter, err));
    lt_model_free(model);
    json_decref(config);
    json_decref(more);
}

/* --- Batches ---------------------------------------------------------------------------------- */

/* Virtual tokens take positions of the text, and room for keys in each row. */
static void test_batches(void **state)
{
    (void)state;
    static const char *const cases[] = {"prefix", "prompt", "p-tuning"};
    for (int i = 0; i < 3; i++) {
        lt_model *model = load_golden("gpt2", NULL, backend);
        lt_err err = {0};
        lt_loss loss = {0};
        random_adapter(model, case_named(cases[i]), "used", 3);
        test_batch fits = random_batch(1, 24 - VIRTUAL, 53, 1), longer = random_batch(1, 24, 53, 1);
        test_batch rows = random_batch(12, 2, 53, 1);
        lt_workspace *w = new_workspace(model, &(lt_workspace_settings){.rows = 1, .length = 24});
        OK(lt_model_evaluate(model, w, &fits.batch, &loss, NULL, err));
        check_message(cases[i], lt_model_evaluate(model, w, &longer.batch, &loss, NULL, &err), &err,
                      LT_ERR_LIMIT, "20 positions at most behind the adapter's virtual tokens");
        check_message(cases[i], lt_model_evaluate(model, w, &rows.batch, &loss, NULL, &err), &err,
                      LT_ERR_LIMIT, "12 rows with virtual tokens in front");
        random_adapter(model, case_named("lora"), "late", 3);
        check_message(cases[i], lt_model_evaluate(model, w, &fits.batch, &loss, NULL, &err), &err,
                      LT_ERR_USAGE, "before its adapters");
        lt_workspace_free(w);
        free_batch(&fits);
        free_batch(&longer);
        free_batch(&rows);
        lt_model_free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),        cmocka_unit_test(test_create_prompts),
        cmocka_unit_test(test_beside_others), cmocka_unit_test(test_other_bases),
        cmocka_unit_test(test_wrong_tensors), cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_restore),       cmocka_unit_test(test_wrong_configurations),
        cmocka_unit_test(test_harmless_keys), cmocka_unit_test(test_batches)};
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
