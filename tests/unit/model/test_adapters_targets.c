/* Which modules an adapter's configuration means: what a user writes, and what PEFT's rules make of
 * names, patterns and layers. */
#include "adapters.h"
#include "base/json.h"
#include "model/families/families.h"

/* "a b c" of a list. */
static void check_list(const char *what, const lt_string_list *list, const char *expected)
{
    char text[512] = "";
    for (size_t i = 0; i < list->count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "",
                 list->items[i]);
    if (strcmp(text, expected) != 0) fail_msg("%s: '%s' instead of '%s'", what, text, expected);
}

/* --- What a user writes ----------------------------------------------------------------------- */

static void check_chosen(const char *family, const char *text, const char *expected)
{
    lt_adapter_config config = {0};
    OK(lt_adapter_choose_targets(lt_family_by_name(family), text, &config, err));
    check_list(text, &config.target_modules, expected);
    lt_adapter_config_free(&config);
}

static void test_chosen_targets(void **state)
{
    (void)state;
    static const char *const llamas[] = {"llama", "mistral", "qwen2", "qwen3"};
    for (int i = 0; i < 4; i++) {
        check_chosen(llamas[i], "all-linear",
                     "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj");
        check_chosen(llamas[i], "attention", "k_proj o_proj q_proj v_proj");
        check_chosen(llamas[i], "v_proj,q_proj", "q_proj v_proj");
        check_chosen(llamas[i], " self_attn.q_proj, q_proj  q_proj ", "q_proj self_attn.q_proj");
    }
    /* GPT-2 has a c_proj in both halves of a block */
    check_chosen("gpt2", "all-linear", "c_attn c_fc c_proj");
    check_chosen("gpt2", "attention", "attn.c_proj c_attn");
    check_chosen("gpt2", "mlp.c_proj", "mlp.c_proj");
    check_chosen("gpt2", "h.11.attn.c_attn,transformer.h.0.mlp.c_fc",
                 "h.11.attn.c_attn transformer.h.0.mlp.c_fc");
    check_chosen("gpt_neox", "all-linear", "dense dense_4h_to_h dense_h_to_4h query_key_value");
    check_chosen("gpt_neox", "attention", "dense query_key_value");
    check_chosen("gpt_neox", "dense_4h_to_h", "dense_4h_to_h");
    check_chosen("gpt_neox", "layers.3.mlp.dense_h_to_4h", "layers.3.mlp.dense_h_to_4h");
}

static void check_not_chosen(const char *family, const char *text, lt_status expected,
                             const char *word)
{
    lt_adapter_config config = {0};
    lt_err err = {0};
    lt_status status = lt_adapter_choose_targets(lt_family_by_name(family), text, &config, &err);
    if (status != expected || !strstr(err.message, word))
        fail_msg("'%s': status %d, message '%s' should say '%s'", text, status, err.message, word);
    lt_adapter_config_free(&config);
}

static void test_unknown_targets(void **state)
{
    (void)state;
    check_not_chosen("llama", "q_proj,v_prj", LT_ERR_USAGE, "did you mean \"v_proj\"?");
    check_not_chosen("llama", "c_attn", LT_ERR_USAGE,
                     "it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj (or "
                     "all-linear, attention)");
    check_not_chosen("gpt2", "attn", LT_ERR_USAGE, "no module \"attn\"");
    check_not_chosen("gpt2", "proj", LT_ERR_USAGE, "no module \"proj\"");
    check_not_chosen("gpt2", "all_linear", LT_ERR_USAGE, "no module \"all_linear\"");
    check_not_chosen("gpt2", "h.x.attn.c_attn", LT_ERR_USAGE, "no module");
    check_not_chosen("gpt2", "wte", LT_ERR_UNSUPPORTED, "--modules-to-save");
    check_not_chosen("llama", "lm_head", LT_ERR_UNSUPPORTED, "--modules-to-save");
    check_not_chosen("llama", "", LT_ERR_USAGE, "names no module");
    check_not_chosen("llama", " , ", LT_ERR_USAGE, "names no module");
    char longest[200];
    memset(longest, 'q', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    check_not_chosen("llama", longest, LT_ERR_USAGE, "too long");
}

static void check_saved(const char *family, const char *text, const char *expected)
{
    lt_adapter_config config = {0};
    lt_err err = {0};
    lt_status status = lt_adapter_choose_saved(lt_family_by_name(family), text, &config, &err);
    assert_int_equal(status, expected ? LT_OK : LT_ERR_USAGE);
    if (expected)
        check_list(text, &config.modules_to_save, expected);
    else
        assert_non_null(strstr(err.message, "embed ("));
    lt_adapter_config_free(&config);
}

static void test_chosen_saved(void **state)
{
    (void)state;
    check_saved("gpt2", "embed,lm_head", "wte lm_head");
    check_saved("gpt2", "transformer.wte", "wte");
    check_saved("llama", "embed,embed_tokens", "embed_tokens");
    check_saved("qwen3", "lm_head embed", "lm_head embed_tokens");
    check_saved("gpt_neox", "embed,lm_head", "embed_in lm_head");
    check_saved("gpt_neox", "embed_in,embed_out", "embed_in lm_head");
    check_saved("gpt2", "", "");
    check_saved("gpt2", "wpe", NULL);
    check_saved("llama", "wte", NULL);
    check_saved("llama", "norm", NULL);
}

/* --- What a configuration means --------------------------------------------------------------- */

/* The modules with an A: "layer.module/rank", in order. */
static void check_adapted(const char *base, const lt_adapter_config *config, const char *expected)
{
    lt_model *model = load_golden(base, NULL, backend);
    lt_adapter *adapter = NULL;
    char text[1024] = "";
    OK(lt_adapter_create(model, config, "asked", 1, &adapter, err));
    for (int p = 0; p < adapter->param_count; p++) {
        const lt_param *row = &model->params[adapter->first_param + p];
        const char *end = strstr(row->name, ".lora_A.weight");
        if (!end) continue;
        const char *start = end;
        while (start > row->name && start[-1] != '.')
            start--;
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d.%.*s/%lld",
                 *text ? " " : "", row->layer, (int)(end - start), start, (long long)row->shape[0]);
    }
    if (strcmp(text, expected) != 0) fail_msg("'%s' instead of '%s'", text, expected);
    lt_model_free(model);
}

/* The same of a file that says `json`. */
static void check_json(const char *base, const char *json, const char *expected)
{
    char directory[] = "/tmp/lathe_targets_XXXXXX", path[64];
    lt_buffer text = {0};
    lt_adapter_config config;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/adapter_config.json", directory);
    OK(lt_buffer_printf(&text, err, "{\"peft_type\": \"LORA\", \"r\": 3, %s}", json));
    OK(lt_write_file(path, text.data, text.size, err));
    OK(lt_adapter_config_load(directory, &config, err));
    check_adapted(base, &config, expected);
    OK(lt_remove_tree(directory, err));
    lt_adapter_config_free(&config);
    lt_buffer_free(&text);
}

static void test_rules(void **state)
{
    (void)state;
    /* a name is the end of a path, at a dot */
    check_json("gpt2", "\"target_modules\": [\"c_proj\"]",
               "0.c_proj/3 0.c_proj/3 1.c_proj/3 1.c_proj/3");
    check_json("gpt2", "\"target_modules\": [\"attn.c_proj\", \"proj\", \"tn.c_proj\"]",
               "0.c_proj/3 1.c_proj/3");
    check_json("gpt2", "\"target_modules\": [\"h.1.attn.c_attn\", \"transformer.h.0.mlp.c_fc\"]",
               "0.c_fc/3 1.c_attn/3");
    check_json("gpt_neox", "\"target_modules\": [\"dense\"]", "0.dense/3 1.dense/3");
    /* a pattern is all of it */
    check_json("llama", "\"target_modules\": \".*\\\\.(q|v)_proj\"",
               "0.q_proj/3 0.v_proj/3 1.q_proj/3 1.v_proj/3");
    check_json("llama", "\"target_modules\": \"model\\\\.layers\\\\.1\\\\..*proj|nothing\"",
               "1.q_proj/3 1.k_proj/3 1.v_proj/3 1.o_proj/3 1.gate_proj/3 1.up_proj/3 "
               "1.down_proj/3");
    /* layers, a number or a list; what is excluded */
    check_json("llama", "\"target_modules\": [\"o_proj\"], \"layers_to_transform\": 1",
               "1.o_proj/3");
    check_json("llama", "\"target_modules\": [\"o_proj\"], \"layers_to_transform\": [0, 5]",
               "0.o_proj/3");
    check_json("llama", "\"target_modules\": [\"o_proj\"], \"layers_to_transform\": []",
               "0.o_proj/3 1.o_proj/3");
    check_json("llama",
               "\"target_modules\": [\"o_proj\", \"up_proj\"], \"exclude_modules\": [\"o_proj\"]",
               "0.up_proj/3 1.up_proj/3");
    /* ranks by pattern, the first that fits */
    check_json("llama",
               "\"target_modules\": [\"k_proj\", \"v_proj\"], \"rank_pattern\": {\"k_proj\": 2, "
               "\"layers.1.self_attn.(k|v)_proj\": 5}",
               "0.k_proj/2 0.v_proj/3 1.k_proj/2 1.v_proj/5");
    check_json("llama",
               "\"target_modules\": [\"k_proj\"], \"rank_pattern\": {\"proj\": 2, \"_proj\": 2}",
               "0.k_proj/3 1.k_proj/3");
}

/* alpha / r, or alpha / sqrt(r), of each module's own alpha and r. */
static void test_scaling(void **state)
{
    (void)state;
    for (int rslora = 0; rslora < 2; rslora++) {
        lt_model *model = load_golden("llama", NULL, backend);
        lt_adapter_config config = {
            .kind = LT_ADAPTER_LORA, .r = 4, .lora_alpha = 6, .use_rslora = rslora};
        lt_adapter *adapter = NULL;
        OK(lt_adapter_choose_targets(model->config.family, "q_proj,v_proj", &config, err));
        config.rank_pattern = json_pack("{s:i}", "v_proj", 9);
        config.alpha_pattern = json_pack("{s:f}", "layers.1.self_attn.v_proj", 2.5);
        OK(lt_adapter_create(model, &config, "scaled", 1, &adapter, err));
        for (int layer = 0; layer < 2; layer++) {
            const lt_lora_part *parts =
                adapter->linears[layer * LT_LINEAR_COUNT + LT_LINEAR_QKV].parts;
            double alpha = layer == 1 ? 2.5 : 6;
            assert_true(parts[0].scaling == 6 / (rslora ? 2.0 : 4.0));
            assert_int_equal(parts[1].rank, 0);
            assert_int_equal(parts[2].first_rank, 4);
            assert_true(parts[2].scaling == alpha / (rslora ? 3.0 : 9.0));
        }
        lt_adapter_config_free(&config);
        lt_model_free(model);
    }
}

/* --- What can serve it ------------------------------------------------------------------------ */

static void check_notes(const lt_adapter_config *config, const char *word, int lines)
{
    lt_buffer notes = {0};
    OK(lt_adapter_serving_notes(config, &notes, err));
    int count = 0;
    for (size_t i = 0; i < notes.size; i++)
        count += notes.data[i] == '\n';
    assert_int_equal(count, lines);
    if (word && !strstr(lt_buffer_text(&notes), word))
        fail_msg("'%s' should say '%s'", lt_buffer_text(&notes), word);
    lt_buffer_free(&notes);
}

static void test_serving_notes(void **state)
{
    (void)state;
    lt_adapter_config lora = {.kind = LT_ADAPTER_LORA, .r = 16};
    check_notes(&lora, NULL, 0);
    lora.r = 17;
    check_notes(&lora, "--max-lora-rank 17", 1);
    lora.use_dora = true;
    check_notes(&lora, "DoRA", 2);
    OK(lt_string_list_add(&lora.modules_to_save, "wte", err));
    check_notes(&lora, "modules_to_save", 3);
    lt_adapter_config_free(&lora);
    const lt_adapter_kind prompts[] = {LT_ADAPTER_PREFIX, LT_ADAPTER_PROMPT, LT_ADAPTER_P_TUNING};
    for (int i = 0; i < 3; i++)
        check_notes(&(lt_adapter_config){.kind = prompts[i]}, lt_adapter_kind_name(prompts[i]), 1);
}

static int set_up(void **state)
{
    (void)state;
    backend = make_backend("ref");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chosen_targets), cmocka_unit_test(test_unknown_targets),
        cmocka_unit_test(test_chosen_saved),   cmocka_unit_test(test_rules),
        cmocka_unit_test(test_scaling),        cmocka_unit_test(test_serving_notes)};
    return cmocka_run_group_tests(tests, set_up, free_backend);
}
