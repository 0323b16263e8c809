/* Hugging Face directories: what is loaded is saved back to the byte, and what is wrong is named.
 */
#include "base/json.h"
#include "files.h"
#include "model/formats/hf_save.h"
#include "model/formats/numbers.h"
#include "model/formats/weight_files.h"

/* --- There and back ----------------------------------------------------------------------------
 */

/* Every tensor of `a` that is no buffer lies in `b` with the same bytes; full names in b. */
static void check_same_tensors(const char *a, const char *b, const char *prefix)
{
    lt_weight_files x, y;
    OK(lt_weight_files_open(a, &x, err));
    OK(lt_weight_files_open(b, &y, err));
    size_t matched = 0, total = 0;
    for (size_t i = 0; i < x.count; i++) {
        for (size_t k = 0; k < x.files[i].count; k++) {
            const lt_safetensors_entry *entry = &x.files[i].entries[k], *found;
            const lt_safetensors *file;
            char full[256];
            snprintf(full, sizeof full, "%s%s", prefix, entry->name);
            if (strstr(entry->name, ".attn.bias")) continue;
            if (!lt_weight_files_take(&y, entry->name, &file, &found) &&
                !lt_weight_files_take(&y, full, &file, &found))
                fail_msg("%s is not in %s", entry->name, b);
            assert_string_equal(entry->dtype, found->dtype);
            assert_int_equal(entry->ndim, found->ndim);
            assert_memory_equal(entry->shape, found->shape, sizeof entry->shape);
            assert_memory_equal(entry->data, found->data, entry->size);
            matched++;
        }
    }
    for (size_t i = 0; i < y.count; i++)
        total += y.files[i].count;
    assert_int_equal(matched, total);
    lt_weight_files_close(&x);
    lt_weight_files_close(&y);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        const char *name = golden_names[i];
        bool bf16 = strstr(name, "bf16") != NULL, sharded = strstr(name, "sharded") != NULL;
        lt_model *model = load_golden(name, NULL, backend), *again = NULL;
        const char *directory = new_directory("saved");
        OK(lt_model_save_sharded(model, directory, bf16 ? LT_BF16 : LT_F32,
                                 sharded ? 20000 : 5000000000u, NULL, err));
        assert_int_equal(sharded, !lt_path_exists(scratch_path("saved", "model.safetensors")));
        check_same_tensors(golden_path(name, NULL), directory, "transformer.");
        OK(lt_model_load(directory, backend, &again, err));
        assert_memory_equal(model->weights.base, again->weights.base,
                            (size_t)model->weight_count * 4);
        lt_model_free(model);
        lt_model_free(again);
    }
}

/* Held in bf16 and written so: rounded once, and what was bf16 already to the byte. */
static void test_held_in_half(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        lt_model *half = NULL, *whole = load_golden(golden_names[i], NULL, backend), *again = NULL;
        OK(lt_model_load_as(golden_path(golden_names[i], NULL), backend, LT_BF16, &half, err));
        assert_true(half->weights.capacity < whole->weights.capacity);
        OK(lt_model_save(half, new_directory("half"), LT_BF16, err));
        OK(lt_model_save(whole, new_directory("whole"), LT_BF16, err));
        check_same_file(scratch_path("half", "model.safetensors"),
                        scratch_path("whole", "model.safetensors"));
        if (strstr(golden_names[i], "bf16"))
            check_same_tensors(golden_path(golden_names[i], NULL), scratch_path("half", NULL), "");
        /* and what is read of it is what it was */
        OK(lt_model_load_as(scratch_path("half", NULL), backend, LT_BF16, &again, err));
        for (int p = 0; p < half->param_count; p++) {
            const lt_param *a = &half->params[p], *b = &again->params[p];
            size_t bytes = (size_t)lt_tensor_count(a->weight) * lt_dtype_size(a->dtype);
            if (a->dtype == LT_BF16) assert_memory_equal(a->weight.data, b->weight.data, bytes);
        }
        lt_model_free(half);
        lt_model_free(whole);
        lt_model_free(again);
    }
}

/* New rows of a table in bf16 are the mean of the old ones, too. */
static void test_half_grows(void **state)
{
    (void)state;
    lt_model *model = NULL;
    OK(lt_model_load_as(golden_path("gpt_neox", NULL), backend, LT_BF16, &model, err));
    int64_t old = model->config.vocab_size, width = model->config.hidden_size;
    OK(lt_model_grow_vocab(model, old + 3, err));
    static const char *const tables[] = {"embed_tokens.weight", "lm_head.weight"};
    for (int t = 0; t < 2; t++) {
        const lt_param *row = lt_model_param(model, tables[t]);
        int64_t n = lt_tensor_count(row->weight);
        float *values = malloc((size_t)n * sizeof *values);
        assert_int_equal(row->dtype, LT_BF16);
        lt_numbers_to_f32(row->weight.data, n, LT_BF16, values);
        for (int64_t c = 0; c < width; c++) {
            double mean = 0;
            for (int64_t r = 0; r < old; r++)
                mean += (double)values[r * width + c] / (double)old;
            for (int64_t r = old; r < old + 3; r++)
                assert_true(fabs((double)values[r * width + c] - mean) <= fabs(mean) * 0x1p-7);
        }
        free(values);
    }
    lt_model_free(model);
}

/* q of head 1 of NeoX lies behind q, k and v of head 0; c_attn of GPT-2 is [in, out]. */
static void test_layouts(void **state)
{
    (void)state;
    lt_safetensors file;
    float value;
    lt_model *model = load_golden("gpt_neox", NULL, backend);
    int64_t hidden = model->config.hidden_size, d = model->config.head_dim;
    int64_t heads = model->config.num_attention_heads;
    OK(lt_safetensors_open(golden_path("gpt_neox", "model.safetensors"), &file, err));
    const lt_safetensors_entry *entry =
        lt_safetensors_find(&file, "gpt_neox.layers.1.attention.query_key_value.weight");
    lt_tensor qkv = lt_model_param(model, "layers.1.attention.qkv.weight")->weight;
    for (int64_t which = 0; which < 3; which++) {
        for (int64_t head = 0; head < heads; head++) {
            int64_t ours = (which * heads + head) * d + 2, theirs = head * 3 * d + which * d + 2;
            OK(lt_safetensors_read_f32(&file, entry, theirs * hidden + 5, 1, &value, err));
            assert_true(element(qkv, ours * hidden + 5) == value);
        }
    }
    lt_safetensors_close(&file);
    lt_model_free(model);

    model = load_golden("gpt2", NULL, backend);
    hidden = model->config.hidden_size;
    OK(lt_safetensors_open(golden_path("gpt2", "model.safetensors"), &file, err));
    entry = lt_safetensors_find(&file, "transformer.h.0.attn.c_attn.weight");
    OK(lt_safetensors_read_f32(&file, entry, 3 * 3 * hidden + 7, 1, &value, err));
    qkv = lt_model_param(model, "layers.0.attention.qkv.weight")->weight;
    assert_true(element(qkv, 7 * hidden + 3) == value);
    lt_safetensors_close(&file);
    lt_model_free(model);
}

/* Fresh models of every family and type: saved, loaded, the same up to the type's rounding. */
static void test_fresh_models(void **state)
{
    (void)state;
    static const lt_dtype types[] = {LT_F32, LT_BF16, LT_F16};
    for (const char *const *family = lt_model_families(); *family; family++) {
        for (int t = 0; t < 3; t++) {
            lt_model_shape shape = {.family = *family,
                                    .layers = 2,
                                    .hidden_size = 64,
                                    .vocab_size = 50,
                                    .max_position = 20,
                                    .bos_token_id = 0,
                                    .eos_token_id = 1,
                                    .pad_token_id = 2};
            lt_model *model = new_model(&shape, 5, backend), *again = NULL;
            const char *directory = new_directory("fresh");
            OK(lt_model_save(model, directory, types[t], err));
            OK(lt_model_load(directory, backend, &again, err));
            assert_int_equal(again->config.eos_token_ids[0], 1);
            assert_int_equal(again->config.pad_token_id, 2);
            for (int64_t i = 0; i < model->weight_count; i++) {
                float before = ((float *)model->weights.base)[i];
                float after = ((float *)again->weights.base)[i], expected = before;
                if (types[t] == LT_BF16) expected = lt_bf16_to_f32(lt_f32_to_bf16(before));
                if (types[t] == LT_F16) expected = lt_f16_to_f32(lt_f32_to_f16(before));
                assert_true(after == expected);
            }
            lt_model_free(model);
            lt_model_free(again);
        }
    }
}

static void test_grown_model(void **state)
{
    (void)state;
    lt_model *model = load_golden("gpt2", NULL, backend), *again = NULL;
    int64_t vocab = model->config.vocab_size;
    OK(lt_model_grow_vocab(model, vocab + 3, err));
    model->config.eos_token_ids[0] = (int32_t)vocab;
    const char *directory = new_directory("grown");
    OK(lt_model_save(model, directory, LT_F32, err));
    OK(lt_model_load(directory, backend, &again, err));
    assert_int_equal(again->config.vocab_size, vocab + 3);
    assert_int_equal(again->config.eos_token_ids[0], vocab);
    assert_memory_equal(model->weights.base, again->weights.base, (size_t)model->weight_count * 4);
    lt_model_free(model);
    lt_model_free(again);
}

static void test_old_weights_are_removed(void **state)
{
    (void)state;
    lt_model *model = load_golden("llama", NULL, backend);
    const char *directory = new_directory("twice");
    OK(lt_model_save_sharded(model, directory, LT_F32, 1000, NULL, err));
    assert_true(lt_path_exists(scratch_path("twice", "model.safetensors.index.json")));
    OK(lt_model_save(model, directory, LT_F32, err));
    lt_name_list names = {0};
    OK(lt_list_directory(directory, &names, err));
    assert_int_equal(names.count, 3);
    lt_name_list_free(&names);
    OK(lt_model_save_sharded(model, directory, LT_F32, 1000, NULL, err));
    assert_false(lt_path_exists(scratch_path("twice", "model.safetensors")));
    lt_model_free(model);
}

static void test_real_models(void **state)
{
    (void)state;
    const char *assets = getenv("LATHE_TEST_ASSETS");
    if (!assets) {
        print_message("skipped: LATHE_TEST_ASSETS is not set\n");
        skip();
    }
    static const char *const names[] = {"stories260K", "tiny-gpt2-medical"};
    static const int64_t parameters[] = {260032, 102714};
    for (int i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/models/%s", assets, names[i]);
        lt_model *model = NULL;
        OK(lt_model_load(path, backend, &model, err));
        assert_int_equal(lt_model_parameter_count(model, false), parameters[i]);
        const char *directory = new_directory("real");
        OK(lt_model_save(model, directory, LT_F32, err));
        check_same_tensors(path, directory, "");
        lt_model_free(model);
    }
}

/* --- What is wrong -----------------------------------------------------------------------------
 */

static edited edit_golden(const char *name)
{
    return edit_file(golden_path(name, "model.safetensors"));
}

/* Writes the edited tensors beside the golden config.json and loads that. */
static lt_status load_edited(const char *name, edited *e, lt_err *err)
{
    const char *directory = new_directory("edited");
    write_edited(e, scratch_path("edited", "model.safetensors"));
    OK(lt_copy_file(golden_path(name, "config.json"), scratch_path("edited", "config.json"), err));
    lt_model *model = NULL;
    lt_status status = lt_model_load(directory, backend, &model, err);
    lt_model_free(model);
    return status;
}

static void check_edited(const char *name, edited *e, lt_status expected, const char *word)
{
    lt_err err = {0};
    lt_status status = load_edited(name, e, &err);
    bool named = !word || strstr(err.message, word);
    if (status != expected || !named || (status && !strstr(err.message, "model.safetensors")))
        fail_msg("status %d, message '%s' should say '%s'", status, err.message, word);
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    edited e = edit_golden("llama");
    check_edited("llama", &e, LT_OK, NULL);

    e = edit_golden("llama");
    e.tensors[find_edited(&e, "model.layers.1.self_attn.k_proj.weight")].name = "other";
    check_edited("llama", &e, LT_ERR_FORMAT, "model.layers.1.self_attn.k_proj.weight");

    e = edit_golden("llama");
    add_edited(&e, (lt_safetensors_declaration){"surplus.weight", LT_F32, 1, {1}}, "1234");
    check_edited("llama", &e, LT_ERR_FORMAT, "surplus.weight");

    e = edit_golden("llama");
    const char *buffer = "model.layers.0.self_attn.rotary_emb.inv_freq";
    add_edited(&e, (lt_safetensors_declaration){buffer, LT_F32, 1, {1}}, "1234");
    check_edited("llama", &e, LT_OK, NULL);

    e = edit_golden("llama");
    lt_safetensors_declaration *down =
        &e.tensors[find_edited(&e, "model.layers.0.mlp.down_proj.weight")];
    int64_t rows = down->shape[0];
    down->shape[0] = down->shape[1];
    down->shape[1] = rows;
    check_edited("llama", &e, LT_ERR_FORMAT, "model.layers.0.mlp.down_proj.weight");

    e = edit_golden("llama");
    e.tensors[find_edited(&e, "model.norm.weight")].dtype = LT_I32;
    check_edited("llama", &e, LT_ERR_UNSUPPORTED, "I32");
}

/* A tied head may be repeated in the file, or be there instead of the embedding. */
static void test_tied_heads(void **state)
{
    (void)state;
    edited e = edit_golden("gpt2");
    size_t wte = find_edited(&e, "transformer.wte.weight");
    e.tensors[e.count] = e.tensors[wte];
    e.tensors[e.count].name = "lm_head.weight";
    e.data[e.count++] = e.data[wte];
    check_edited("gpt2", &e, LT_OK, NULL);

    e = edit_golden("gpt2");
    e.tensors[e.count] = e.tensors[wte];
    e.tensors[e.count].name = "lm_head.weight";
    e.data[e.count++] = e.data[wte] + 4;
    check_edited("gpt2", &e, LT_ERR_FORMAT, "tie_word_embeddings");

    e = edit_golden("gpt2");
    e.tensors[wte].name = "lm_head.weight";
    check_edited("gpt2", &e, LT_OK, NULL);

    /* without the prefix, as files of the base model are */
    e = edit_golden("gpt2");
    for (size_t i = 0; i < e.count; i++)
        e.tensors[i].name += strlen("transformer.");
    check_edited("gpt2", &e, LT_OK, NULL);
}

/* Loads SCRATCH/bad. */
static void check_load(lt_status expected, const char *word)
{
    lt_err err = {0};
    lt_model *model = NULL;
    lt_status status = lt_model_load(scratch_path("bad", NULL), backend, &model, &err);
    assert_null(model);
    if (status != expected || !strstr(err.message, word))
        fail_msg("status %d instead of %d, message '%s' should say '%s'", status, expected,
                 err.message, word);
}

static void test_wrong_directories(void **state)
{
    (void)state;
    new_directory("bad");
    check_load(LT_ERR_IO, "config.json");
    OK(lt_copy_file(golden_path("llama", "config.json"), scratch_path("bad", "config.json"), err));
    check_load(LT_ERR_IO, "model.safetensors.index.json");
    write_text("bad", "pytorch_model.bin", "x");
    check_load(LT_ERR_UNSUPPORTED, "save_pretrained");

    const char *index = "model.safetensors.index.json";
    write_text("bad", index, "{\"weight_map\":{\"a\":\"../model.safetensors\"}}");
    check_load(LT_ERR_FORMAT, "plain file name");
    write_text("bad", index, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}");
    check_load(LT_ERR_FORMAT, "plain file name");
    write_text("bad", index, "{\"weight_map\":{\"a\":7}}");
    check_load(LT_ERR_FORMAT, "plain file name");
    write_text("bad", index, "{\"weight_map\":{}}");
    check_load(LT_ERR_FORMAT, "empty");
    write_text("bad", index, "{\"weight_map\":[]}");
    check_load(LT_ERR_FORMAT, "weight_map");
    write_text("bad", index, "{\"weight_map\":{\"a\":\"model-1.safetensors\"}}");
    check_load(LT_ERR_IO, "model-1.safetensors");
    OK(lt_copy_file(golden_path("llama", "model.safetensors"),
                    scratch_path("bad", "model-1.safetensors"), err));
    check_load(LT_ERR_FORMAT, "\"a\" is not in");
    OK(lt_copy_file(golden_path("llama", "model.safetensors"),
                    scratch_path("bad", "model-2.safetensors"), err));
    write_text("bad", index,
               "{\"weight_map\":{\"model.norm.weight\":\"model-1.safetensors\","
               "\"lm_head.weight\":\"model-2.safetensors\"}}");
    check_load(LT_ERR_FORMAT, "is also in");

    write_text("bad", "model.safetensors", "garbage!");
    check_load(LT_ERR_FORMAT, "model.safetensors");
    write_text("bad", "generation_config.json", "[]");
    check_load(LT_ERR_FORMAT, "generation_config.json");
    write_text("bad", "config.json", "{\"model_type\":");
    check_load(LT_ERR_FORMAT, "config.json");
}

/* --- The local cache ---------------------------------------------------------------------------
 */

static void test_resolve(void **state)
{
    (void)state;
    lt_err err = {0};
    lt_buffer found = {0};
    new_directory("hub");
    setenv("HF_HUB_CACHE", scratch_path("hub", NULL), 1);
    const char *snapshot = scratch_path("hub", "models--some--model/snapshots/abc123");
    OK(lt_make_directories(snapshot, err));
    OK(lt_make_directories(scratch_path("hub", "models--some--model/refs"), err));
    write_text("hub", "models--some--model/refs/main", "abc123\n");

    OK(lt_model_resolve(folder, &found, err));
    assert_string_equal(found.data, folder);
    OK(lt_model_resolve("some/model", &found, err));
    assert_string_equal(found.data, snapshot);
    static const char *const bad[] = {"some/other", "../model", "some/../model", "a/b/c", "/x", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lt_model_resolve(bad[i], &found, &err), LT_ERR_IO);
    assert_int_equal(lt_model_resolve("some/other", &found, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "models--some--other"));
    write_text("hub", "models--some--model/refs/main", "../../..");
    assert_int_equal(lt_model_resolve("some/model", &found, &err), LT_ERR_FORMAT);
    write_text("hub", "models--some--model/refs/main", "gone");
    assert_int_equal(lt_model_resolve("some/model", &found, &err), LT_ERR_IO);
    lt_buffer_free(&found);
}

static int set_up(void **state)
{
    backend = make_backend("ref");
    return make_folder(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_held_in_half),
        cmocka_unit_test(test_half_grows),
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_fresh_models),
        cmocka_unit_test(test_grown_model),
        cmocka_unit_test(test_old_weights_are_removed),
        cmocka_unit_test(test_real_models),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_tied_heads),
        cmocka_unit_test(test_wrong_directories),
        cmocka_unit_test(test_resolve),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down_files);
}
