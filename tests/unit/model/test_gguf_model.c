/* Models in GGUF: against what llama.cpp's converter and llama-quantize made of the same
 * (tests/golden/gguf), and back again. */
#include "gguf_fixture.h"
#include "model/formats/gguf_layout.h"
#include "model/weights.h"

static void save(const lt_model *model, const char *path, lt_gguf_format format)
{
    OK(lt_model_save_gguf(model, path, &(lt_gguf_export){.format = format, .name = "a test"}, err));
}

static lt_model *load(const char *path)
{
    lt_model *model = NULL;
    OK(lt_model_load(path, backend, &model, err));
    return model;
}

/* A fresh small model of a configuration in JSON. */
static lt_model *fresh(const char *json)
{
    json_t *object = NULL;
    lt_model_config config;
    lt_model *model = NULL;
    OK(lt_json_parse(json, strlen(json), "test", &object, err));
    OK(lt_model_config_parse(object, "test", &config, err));
    OK(lt_model_create(&config, backend, 5, &model, err));
    json_decref(object);
    return model;
}

/* --- Against the converter -------------------------------------------------------------------- */

static void exports_are_the_converters(void **state)
{
    (void)state;
    json_t *converted = NULL, *wanted;
    const char *name;
    OK(lt_json_load(golden_gguf("converted.json"), &converted, err));
    json_object_foreach(json_object_get(converted, "models"), name, wanted)
    {
        lt_model *model = load_golden(name, NULL, backend);
        save(model, scratch_path("converted.gguf", NULL), LT_GGUF_FILE_F32);
        check_described(scratch_path("converted.gguf", NULL), wanted,
                        model->config.sliding_window > 0);
        lt_model_free(model);
    }
    json_decref(converted);
}

/* --- Types ------------------------------------------------------------------------------------ */

/* "Q8_0 Q6_K ...": the types of a tensor in the formats' order. */
static void check_types(const lt_model *model, const lt_gguf_part *part, const json_t *shape)
{
    const json_t *formats = json_object_get(shape, "formats");
    const char *wanted =
        json_string_value(json_object_get(json_object_get(shape, "types"), part->name));
    char list[200] = "";
    if (!wanted) fail_msg("llama-quantize has no tensor %s", part->name);
    for (size_t i = 0; i < json_array_size(formats); i++) {
        lt_gguf_format format;
        lt_gguf_type type;
        OK(lt_gguf_format_parse(json_string_value(json_array_get(formats, i)), &format, err));
        OK(lt_gguf_choose_type(&model->config, format, part, model->config.tie_word_embeddings,
                               &type, NULL, err));
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? " " : "", lt_gguf_type_name(type));
    }
    if (strcmp(list, wanted) != 0)
        fail_msg("%s: %s, but llama-quantize has %s", part->name, list, wanted);
}

static void types_are_llama_quantizes(void **state)
{
    (void)state;
    json_t *shapes = NULL, *shape;
    size_t i;
    OK(lt_json_load(golden_gguf("quantised.json"), &shapes, err));
    json_array_foreach(shapes, i, shape)
    {
        lt_model_config config;
        lt_model *model = NULL;
        size_t matrices = 0;
        OK(lt_model_config_parse(json_object_get(shape, "config"), "shape", &config, err));
        OK(lt_model_new(&config, NULL, &(lt_model_load_settings){.matrices = LT_F32}, &model, err));
        for (int k = 0; k < model->param_count; k++) {
            lt_gguf_part parts[LT_MAX_PARTS];
            int count = lt_gguf_parts_of(&model->config, &model->params[k], parts);
            for (int part = 0; part < count; part++) {
                lt_gguf_type type;
                OK(lt_gguf_choose_type(&model->config, LT_GGUF_FILE_Q4_0, &parts[part], false,
                                       &type, NULL, err));
                if (model->params[k].ndim > 1)
                    check_types(model, &parts[part], shape), matrices++;
                else
                    assert_int_equal(type, LT_GGUF_F32);
            }
        }
        assert_int_equal(matrices, json_object_size(json_object_get(shape, "types")));
        lt_model_free(model);
    }
    json_decref(shapes);
}

static void fall_backs_are_noted_once(void **state)
{
    (void)state;
    lt_buffer notes = {0};
    lt_model *model = load_golden("llama", NULL, backend);
    const lt_gguf_export export_ = {.format = LT_GGUF_FILE_Q4_K_M, .notes = &notes};
    OK(lt_model_save_gguf(model, scratch_path("narrow.gguf", NULL), &export_, err));
    const char *line = strstr(notes.data, "blk.#.attn_k.weight: rows of 24 are not whole blocks of "
                                          "Q4_K: stored as F16\n");
    assert_non_null(line);
    assert_null(strstr(line + strlen("blk.#.attn_k"), "attn_k.weight"));
    lt_buffer_free(&notes);
    lt_model_free(model);
}

/* --- And back --------------------------------------------------------------------------------- */

static size_t bytes_of(lt_tensor t)
{
    return (size_t)lt_tensor_count(t) * lt_dtype_size(t.dtype);
}

static void check_same_weights(const lt_model *a, const lt_model *b)
{
    assert_int_equal(a->param_count, b->param_count);
    for (int i = 0; i < a->param_count; i++) {
        const lt_tensor *x = &a->params[i].weight, *y = &b->params[i].weight;
        assert_string_equal(a->params[i].name, b->params[i].name);
        assert_memory_equal(a->params[i].shape, b->params[i].shape, sizeof a->params[i].shape);
        if (memcmp(x->data, y->data, bytes_of(*x)) != 0) fail_msg("%s differs", a->params[i].name);
    }
    if (a->rope_cos.data)
        assert_memory_equal(a->rope_cos.data, b->rope_cos.data, bytes_of(a->rope_cos));
}

/* All that the passes read of a configuration; owned and private fields aside. */
static void check_same_config(const lt_model_config *a, const lt_model_config *b)
{
    lt_model_config x = *a, y = *b;
    x.source = y.source = x.generation_source = y.generation_source = NULL;
    x.bos_token_id = y.bos_token_id = x.pad_token_id = y.pad_token_id = 0;
    x.eos_token_count = y.eos_token_count = 0;
    memcpy(x.eos_token_ids, y.eos_token_ids, sizeof x.eos_token_ids);
    x.embd_pdrop = y.embd_pdrop, x.resid_pdrop = y.resid_pdrop, x.attn_pdrop = y.attn_pdrop;
    x.initializer_range = y.initializer_range;
    assert_memory_equal(&x, &y, sizeof x);
}

static void exact_formats_come_back(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", scratch_path("round.gguf", NULL));
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        lt_model *model = load_golden(golden_names[i], NULL, backend);
        bool exported = lt_gguf_check_supported(&model->config, NULL, NULL) == LT_OK;
        assert_int_equal(exported, strcmp(golden_names[i], "gpt2_odd") != 0 &&
                                       strcmp(golden_names[i], "gpt_neox_sequential") != 0);
        if (exported) {
            save(model, path, LT_GGUF_FILE_F32);
            lt_model *again = load(path);
            check_same_config(&model->config, &again->config);
            check_same_weights(model, again);
            /* and on to a Hugging Face directory */
            OK(lt_model_save(again, new_directory("hf"), LT_F32, err));
            lt_model *hf = load(scratch_path("hf", NULL));
            check_same_config(&model->config, &hf->config);
            check_same_weights(model, hf);
            lt_model_free(hf);
            lt_model_free(again);
        }
        lt_model_free(model);
    }
}

/* clang-format off */
#define WIDE                                                                               \
    "\"model_type\":\"llama\",\"hidden_size\":256,\"intermediate_size\":256,"              \
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"           \
    "\"vocab_size\":33,\"max_position_embeddings\":16"
/* clang-format on */

/* What is loaded is what decoding makes of the encoded rows. */
static void check_decoded(const lt_model *model, const lt_model *again, const char *path)
{
    static float row[256], decoded[256];
    unsigned char bytes[1024];
    lt_gguf file;
    OK(lt_gguf_open(path, &file, err));
    for (int i = 0; i < model->param_count; i++) {
        lt_gguf_part parts[LT_MAX_PARTS];
        int count = lt_gguf_parts_of(&model->config, &model->params[i], parts);
        for (int k = 0; model->params[i].ndim == 2 && k < count; k++) {
            lt_gguf_type type = lt_gguf_find(&file, parts[k].name)->type;
            for (int64_t r = 0; r < parts[k].rows; r++) {
                int64_t place = (parts[k].first_row + r) * parts[k].columns;
                OK(lt_gguf_gather(backend, &parts[k], lt_gguf_file_row(&parts[k], r), 1, row, err));
                assert_memory_equal(row, (float *)model->params[i].weight.data + place, sizeof row);
                OK(lt_gguf_encode(type, row, parts[k].columns, bytes, err));
                lt_gguf_decode(type, bytes, parts[k].columns, decoded);
                if (memcmp(decoded, (float *)again->params[i].weight.data + place, sizeof row) != 0)
                    fail_msg("%s: row %d", parts[k].name, (int)r);
            }
        }
    }
    lt_gguf_close(&file);
}

static void quantised_formats_come_back_decoded(void **state)
{
    (void)state;
    const char *path = scratch_path("quantised.gguf", NULL);
    lt_model *model = fresh("{" WIDE "}");
    for (int format = LT_GGUF_FILE_F16; format <= LT_GGUF_FILE_Q6_K; format++) {
        save(model, path, (lt_gguf_format)format);
        lt_model *again = load(path);
        check_decoded(model, again, path);
        lt_model_free(again);
    }
    lt_model_free(model);
}

/* --- What only some models have --------------------------------------------------------------- */

/* The file with every `from` in it replaced by `to`; both have `length` bytes. */
static void patch(const char *path, const char *from, const char *to, size_t length)
{
    lt_buffer bytes = {0};
    size_t found = 0;
    OK(lt_read_file(path, 1 << 24, &bytes, err));
    for (size_t i = 0; i + length <= bytes.size; i++)
        if (memcmp(bytes.data + i, from, length) == 0) memcpy(bytes.data + i, to, length), found++;
    if (found == 0) fail_msg("%s is not in %s", from, path);
    OK(lt_write_file(path, bytes.data, bytes.size, err));
    lt_buffer_free(&bytes);
}

/* clang-format off */
#define LLAMA3                                                                             \
    ",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":%s,"       \
    "\"low_freq_factor\":1.0,\"high_freq_factor\":%s,"                                     \
    "\"original_max_position_embeddings\":8192}}"
/* clang-format on */

/* Files of others do not say what the divisors were made from: they are Llama 3's, or refused. */
static void published_rope_scaling_is_recognised(void **state)
{
    (void)state;
    const char *path = scratch_path("rope.gguf", NULL);
    char json[1000];
    for (int other = 0; other < 2; other++) {
        snprintf(json, sizeof json, "{" WIDE LLAMA3, "32.0", other ? "3.0" : "4.0");
        lt_model *model = fresh(json), *again = NULL;
        lt_err failure = {0};
        save(model, path, LT_GGUF_FILE_F16);
        again = load(path);
        check_same_config(&model->config, &again->config);
        lt_model_free(again);
        patch(path, "lathe.rope", "other.rope", strlen("lathe.rope"));
        lt_status status = lt_model_load(path, backend, &again, &failure);
        assert_int_equal(status, other ? LT_ERR_UNSUPPORTED : LT_OK);
        if (other)
            assert_non_null(strstr(failure.message, "rope_freqs.weight"));
        else
            check_same_config(&model->config, &again->config);
        lt_model_free(again);
        lt_model_free(model);
    }
}

/* 30 of 44 dimensions: 44 * (30.0 / 44) is below 30 in doubles, and would be cut to 29. */
static void parts_of_heads_come_back(void **state)
{
    (void)state;
    const char *path = scratch_path("part.gguf", NULL);
    lt_model *model = fresh("{\"model_type\":\"gpt_neox\",\"hidden_size\":88,"
                            "\"intermediate_size\":8,\"num_hidden_layers\":1,"
                            "\"num_attention_heads\":2,\"vocab_size\":3,\"rotary_pct\":0.69}");
    assert_int_equal(model->config.rotary_dim, 30);
    save(model, path, LT_GGUF_FILE_F32);
    lt_model *again = load(path);
    check_same_config(&model->config, &again->config);
    lt_model_free(again);
    lt_model_free(model);
}

/* Its architecture always has an output; read back it is one of its own. */
static void a_tied_neox_repeats_its_embedding(void **state)
{
    (void)state;
    const char *path = scratch_path("tied.gguf", NULL);
    lt_model *model = fresh("{\"model_type\":\"gpt_neox\",\"hidden_size\":32,"
                            "\"intermediate_size\":64,\"num_hidden_layers\":1,"
                            "\"num_attention_heads\":4,\"vocab_size\":19,\"rotary_pct\":0.5,"
                            "\"hidden_act\":\"gelu_new\",\"tie_word_embeddings\":true}");
    save(model, path, LT_GGUF_FILE_F32);
    lt_model *again = load(path);
    const lt_tensor tokens = lt_model_param(model, "embed_tokens.weight")->weight;
    const lt_param *head = lt_model_param(again, "lm_head.weight");
    assert_non_null(head);
    assert_memory_equal(head->weight.data, tokens.data, bytes_of(tokens));
    assert_int_equal(again->config.activation, LT_ACTIVATION_GELU_TANH);
    assert_int_equal(again->config.rotary_dim, 4);
    lt_model_free(again);
    lt_model_free(model);
}

static void a_window_becomes_the_context(void **state)
{
    (void)state;
    const char *path = scratch_path("window.gguf", NULL);
    lt_buffer notes = {0};
    lt_gguf file;
    int64_t context = 0;
    lt_model *model = load_golden("mistral", NULL, backend);
    OK(lt_model_save_gguf(model, path, &(lt_gguf_export){.notes = &notes}, err));
    OK(lt_gguf_open(path, &file, err));
    OK(lt_gguf_get_int(&file, "llama.context_length", 1, 100, &context, err));
    assert_int_equal(context, model->config.sliding_window);
    assert_non_null(strstr(notes.data, "sliding_window"));
    lt_gguf_close(&file);
    lt_buffer_free(&notes);
    lt_model_free(model);
}

static void token_ids_come_from_the_tokenizers_keys(void **state)
{
    (void)state;
    const char *path = scratch_path("ids.gguf", NULL);
    lt_gguf_keys more = {0};
    lt_model_config config;
    lt_model *model = load_golden("llama", NULL, backend);
    OK(lt_gguf_add_u32(&more, "tokenizer.ggml.eos_token_id", 7, err));
    OK(lt_gguf_add_u32(&more, "tokenizer.ggml.eot_token_id", 9, err));
    OK(lt_gguf_add_u32(&more, "tokenizer.ggml.eom_token_id", 7, err));
    OK(lt_gguf_add_u32(&more, "tokenizer.ggml.padding_token_id", 3, err));
    OK(lt_model_save_gguf(model, path, &(lt_gguf_export){.more = &more}, err));
    OK(lt_model_config_load(path, &config, err));
    assert_int_equal(config.eos_token_count, 2);
    assert_int_equal(config.eos_token_ids[0], 7);
    assert_int_equal(config.eos_token_ids[1], 9);
    assert_int_equal(config.pad_token_id, 3);
    assert_int_equal(config.bos_token_id, -1);
    lt_model_config_free(&config);
    lt_gguf_keys_free(&more);
    lt_model_free(model);
}

/* --- Refusals --------------------------------------------------------------------------------- */

static void models_beyond_llama_cpp_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } cases[] = {{"gpt2_odd", "scale_attn_by_inverse_layer_idx"},
                 {"gpt_neox_sequential", "without biases"}};
    for (size_t i = 0; i < LT_COUNT_OF(cases); i++) {
        lt_err failure = {0};
        lt_model *model = load_golden(cases[i].name, NULL, backend);
        assert_int_equal(lt_model_save_gguf(model, scratch_path("no.gguf", NULL),
                                            &(lt_gguf_export){0}, &failure),
                         LT_ERR_UNSUPPORTED);
        if (!strstr(failure.message, cases[i].text)) fail_msg("%s", failure.message);
        lt_model_free(model);
    }
    lt_model *model = load_golden("qwen2", NULL, backend);
    lt_model_config c = model->config;
    c.rope_type = LT_ROPE_LLAMA3;
    assert_int_equal(lt_gguf_check_supported(&c, NULL, NULL), LT_ERR_UNSUPPORTED);
    c = model->config;
    c.head_dim *= 2;
    assert_int_equal(lt_gguf_check_supported(&c, NULL, NULL), LT_ERR_UNSUPPORTED);
    c = model->config;
    c.attention_scale *= 2;
    assert_int_equal(lt_gguf_check_supported(&c, NULL, NULL), LT_ERR_UNSUPPORTED);
    c = model->config;
    c.attention_out_bias = true;
    assert_int_equal(lt_gguf_check_supported(&c, NULL, NULL), LT_ERR_UNSUPPORTED);
    lt_model_free(model);
}

static void refuse_patched(const char *from, const char *to, size_t length, lt_status wanted,
                           const char *text)
{
    const char *path = scratch_path("patched.gguf", NULL);
    lt_err failure = {0};
    lt_model *model = load_golden("llama_linear_bf16", NULL, backend), *again = NULL;
    save(model, path, LT_GGUF_FILE_BF16);
    patch(path, from, to, length);
    lt_status status = lt_model_load(path, backend, &again, &failure);
    if (status != wanted || !strstr(failure.message, text) ||
        !strstr(failure.message, "patched.gguf"))
        fail_msg("%s -> %s: %d %s", from, to, status, failure.message);
    lt_model_free(model);
}

#define PATCH(from, to) from, to, sizeof(from) - 1
#define COUNT(n)        "llama.block_count\4\0\0\0" n
static void damage_is_named(void **state)
{
    (void)state;
    refuse_patched(PATCH("blk.0.attn_k.weight", "blk.0.attn_x.weight"), LT_ERR_FORMAT,
                   "\"blk.0.attn_k.weight\" is missing");
    refuse_patched(PATCH("blk.1.ffn_up.weight", "blk.9.ffn_up.weight"), LT_ERR_FORMAT,
                   "\"blk.1.ffn_up.weight\" is missing");
    refuse_patched(PATCH("general.architecture", "general.architectura"), LT_ERR_UNSUPPORTED,
                   "architecture \"\"");
    refuse_patched(PATCH("llama.block_count", "llama.block_sount"), LT_ERR_FORMAT,
                   "\"llama.block_count\" is missing");
    refuse_patched(PATCH(COUNT("\2"), COUNT("\1")), LT_ERR_FORMAT, "does not belong to a model");
    refuse_patched(PATCH(COUNT("\2"), COUNT("\3")), LT_ERR_FORMAT, "is missing");
    refuse_patched(PATCH("llama.attention.head_count_kv", "llama.attention.head_count_xx"),
                   LT_ERR_FORMAT, "has shape");
    refuse_patched(PATCH("linear", "yarnly"), LT_ERR_UNSUPPORTED, "rope scaling \"yarnly\"");
}

static void types_of_others_are_named(void **state)
{
    (void)state;
    char from[128] = "blk.0.ffn_down.weight\2", to[128];
    size_t length = strlen("blk.0.ffn_down.weight") + 4;
    lt_model *model = load_golden("llama_linear_bf16", NULL, backend);
    from[length] = (char)model->config.intermediate_size;
    from[length + 8] = (char)model->config.hidden_size;
    length += 16;
    memcpy(to, from, sizeof to);
    from[length] = LT_GGUF_BF16;
    to[length] = 13; /* Q5_K */
    refuse_patched(from, to, length + 1, LT_ERR_UNSUPPORTED, "is of type 13 of ggml");
    lt_model_free(model);
}

/* --- Files as models -------------------------------------------------------------------------- */

static void files_are_models(void **state)
{
    (void)state;
    char path[1024];
    lt_buffer found = {0};
    lt_err failure = {0};
    lt_model *model = load_golden("gpt2", NULL, backend);
    snprintf(path, sizeof path, "%s", scratch_path("gpt2.gguf", NULL));
    save(model, path, LT_GGUF_FILE_Q8_0);
    OK(lt_model_resolve(path, &found, err));
    assert_string_equal(found.data, path);
    write_text("plain", NULL, "text");
    assert_int_equal(lt_model_resolve(scratch_path("plain", NULL), &found, &failure), LT_ERR_IO);
    assert_non_null(strstr(failure.message, "GGUF"));
    lt_buffer_free(&found);
    lt_model_free(model);
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}

static void inspecting_shows_what_is_there(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    lt_model *model = load_golden("llama_linear_bf16", NULL, backend);
    save(model, scratch_path("inspect.gguf", NULL), LT_GGUF_FILE_F16);
    OK(lt_inspect_gguf(scratch_path("inspect.gguf", NULL), true, out, err));
    OK(lt_inspect_gguf(golden_gguf("quants.gguf"), false, out, err));
    fclose(out);
    contains(text, "family       llama");
    contains(text, "linear, factor");
    contains(text, "general.name                              \"a test\"");
    contains(text, "token_embd.weight");
    contains(text, "F16");
    contains(text, "  min ");
    contains(text, "not loadable ");
    contains(text, "3 of [\"\", \"a\", ");
    contains(text, "3 of [3, -1, 2]");
    contains(text, "-1099511627776");
    contains(text, "q6_k.random");
    free(text);
    lt_model_free(model);
}

static void formats_have_names(void **state)
{
    (void)state;
    lt_err failure = {0};
    lt_gguf_format format;
    for (int i = LT_GGUF_FILE_F32; i <= LT_GGUF_FILE_Q6_K; i++) {
        OK(lt_gguf_format_parse(lt_gguf_format_name((lt_gguf_format)i), &format, err));
        assert_int_equal(format, i);
        assert_true(lt_gguf_logit_bound(format) > 0);
    }
    assert_int_equal(lt_gguf_format_parse("q4_k_s", &format, &failure), LT_ERR_USAGE);
    assert_non_null(strstr(failure.message, "did you mean 'q4_k_m'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exports_are_the_converters),
        cmocka_unit_test(types_are_llama_quantizes),
        cmocka_unit_test(fall_backs_are_noted_once),
        cmocka_unit_test(exact_formats_come_back),
        cmocka_unit_test(quantised_formats_come_back_decoded),
        cmocka_unit_test(published_rope_scaling_is_recognised),
        cmocka_unit_test(parts_of_heads_come_back),
        cmocka_unit_test(a_tied_neox_repeats_its_embedding),
        cmocka_unit_test(a_window_becomes_the_context),
        cmocka_unit_test(token_ids_come_from_the_tokenizers_keys),
        cmocka_unit_test(models_beyond_llama_cpp_are_refused),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(types_of_others_are_named),
        cmocka_unit_test(files_are_models),
        cmocka_unit_test(inspecting_shows_what_is_there),
        cmocka_unit_test(formats_have_names),
    };
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
