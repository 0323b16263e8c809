/* Adapters in GGUF: against what llama.cpp's converter made of the same (tests/golden/gguf), their
 * scales, and those that llama.cpp does not take. */
#include "gguf_fixture.h"
#include "model/adapters/internal.h"
#include "model/formats/gguf_layout.h"

static const char *golden_adapter(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/golden/adapters/%s", LATHE_TEST_DIR, name);
    return path;
}

static void save_adapter(const char *base, const char *name, const char *path)
{
    lt_adapter *adapter = NULL;
    lt_model *model = load_golden(base, NULL, backend);
    OK(lt_adapter_load(model, golden_adapter(name), "a", &adapter, err));
    OK(lt_adapter_save_gguf(model, adapter, path, &(lt_gguf_export){0}, err));
    lt_model_free(model);
}

static void adapters_are_the_converters(void **state)
{
    (void)state;
    json_t *converted = NULL, *wanted;
    const char *name, *path = scratch_path("adapter.gguf", NULL);
    OK(lt_json_load(golden_gguf("converted.json"), &converted, err));
    json_object_foreach(json_object_get(converted, "adapters"), name, wanted)
    {
        save_adapter(json_string_value(json_object_get(wanted, "base")), name, path);
        check_described(path, wanted, false);
    }
    json_decref(converted);
}

/* PEFT has A and B of a Conv1D as those of a Linear. */
static void adapters_of_conv1d_are_not_turned(void **state)
{
    (void)state;
    const char *path = scratch_path("adapter.gguf", NULL);
    static const struct {
        const char *ours, *theirs;
    } pairs[] = {
        {"blk.1.attn_qkv.weight.lora_a", "h.1.attn.c_attn.lora_A.weight"},
        {"blk.1.attn_qkv.weight.lora_b", "h.1.attn.c_attn.lora_B.weight"},
        {"blk.0.ffn_down.weight.lora_a", "h.0.mlp.c_proj.lora_A.weight"},
    };
    lt_gguf file;
    lt_safetensors peft;
    char tensors[1100];
    save_adapter("gpt2", "gpt2_lora", path);
    OK(lt_gguf_open(path, &file, err));
    snprintf(tensors, sizeof tensors, "%s/adapter_model.safetensors", golden_adapter("gpt2_lora"));
    OK(lt_safetensors_open(tensors, &peft, err));
    for (size_t i = 0; i < 3; i++) {
        char name[200];
        snprintf(name, sizeof name, "base_model.model.transformer.%s", pairs[i].theirs);
        const lt_gguf_tensor *ours = lt_gguf_find(&file, pairs[i].ours);
        const lt_safetensors_entry *theirs = lt_safetensors_find(&peft, name);
        assert_non_null(ours);
        assert_non_null(theirs);
        assert_memory_equal(ours->shape, theirs->shape, 2 * sizeof *ours->shape);
        assert_memory_equal(ours->data, theirs->data, theirs->size);
    }
    lt_gguf_close(&file);
    lt_safetensors_close(&peft);
}

/* llama.cpp computes alpha / rank B A, where Lathe has scaling B A. */
static void check_scales(const char *base, const char *name)
{
    lt_adapter *adapter = NULL;
    lt_gguf file;
    const char *path = scratch_path("adapter.gguf", NULL);
    double alpha = 0;
    lt_model *model = load_golden(base, NULL, backend);
    OK(lt_adapter_load(model, golden_adapter(name), "a", &adapter, err));
    OK(lt_adapter_save_gguf(model, adapter, path, &(lt_gguf_export){0}, err));
    OK(lt_gguf_open(path, &file, err));
    OK(lt_gguf_get_number(&file, "adapter.lora.alpha", &alpha, err));
    int64_t linears = model->config.num_hidden_layers * LT_LINEAR_COUNT;
    size_t next = 0;
    for (int64_t i = 0; i < linears; i++) {
        for (int k = 0; k < adapter->linears[i].part_count; k++) {
            const lt_lora_part *p = &adapter->linears[i].parts[k];
            if (p->rank == 0) continue;
            const lt_gguf_tensor *b = &file.tensors[next + 1];
            const float *from = model->params[p->b].weight.data;
            float stored;
            next += 2;
            /* the first value stays where it is in every order of rows */
            lt_gguf_decode(b->type, b->data, 1, &stored);
            double ours = p->scaling * (double)from[0];
            double theirs = alpha / (double)b->shape[1] * (double)stored;
            if (!(fabs(ours - theirs) <= 1e-6 * fabs(ours)))
                fail_msg("%s, %s: %g instead of %g", name, b->name, theirs, ours);
        }
    }
    assert_int_equal(next, file.tensor_count);
    lt_gguf_close(&file);
    lt_model_free(model);
}

static void scales_of_adapters_come_out(void **state)
{
    (void)state;
    check_scales("llama", "llama_lora");
    check_scales("llama", "llama_rslora");
    check_scales("llama", "llama_lora_patterns");
    check_scales("gpt2", "gpt2_lora_rslora");
    check_scales("gpt_neox", "gpt_neox_rslora");
}

static void refuse_adapter(const char *base, const char *name, lt_gguf_format format,
                           lt_status wanted, const char *text)
{
    lt_err failure = {0};
    lt_adapter *adapter = NULL;
    lt_model *model = load_golden(base, NULL, backend);
    OK(lt_adapter_load(model, golden_adapter(name), "a", &adapter, err));
    lt_status status = lt_adapter_save_gguf(model, adapter, scratch_path("no.gguf", NULL),
                                            &(lt_gguf_export){.format = format}, &failure);
    assert_int_equal(status, wanted);
    if (!strstr(failure.message, text)) fail_msg("%s: %s", name, failure.message);
    assert_false(lt_path_exists(scratch_path("no.gguf", NULL)));
    lt_model_free(model);
}

static void what_llama_cpp_does_not_take_is_refused(void **state)
{
    (void)state;
    refuse_adapter("llama", "llama_dora", LT_GGUF_FILE_F32, LT_ERR_UNSUPPORTED, "DoRA");
    refuse_adapter("llama", "llama_lora_saved", LT_GGUF_FILE_F32, LT_ERR_UNSUPPORTED,
                   "modules_to_save");
    refuse_adapter("llama", "llama_prefix", LT_GGUF_FILE_F32, LT_ERR_UNSUPPORTED, "kind prefix");
    refuse_adapter("llama", "llama_lora", LT_GGUF_FILE_Q4_0, LT_ERR_USAGE, "not q4_0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_are_the_converters),
        cmocka_unit_test(adapters_of_conv1d_are_not_turned),
        cmocka_unit_test(scales_of_adapters_come_out),
        cmocka_unit_test(what_llama_cpp_does_not_take_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
