/* config.json: what is read, in old and new spellings, and what is refused, with its name. */
#include "base/json.h"
#include "golden.h"
#include "model/families/families.h"
#include "model/formats/hf_save.h"

static lt_status parse(const char *text, lt_model_config *out, lt_err *err)
{
    json_t *json = NULL;
    OK(lt_json_parse(text, strlen(text), "test", &json, err));
    memset(out, 0xee, sizeof *out);
    lt_status status = lt_model_config_parse(json, "some/config.json", out, err);
    json_decref(json);
    return status;
}

static lt_model_config parse_good(const char *text)
{
    lt_model_config config;
    OK(parse(text, &config, err));
    return config;
}

/* Refused with `status`, and the message holds `word` and the file's name. */
static void check_refused(const char *text, lt_status status, const char *word)
{
    lt_model_config config;
    lt_err err = {0};
    lt_status got = parse(text, &config, &err);
    if (got != status || !strstr(err.message, word) || !strstr(err.message, "some/config.json"))
        fail_msg("%s: status %d instead of %d, message '%s' should say '%s'", text, got, status,
                 err.message, word);
    assert_null(config.source);
}

/* The same for a good text in which one key has another value. */
static void check_edit(const char *text, const char *key, const char *value, lt_status status,
                       const char *word)
{
    json_t *json = NULL, *edited = json_loads(value, JSON_DECODE_ANY, NULL);
    OK(lt_json_parse(text, strlen(text), "test", &json, err));
    json_object_set_new(json, key, edited);
    char *dumped = json_dumps(json, JSON_COMPACT);
    check_refused(dumped, status, word);
    free(dumped);
    json_decref(json);
}

#define GPT2(more)                                                                        \
    "{\"model_type\":\"gpt2\",\"architectures\":[\"GPT2LMHeadModel\"],\"vocab_size\":11," \
    "\"n_embd\":12,\"n_layer\":2,\"n_head\":3,\"n_positions\":16" more "}"
#define NEOX(more)                                                       \
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":11,\"hidden_size\":64," \
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"intermediate_size\":100" more "}"
#define LLAMA_TYPE(type, more)                                                     \
    "{\"model_type\":\"" type "\",\"vocab_size\":11,\"hidden_size\":64,"           \
    "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
    "\"intermediate_size\":100" more "}"
#define LLAMA(more) LLAMA_TYPE("llama", more)

/* --- What is read ------------------------------------------------------------------------------
 */

static void test_gpt2(void **state)
{
    (void)state;
    lt_model_config c = parse_good(GPT2(""));
    assert_string_equal(c.family->name, "gpt2");
    assert_true(c.learned_positions && c.tie_word_embeddings && c.mlp_bias && !c.gated_mlp);
    assert_int_equal(c.intermediate_size, 48);
    assert_int_equal(c.head_dim, 4);
    assert_int_equal(c.activation, LT_ACTIVATION_GELU_TANH);
    assert_true(c.attention_scale == 0.5 && c.norm_eps == 1e-5 && c.attn_pdrop == 0.1);
    assert_int_equal(c.eos_token_ids[0], 50256);
    lt_model_config_free(&c);

    c = parse_good(GPT2(",\"n_inner\":null,\"scale_attn_weights\":false,\"eos_token_id\":null,"
                        "\"scale_attn_by_inverse_layer_idx\":true,\"pad_token_id\":-1"));
    assert_true(c.attention_scale == 1 && c.scale_by_inverse_layer);
    assert_int_equal(c.eos_token_count, 0);
    assert_int_equal(c.pad_token_id, -1);
    lt_model_config_free(&c);
}

/* Old and new spellings of the same settings. */
static void test_both_versions(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {NEOX(",\"rotary_pct\":0.5,\"rotary_emb_base\":777"),
         NEOX(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":777,"
              "\"partial_rotary_factor\":0.5}")},
        {NEOX(""), NEOX(",\"rope_scaling\":null,\"rope_parameters\":{}")},
        {LLAMA(",\"rope_theta\":500,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}"),
         LLAMA(
             ",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":500}")},
        {LLAMA(",\"rope_theta\":500,\"max_position_embeddings\":64,\"rope_scaling\":{\"rope_type\":"
               "\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
               "\"original_max_position_embeddings\":32}"),
         LLAMA(",\"max_position_embeddings\":64,\"rope_parameters\":{\"rope_type\":\"llama3\","
               "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"rope_theta\":500,"
               "\"original_max_position_embeddings\":32}")},
    };
    for (size_t i = 0; i < LT_COUNT_OF(pairs); i++) {
        lt_model_config old = parse_good(pairs[i][0]), new = parse_good(pairs[i][1]);
        json_decref(old.source);
        json_decref(new.source);
        old.source = new.source = NULL;
        assert_int_equal(old.rope_type, new.rope_type);
        assert_int_equal(old.rotary_dim, new.rotary_dim);
        assert_true(old.rope_theta == new.rope_theta &&old.rope_factor == new.rope_factor);
        assert_true(old.rope_low_freq_factor == new.rope_low_freq_factor);
        assert_int_equal(old.rope_original_max_position, new.rope_original_max_position);
    }
    lt_model_config neox = parse_good(pairs[0][0]);
    assert_int_equal(neox.rotary_dim, 16);
    assert_true(neox.rope_theta == 777);
    lt_model_config_free(&neox);
}

static void test_heads(void **state)
{
    (void)state;
    lt_model_config c = parse_good(LLAMA_TYPE("qwen3", ""));
    assert_int_equal(c.head_dim, 128); /* its own default, not hidden / heads */
    assert_true(c.qk_norm && !c.attention_bias);
    lt_model_config_free(&c);
    c = parse_good(LLAMA_TYPE("qwen2", ""));
    assert_true(c.attention_bias && !c.attention_out_bias);
    lt_model_config_free(&c);
    c = parse_good(LLAMA(",\"head_dim\":null,\"attention_bias\":true,\"mlp_bias\":true"));
    assert_int_equal(c.head_dim, 16);
    assert_true(c.attention_bias && c.attention_out_bias && c.mlp_bias);
    lt_model_config_free(&c);
}

static void test_windows(void **state)
{
    (void)state;
    lt_model_config c = parse_good(LLAMA_TYPE("mistral", ""));
    assert_int_equal(c.sliding_window, 4096); /* MistralConfig's default */
    lt_model_config_free(&c);
    c = parse_good(LLAMA_TYPE("mistral", ",\"sliding_window\":null"));
    assert_int_equal(c.sliding_window, 0);
    lt_model_config_free(&c);
    c = parse_good(LLAMA_TYPE("qwen2", ",\"sliding_window\":5"));
    assert_int_equal(c.sliding_window, 0); /* use_sliding_window is false */
    lt_model_config_free(&c);
    c = parse_good(LLAMA_TYPE(
        "qwen2", ",\"sliding_window\":5,\"use_sliding_window\":true,\"max_window_layers\":1"));
    assert_int_equal(c.sliding_window, 5);
    assert_int_equal(c.sliding_window_from_layer, 1);
    lt_model_config_free(&c);
    c = parse_good(LLAMA_TYPE("qwen3", ",\"sliding_window\":5,\"use_sliding_window\":true,"
                                       "\"layer_types\":[\"full_attention\",\"full_attention\","
                                       "\"sliding_attention\"]"));
    assert_int_equal(c.sliding_window_from_layer, 2);
    lt_model_config_free(&c);
    check_refused(LLAMA_TYPE("qwen3", ",\"sliding_window\":5,\"use_sliding_window\":true,"
                                      "\"layer_types\":[\"sliding_attention\",\"full_attention\","
                                      "\"full_attention\"]"),
                  LT_ERR_UNSUPPORTED, "layer_types");
    check_refused(LLAMA_TYPE("qwen3", ",\"layer_types\":[\"sliding_attention\","
                                      "\"sliding_attention\",\"sliding_attention\"]"),
                  LT_ERR_FORMAT, "layer_types");
}

static void test_token_ids(void **state)
{
    (void)state;
    lt_model_config c = parse_good(LLAMA(",\"eos_token_id\":[3,4,5],\"bos_token_id\":null"));
    assert_int_equal(c.eos_token_count, 3);
    assert_int_equal(c.eos_token_ids[2], 5);
    assert_int_equal(c.bos_token_id, -1);
    lt_model_config_free(&c);
    check_refused(LLAMA(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]"), LT_ERR_LIMIT, "eos_token_id");
    check_refused(LLAMA(",\"eos_token_id\":[1,\"x\"]"), LT_ERR_FORMAT, "eos_token_id[1]");
}

/* --- What is refused ---------------------------------------------------------------------------
 */

static void test_unsupported(void **state)
{
    (void)state;
    check_refused("{\"model_type\":\"bert\"}", LT_ERR_UNSUPPORTED, "bert");
    check_refused("{\"architectures\":[\"GPT2ForSequenceClassification\"],\"model_type\":\"gpt2\"}",
                  LT_ERR_UNSUPPORTED, "GPT2ForSequenceClassification");
    check_refused("{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"llama\"}",
                  LT_ERR_UNSUPPORTED, "model_type");
    check_refused("{}", LT_ERR_FORMAT, "model_type");
    check_refused(LLAMA(",\"quantization_config\":{\"quant_method\":\"gptq\"}"), LT_ERR_UNSUPPORTED,
                  "gptq");
    check_refused(GPT2(",\"activation_function\":\"quick_gelu\""), LT_ERR_UNSUPPORTED,
                  "quick_gelu");
    check_refused(LLAMA(",\"hidden_act\":\"gelu\""), LT_ERR_UNSUPPORTED, "gelu");
    check_refused(GPT2(",\"add_cross_attention\":true"), LT_ERR_UNSUPPORTED, "cross_attention");
    static const char *const types[] = {"yarn", "dynamic", "longrope", "mrope", "su"};
    for (size_t i = 0; i < LT_COUNT_OF(types); i++) {
        char text[1024];
        snprintf(text, sizeof text, LLAMA(",\"rope_scaling\":{\"rope_type\":\"%s\",\"factor\":2}"),
                 types[i]);
        check_refused(text, LT_ERR_UNSUPPORTED, types[i]);
    }
    check_refused(LLAMA(",\"partial_rotary_factor\":0.5"), LT_ERR_UNSUPPORTED,
                  "partial_rotary_factor");
    check_refused(LLAMA(",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}"),
                  LT_ERR_UNSUPPORTED, "differ between layers");
}

static void test_impossible(void **state)
{
    (void)state;
    check_refused("[]", LT_ERR_FORMAT, "object");
    check_refused("{\"model_type\":\"gpt2\"}", LT_ERR_FORMAT, "vocab_size");
    check_refused("{\"model_type\":\"llama\",\"vocab_size\":0}", LT_ERR_FORMAT, "vocab_size");
    check_refused("{\"model_type\":\"llama\",\"vocab_size\":\"many\"}", LT_ERR_FORMAT,
                  "vocab_size");
    check_refused("{\"model_type\":\"llama\",\"vocab_size\":1000000000000000000000}", LT_ERR_FORMAT,
                  "vocab_size");
    check_edit(GPT2(""), "n_head", "5", LT_ERR_FORMAT, "not divisible");
    check_edit(GPT2(""), "n_positions", "0", LT_ERR_FORMAT, "n_positions");
    check_edit(GPT2(""), "n_embd", "null", LT_ERR_FORMAT, "n_embd");
    check_edit(LLAMA(""), "num_key_value_heads", "3", LT_ERR_FORMAT, "key/value heads");
    check_edit(LLAMA(""), "num_hidden_layers", "1025", LT_ERR_LIMIT, "layers");
    check_edit(LLAMA(""), "vocab_size", "5000000", LT_ERR_LIMIT, "vocabulary");
    check_edit(LLAMA(""), "head_dim", "2147483647", LT_ERR_LIMIT, "heads");
    check_edit(LLAMA(""), "hidden_size", "2147483644", LT_ERR_LIMIT, "hidden size");
    check_edit(LLAMA(""), "intermediate_size", "2147483647", LT_ERR_LIMIT, "intermediate");
    check_edit(LLAMA(""), "max_position_embeddings", "null", LT_ERR_FORMAT, "largest position");
    check_edit(LLAMA(""), "head_dim", "15", LT_ERR_UNSUPPORTED, "even");
    check_edit(LLAMA(""), "rope_theta", "-1", LT_ERR_FORMAT, "rope_theta");
    check_edit(LLAMA(""), "attention_dropout", "1.5", LT_ERR_FORMAT, "dropout");
    check_edit(LLAMA(""), "rms_norm_eps", "-1", LT_ERR_FORMAT, "epsilon");
    check_refused(LLAMA(",\"rope_scaling\":{\"type\":\"linear\"}"), LT_ERR_FORMAT, "factor");
    check_refused(LLAMA(",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
                        "\"high_freq_factor\":4}"),
                  LT_ERR_FORMAT, "high_freq_factor");
}

/* --- Golden models and presets -----------------------------------------------------------------
 */

static void test_golden_configs(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        lt_model_config config;
        OK(lt_model_config_load(golden_path(golden_names[i], NULL), &config, err));
        lt_model_config_free(&config);
    }
}

/* Unknown keys, big integers and everything else come back as they were; what changed is changed.
 */
static void test_source_is_kept(void **state)
{
    (void)state;
    lt_model_config c = parse_good(GPT2(
        ",\"x_max\":1000000000000000019884624838656,\"dtype\":\"float16\",\"eos_token_id\":7"));
    c.vocab_size = 13;
    c.eos_token_ids[0] = 12;
    json_t *config, *generation;
    OK(lt_config_to_json(&c, LT_BF16, &config, &generation, err));
    lt_buffer text = {0};
    OK(lt_json_dump(config, 0, &text, err));
    static const char *const expected[] = {"1000000000000000019884624838656", "\"bfloat16\"",
                                           "\"vocab_size\": 13", "\"eos_token_id\": 12",
                                           "\"n_embd\": 12"};
    for (size_t i = 0; i < LT_COUNT_OF(expected); i++)
        if (!strstr(text.data, expected[i])) fail_msg("%s is not in %s", expected[i], text.data);
    assert_null(strstr(text.data, "torch_dtype"));
    assert_null(strstr(text.data, "pad_token_id"));
    assert_int_equal(json_integer_value(json_object_get(generation, "eos_token_id")), 12);
    lt_buffer_free(&text);
    json_decref(config);
    json_decref(generation);
    lt_model_config_free(&c);
}

static int64_t preset_parameters(const char *preset, int64_t vocab, const lt_backend *backend)
{
    lt_model_config config;
    lt_memory_plan plan;
    lt_model_shape shape = {.preset = preset,
                            .vocab_size = vocab,
                            .bos_token_id = -1,
                            .eos_token_id = 0,
                            .pad_token_id = -1};
    OK(lt_model_config_make(&shape, &config, err));
    lt_workspace_settings settings = {.rows = 1, .length = 8, .training = true};
    plan = plan_of(&config, backend, &settings, 0);
    lt_model_config_free(&config);
    return plan.parameters;
}

/* The published sizes. */
static void test_presets(void **state)
{
    (void)state;
    lt_backend *backend = make_backend("ref");
    static const struct {
        const char *name;
        int64_t vocab, parameters;
    } known[] = {
        {"gpt2", 50257, 124439808},          {"gpt2-124m", 50257, 124439808},
        {"gpt2-medium", 50257, 354823168},   {"gpt2-large", 50257, 774030080},
        {"gpt2-xl", 50257, 1557611200},      {"pythia-14m", 50304, 14067712},
        {"pythia-70m", 50304, 70426624},     {"pythia-160m", 50304, 162322944},
        {"pythia-410m", 50304, 405334016},   {"pythia-1b", 50304, 1011781632},
        {"pythia-1.4b", 50304, 1414647808},  {"pythia-2.8b", 50304, 2775208960},
        {"llama-15m", 32000, 15191712},      {"llama-1.1b", 32000, 1100048384},
        {"qwen2-0.5b", 151936, 494032768},   {"qwen2-1.5b", 151936, 1543714304},
        {"qwen3-0.6b", 151936, 596049920},   {"qwen3-1.7b", 151936, 1720574976},
        {"gpt2-1.5b", 50257, 1557611200},    {"pythia-6.9b", 50432, 6857302016},
        {"pythia-12b", 50688, 11846072320},  {"llama-2-7b", 32000, 6738415616},
        {"llama-2-13b", 32000, 13015864320}, {"llama-3-8b", 128256, 8030261248},
        {"llama-2-70b", 32000, 68976648192}, {"llama-3-70b", 128256, 70553706496},
        {"mistral-7b", 32768, 7248023552},   {"qwen2.5-3b", 151936, 3085938688},
        {"qwen2.5-7b", 152064, 7615616512},  {"qwen2.5-14b", 152064, 14770033664},
        {"qwen3-4b", 151936, 4022468096},    {"qwen3-8b", 151936, 8190735360},
    };
    for (size_t i = 0; i < LT_COUNT_OF(known); i++) {
        int64_t parameters = preset_parameters(known[i].name, known[i].vocab, backend);
        assert_int_equal(lt_model_preset_vocab(known[i].name), known[i].vocab);
        if (parameters != known[i].parameters)
            fail_msg("%s: %lld parameters instead of %lld", known[i].name, (long long)parameters,
                     (long long)known[i].parameters);
    }
    for (const char *const *name = lt_model_presets(); *name; name++)
        assert_true(preset_parameters(*name, 100, backend) > 0 && lt_model_preset_vocab(*name) > 0);
    assert_int_equal(lt_model_preset_vocab("nowhere"), 0);
    lt_backend_free(backend);
}

static void test_own_shapes(void **state)
{
    (void)state;
    for (const char *const *family = lt_model_families(); *family; family++) {
        lt_model_shape shape = {.family = *family,
                                .layers = 3,
                                .hidden_size = 96,
                                .vocab_size = 77,
                                .max_position = 40,
                                .bos_token_id = 1,
                                .eos_token_id = 2,
                                .pad_token_id = -1};
        lt_model_config c;
        OK(lt_model_config_make(&shape, &c, err));
        assert_string_equal(c.family->name, *family);
        assert_int_equal(c.num_hidden_layers, 3);
        assert_int_equal(c.hidden_size, 96);
        assert_int_equal(c.num_attention_heads * c.head_dim, 96);
        assert_int_equal(c.max_position_embeddings, 40);
        assert_int_equal(c.eos_token_ids[0], 2);
        assert_int_equal(c.sliding_window, 0);
        lt_model_config_free(&c);
    }
    lt_err err = {0};
    lt_model_config c;
    lt_model_shape bad = {.family = "gtp2", .vocab_size = 5};
    assert_int_equal(lt_model_config_make(&bad, &c, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "did you mean 'gpt2'"));
    bad = (lt_model_shape){.family = "gpt2", .preset = "pythia-70m", .vocab_size = 5};
    assert_int_equal(lt_model_config_make(&bad, &c, &err), LT_ERR_USAGE);
    bad = (lt_model_shape){.preset = "pythia-70", .vocab_size = 5};
    assert_int_equal(lt_model_config_make(&bad, &c, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "pythia-70m"));
    bad = (lt_model_shape){.family = "gpt2", .hidden_size = 100, .heads = 3, .vocab_size = 5};
    assert_int_equal(lt_model_config_make(&bad, &c, &err), LT_ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),           cmocka_unit_test(test_both_versions),
        cmocka_unit_test(test_heads),          cmocka_unit_test(test_windows),
        cmocka_unit_test(test_token_ids),      cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_impossible),     cmocka_unit_test(test_golden_configs),
        cmocka_unit_test(test_source_is_kept), cmocka_unit_test(test_presets),
        cmocka_unit_test(test_own_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
