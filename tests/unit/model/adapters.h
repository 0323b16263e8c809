/* Adapters of every method on the golden models, with random values in every row, so that nothing
 * of them can be missing unseen: shared by the tests of adapters. */
#ifndef LT_TEST_ADAPTERS_H
#define LT_TEST_ADAPTERS_H

#include "golden.h"
#include "model/adapters/internal.h"

/* One of four static buffers. */
static UNUSED const char *adapter_path(const char *name, const char *file)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/golden/adapters/%s%s%s", LATHE_TEST_DIR, name,
             file ? "/" : "", file ? file : "");
    return path;
}

/* --- Every method ---------------------------------------------------------------------------- */

/* What an adapter is, for any family. `targets`: as a user writes it, or "some": modules of both
 * halves of a block, and of a packed matrix not all. */
typedef struct adapter_case {
    const char *name;
    lt_adapter_kind kind;
    const char *targets, *saved;
    bool rslora, dora, projection;
    double dropout;
} adapter_case;

/* clang-format off */
static const adapter_case adapter_cases[] UNUSED = {
    {"lora",                LT_ADAPTER_LORA, "all-linear", "", false, false, false, 0},
    {"lora, dropout",       LT_ADAPTER_LORA, "all-linear", "", false, false, false, 0.3},
    {"lora, some",          LT_ADAPTER_LORA, "some", "", false, false, false, 0},
    {"lora, some, dropout", LT_ADAPTER_LORA, "some", "", false, false, false, 0.3},
    {"rslora",              LT_ADAPTER_LORA, "attention", "", true, false, false, 0},
    {"dora",                LT_ADAPTER_LORA, "all-linear", "", false, true, false, 0},
    {"dora, some",          LT_ADAPTER_LORA, "some", "", true, true, false, 0},
    {"dora, dropout",       LT_ADAPTER_LORA, "all-linear", "", false, true, false, 0.3},
    {"dora, some, dropout", LT_ADAPTER_LORA, "some", "", false, true, false, 0.3},
    {"saved embed",         LT_ADAPTER_LORA, "some", "embed", false, false, false, 0},
    {"saved lm_head",       LT_ADAPTER_LORA, "some", "lm_head", false, false, false, 0},
    {"saved both",          LT_ADAPTER_LORA, "attention", "embed,lm_head", false, false, false, 0},
    {"prefix",              LT_ADAPTER_PREFIX, NULL, NULL, false, false, false, 0},
    {"prefix, projection",  LT_ADAPTER_PREFIX, NULL, NULL, false, false, true, 0},
    {"prompt",              LT_ADAPTER_PROMPT, NULL, NULL, false, false, false, 0},
    {"p-tuning",            LT_ADAPTER_P_TUNING, NULL, NULL, false, false, false, 0},
};
/* clang-format on */
enum { ADAPTER_CASES = sizeof adapter_cases / sizeof *adapter_cases, VIRTUAL = 4 };

/* Models of every family, with grouped heads, norms of heads and sliding windows. */
static const char *const adapter_bases[] UNUSED = {"gpt2",  "gpt_neox", "llama",
                                                   "qwen2", "mistral",  "qwen3_sharded"};
enum { ADAPTER_BASES = sizeof adapter_bases / sizeof *adapter_bases };

static UNUSED const adapter_case *case_named(const char *name)
{
    for (int i = 0; i < ADAPTER_CASES; i++)
        if (strcmp(adapter_cases[i].name, name) == 0) return &adapter_cases[i];
    fail_msg("there is no case %s", name);
    return NULL;
}

static UNUSED bool has_virtual_tokens(const adapter_case *c)
{
    return c->kind != LT_ADAPTER_LORA;
}

static UNUSED const char *some_targets(const lt_family *family)
{
    if (strcmp(family->name, "gpt2") == 0) return "attn.c_proj,c_fc";
    if (strcmp(family->name, "gpt_neox") == 0) return "query_key_value,dense_h_to_4h";
    return "q_proj,v_proj,up_proj,down_proj";
}

static UNUSED lt_adapter_config config_of(const lt_model *model, const adapter_case *c)
{
    lt_adapter_config config = {.kind = c->kind,
                                .r = 3,
                                .lora_alpha = 5,
                                .lora_dropout = c->dropout,
                                .use_rslora = c->rslora,
                                .use_dora = c->dora,
                                .num_virtual_tokens = VIRTUAL,
                                .prefix_projection = c->projection,
                                .encoder_hidden_size = c->projection ? 7 : 5};
    const lt_family *family = model->config.family;
    if (c->kind != LT_ADAPTER_LORA) return config;
    bool some = strcmp(c->targets, "some") == 0;
    OK(lt_adapter_choose_targets(family, some ? some_targets(family) : c->targets, &config, err));
    OK(lt_adapter_choose_saved(family, c->saved, &config, err));
    return config;
}

static UNUSED void set_element(lt_tensor t, int64_t i, double value)
{
    if (t.dtype == LT_F64)
        ((double *)t.data)[i] = value;
    else
        ((float *)t.data)[i] = (float)value;
}

/* Moves every row of the adapter away from where it starts. Magnitudes stay near the lengths they
 * belong to, copies of embedding and head near their originals. */
static UNUSED void disturb(lt_model *model, const lt_adapter *adapter, uint64_t seed)
{
    for (int p = 0; p < adapter->param_count; p++) {
        const lt_param *row = &model->params[adapter->first_param + p];
        bool magnitude = strstr(row->name, "magnitude") != NULL;
        bool copy = strstr(row->name, "modules_to_save") != NULL;
        for (int64_t i = 0; i < lt_tensor_count(row->weight); i++) {
            double noise = lt_random_normal(seed, (uint64_t)p + 1, (uint64_t)i);
            double old = element(row->weight, i), value = 0.25 * noise;
            if (magnitude) value = old * (1 + 0.2 * noise / (1 + fabs(noise)));
            if (copy) value = old + 0.1 * noise;
            set_element(row->weight, i, value);
        }
    }
    if (adapter->method->loaded)
        OK(adapter->method->loaded(model, model->adapters[adapter->index], err));
}

/* A fresh adapter, as it starts. */
static UNUSED lt_adapter *fresh_adapter(lt_model *model, const adapter_case *c, const char *name,
                                        uint64_t seed)
{
    lt_adapter_config config = config_of(model, c);
    lt_adapter *adapter = NULL;
    OK(lt_adapter_create(model, &config, name, seed, &adapter, err));
    lt_adapter_config_free(&config);
    return adapter;
}

static UNUSED lt_adapter *random_adapter(lt_model *model, const adapter_case *c, const char *name,
                                         uint64_t seed)
{
    lt_adapter *adapter = fresh_adapter(model, c, name, seed);
    disturb(model, adapter, seed);
    return adapter;
}

static UNUSED lt_adapter *load_adapter(lt_model *model, const char *golden, const char *name)
{
    lt_adapter *adapter = NULL;
    OK(lt_adapter_load(model, adapter_path(golden, NULL), name, &adapter, err));
    return adapter;
}

/* The rows of two adapters, of one model or two, bit for bit. */
static UNUSED void check_same_rows(const lt_model *model, const lt_adapter *adapter,
                                   const lt_model *other_model, const lt_adapter *other)
{
    assert_int_equal(adapter->param_count, other->param_count);
    for (int p = 0; p < adapter->param_count; p++) {
        const lt_param *a = &model->params[adapter->first_param + p];
        const lt_param *b = &other_model->params[other->first_param + p];
        assert_string_equal(a->name, b->name);
        assert_memory_equal(a->shape, b->shape, sizeof a->shape);
        size_t bytes = (size_t)lt_tensor_count(a->weight) * lt_dtype_size(a->weight.dtype);
        if (memcmp(a->weight.data, b->weight.data, bytes) != 0)
            fail_msg("%s differs between adapters %s and %s", a->name, adapter->name, other->name);
    }
}

#endif
