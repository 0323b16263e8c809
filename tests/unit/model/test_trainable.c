/* Which rows are trained, chosen by layer and by name, and the list of them that people read. */
#include "adapters.h"

enum { ROWS = 2, LENGTH = 9 };

/* --- Choosing --------------------------------------------------------------------------------- */

/* Exactly the rows whose names are given (separated by blanks; a '*' at the end: all that begin so)
 * are trained. */
static bool listed(const char *name, const char *list)
{
    for (const char *at = list; *at; at += strspn(at, " ")) {
        size_t length = strcspn(at, " "), compared = length;
        bool open = length > 0 && at[length - 1] == '*';
        if (open) compared--;
        if (strncmp(name, at, compared) == 0 && (open || name[length] == '\0')) return true;
        at += length;
    }
    return false;
}

static void check_chosen(const char *base, const lt_trainable *what, const char *expected)
{
    lt_model *model = load_golden(base, NULL, backend);
    int64_t count = 0;
    OK(lt_model_set_trainable(model, what, err));
    for (int p = 0; p < model->param_count; p++) {
        const lt_param *row = &model->params[p];
        if (row->trainable != listed(row->name, expected))
            fail_msg("%s, train '%s', freeze '%s': %s is %s", base, what->train ? what->train : "",
                     what->freeze ? what->freeze : "", row->name,
                     row->trainable ? "trained" : "frozen");
        assert_int_equal(row->gradient_offset >= 0, row->trainable);
        if (row->trainable) count += lt_tensor_count(row->weight);
    }
    assert_int_equal(lt_model_parameter_count(model, true), count);
    lt_model_free(model);
}

static void test_choosing(void **state)
{
    (void)state;
    check_chosen("gpt2", &(lt_trainable){0}, "*");
    check_chosen("gpt2", &(lt_trainable){.train = "", .freeze = ""}, "*");
    /* own names, anywhere in them */
    check_chosen("gpt2", &(lt_trainable){.train = "mlp\\.up"},
                 "layers.0.mlp.up.weight layers.0.mlp.up.bias layers.1.mlp.up.weight "
                 "layers.1.mlp.up.bias");
    check_chosen("gpt2", &(lt_trainable){.train = "^final_norm"}, "final_norm.*");
    check_chosen("gpt2", &(lt_trainable){.train = "layers.1", .freeze = "bias$|norm|mlp"},
                 "layers.1.attention.qkv.weight layers.1.attention.out.weight");
    /* Hugging Face's */
    check_chosen("gpt2", &(lt_trainable){.train = "transformer\\.h\\.0\\.attn\\.c_attn\\.weight"},
                 "layers.0.attention.qkv.weight");
    check_chosen("gpt2", &(lt_trainable){.freeze = "^transformer\\.h"}, "embed_* final_norm.*");
    check_chosen("gpt_neox", &(lt_trainable){.train = "embed_out|embed_in"},
                 "lm_head.weight embed_tokens.weight");
    /* a part of a packed matrix means all of it */
    check_chosen("llama", &(lt_trainable){.train = "layers.1.self_attn.v_proj"},
                 "layers.1.attention.qkv.weight");
    check_chosen("llama", &(lt_trainable){.train = "gate_proj"},
                 "layers.0.mlp.gate_up.weight layers.1.mlp.gate_up.weight");
    /* with frozen layers; both patterns on one row: frozen */
    check_chosen("llama", &(lt_trainable){.freeze_layers = 1, .train = "mlp.down"},
                 "layers.1.mlp.down.weight");
    check_chosen("llama", &(lt_trainable){.freeze_layers = 2, .freeze = "lm_head"},
                 "final_norm.weight");
    check_chosen("llama", &(lt_trainable){.train = "layers", .freeze = "layers.0"}, "layers.1.*");
}

static void check_refused(const lt_trainable *what, lt_status expected, const char *word)
{
    lt_err err = {0};
    lt_model *model = load_golden("gpt2", NULL, backend);
    int64_t all = lt_model_parameter_count(model, true), count = model->gradient_count;
    lt_status status = lt_model_set_trainable(model, what, &err);
    if (status != expected || !strstr(err.message, word))
        fail_msg("status %d, message '%s' should say '%s'", status, err.message, word);
    /* as it was: everything can be trained */
    assert_int_equal(lt_model_parameter_count(model, true), all);
    assert_int_equal(model->gradient_count, count);
    OK(lt_model_allocate_gradients(model, err));
    lt_model_free(model);
}

static void test_refusals(void **state)
{
    (void)state;
    check_refused(&(lt_trainable){.train = "q_proj"}, LT_ERR_USAGE,
                  "--train \"q_proj\" finds no parameter: names are like ");
    check_refused(&(lt_trainable){.freeze = "layers.2."}, LT_ERR_USAGE, "--freeze \"layers.2.\"");
    check_refused(&(lt_trainable){.freeze = "^transformer"}, LT_ERR_USAGE,
                  "nothing is left to be trained");
    check_refused(&(lt_trainable){.train = "layers.0", .freeze_layers = 1}, LT_ERR_USAGE,
                  "nothing is left");
    check_refused(&(lt_trainable){.train = "layers.(0"}, LT_ERR_USAGE,
                  "--train: the regular expression \"layers.(0\" is wrong at character 10");
    check_refused(&(lt_trainable){.freeze = "((.*)*)*[!?]"}, LT_ERR_LIMIT, "--freeze: matching");
    check_refused(&(lt_trainable){.freeze_layers = 3}, LT_ERR_USAGE, "3 layers can not be frozen");
}

/* --- Gradients -------------------------------------------------------------------------------- */

/* What is trained beside frozen rows gets the gradient of full training, bit for bit. */
static void check_gradients(const char *base, const lt_trainable *what, lt_recompute recompute)
{
    lt_model *full = load_golden(base, NULL, backend), *some = load_golden(base, NULL, backend);
    test_batch b = random_batch(ROWS, LENGTH, full->config.vocab_size, 12);
    const lt_dropout_mask key = {.seed = 1, .stream = 2};
    lt_workspace_settings settings = {.rows = ROWS,
                                      .length = LENGTH,
                                      .training = true,
                                      .recompute = recompute,
                                      .resid_pdrop = 0.1,
                                      .attn_pdrop = 0.1};
    int trained = 0;
    OK(lt_model_set_trainable(some, what, err));
    OK(lt_model_allocate_gradients(full, err));
    OK(lt_model_allocate_gradients(some, err));
    double loss = run_backward(full, &settings, &b.batch, key);
    double other = run_backward(some, &settings, &b.batch, key);
    assert_memory_equal(&loss, &other, sizeof loss);
    for (int p = 0; p < full->param_count; p++) {
        const lt_param *x = &full->params[p], *y = &some->params[p];
        size_t bytes = (size_t)lt_tensor_count(x->gradient) * sizeof(float);
        assert_int_equal(y->trainable, y->gradient.data != NULL);
        if (!y->trainable) continue;
        trained++;
        if (memcmp(x->gradient.data, y->gradient.data, bytes) != 0)
            fail_msg("%s: alone, %s gets another gradient", base, x->name);
    }
    assert_true(trained > 0);
    free_batch(&b);
    lt_model_free(full);
    lt_model_free(some);
}

static void test_gradients(void **state)
{
    (void)state;
    static const lt_trainable choices[] = {{.train = "bias$|norm"},
                                           {.train = "embed_tokens"},
                                           {.train = "layers.1.mlp"},
                                           {.train = "layers.1.attention_norm"},
                                           {.train = "attention.qkv.weight"},
                                           {.freeze = "embed|lm_head"},
                                           {.freeze_layers = 1, .freeze = "final_norm"},
                                           {.train = "final_norm"}};
    for (int m = 0; m < GOLDEN_COUNT; m++)
        for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
            check_gradients(golden_names[m], &choices[i], (lt_recompute)(i % 3));
}

/* --- The inventory ---------------------------------------------------------------------------- */

static void check_inventory(lt_model *model, const char *expected)
{
    lt_buffer text = {0};
    OK(lt_model_describe_trainable(model, &text, err));
    if (strcmp(lt_buffer_text(&text), expected) != 0)
        fail_msg("the inventory is\n%s", lt_buffer_text(&text));
    lt_buffer_free(&text);
    lt_model_free(model);
}

static lt_model *chosen(const char *base, lt_trainable what)
{
    lt_model *model = load_golden(base, NULL, backend);
    OK(lt_model_set_trainable(model, &what, err));
    return model;
}

static lt_model *with_adapter(const char *base, const char *name)
{
    lt_model *model = load_golden(base, NULL, backend);
    random_adapter(model, case_named(name), "described", 1);
    return model;
}

/* clang-format off */
static void test_inventory(void **state)
{
    (void)state;
    check_inventory(chosen("gpt2", (lt_trainable){0}),
        "embed_tokens.weight                                  [53, 16]                  848\n"
        "embed_positions.weight                               [24, 16]                  384\n"
        "layers.0-1.attention.qkv.weight                      [48, 16]                 1536\n"
        "layers.0-1.attention.out.weight                      [16, 16]                  512\n"
        "layers.0-1.mlp.up.weight                             [64, 16]                 2048\n"
        "layers.0-1.mlp.down.weight                           [16, 64]                 2048\n"
        "layers.0-1.attention.qkv.bias                        [48]                       96\n"
        "layers.0-1.attention.out.bias                        [16]                       32\n"
        "layers.0-1.mlp.up.bias                               [64]                      128\n"
        "layers.0-1.mlp.down.bias                             [16]                       32\n"
        "layers.0-1.attention_norm.weight                     [16]                       32\n"
        "layers.0-1.attention_norm.bias                       [16]                       32\n"
        "layers.0-1.mlp_norm.weight                           [16]                       32\n"
        "layers.0-1.mlp_norm.bias                             [16]                       32\n"
        "final_norm.weight                                    [16]                       16\n"
        "final_norm.bias                                      [16]                       16\n");
    check_inventory(chosen("llama", (lt_trainable){.freeze_layers = 1, .freeze = "head"}),
        "layers.1.attention.qkv.weight                        [48, 24]                 1152\n"
        "layers.1.attention.out.weight                        [24, 24]                  576\n"
        "layers.1.mlp.gate_up.weight                          [56, 24]                 1344\n"
        "layers.1.mlp.down.weight                             [24, 28]                  672\n"
        "layers.1.attention_norm.weight                       [24]                       24\n"
        "layers.1.mlp_norm.weight                             [24]                       24\n"
        "final_norm.weight                                    [24]                       24\n");
    check_inventory(with_adapter("llama", "saved lm_head"),
        "model.layers.0-1.self_attn.q_proj.lora_A.weight      [3, 24]                   144\n"
        "model.layers.0-1.self_attn.v_proj.lora_A.weight      [3, 24]                   144\n"
        "model.layers.0-1.self_attn.q_proj.lora_B.weight      [24, 3]                   144\n"
        "model.layers.0-1.self_attn.v_proj.lora_B.weight      [12, 3]                    72\n"
        "model.layers.0-1.mlp.up_proj.lora_A.weight           [3, 24]                   144\n"
        "model.layers.0-1.mlp.up_proj.lora_B.weight           [28, 3]                   168\n"
        "model.layers.0-1.mlp.down_proj.lora_A.weight         [3, 28]                   168\n"
        "model.layers.0-1.mlp.down_proj.lora_B.weight         [24, 3]                   144\n"
        "modules_to_save.lm_head.weight                       [51, 24]                 1224\n");
    check_inventory(with_adapter("gpt2", "prefix, projection"),
        "prompt_encoder.embedding.weight                      [4, 16]                    64\n"
        "prompt_encoder.transform.0.weight                    [7, 16]                   112\n"
        "prompt_encoder.transform.0.bias                      [7]                         7\n"
        "prompt_encoder.transform.2.weight                    [64, 7]                   448\n"
        "prompt_encoder.transform.2.bias                      [64]                       64\n");
}
/* clang-format on */

/* Blocks that are trained in part: "0-2,4". */
static void test_inventory_of_some_blocks(void **state)
{
    (void)state;
    lt_model_shape shape = {.family = "gpt2",
                            .layers = 6,
                            .hidden_size = 16,
                            .heads = 2,
                            .max_position = 8,
                            .vocab_size = 11,
                            .bos_token_id = -1,
                            .eos_token_id = -1,
                            .pad_token_id = -1};
    lt_model *model = new_model(&shape, 1, backend);
    const lt_trainable some = {.train = "out.bias", .freeze = "\\.[35]\\."};
    OK(lt_model_set_trainable(model, &some, err));
    check_inventory(
        model,
        "layers.0-2,4.attention.out.bias                      [16]                       64\n");
}

static int set_up(void **state)
{
    (void)state;
    backend = make_backend(NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choosing), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_inventory),
        cmocka_unit_test(test_inventory_of_some_blocks)};
    return cmocka_run_group_tests(tests, set_up, free_backend);
}
