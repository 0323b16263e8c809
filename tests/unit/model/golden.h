/* The golden models of tests/golden/models, and batches to feed them: shared by the tests of
 * model/. Failures end the running test with their message. */
#ifndef LT_TEST_GOLDEN_H
#define LT_TEST_GOLDEN_H

#include <math.h>

#include "base/rng.h"
#include "model/formats/safetensors.h"
#include "model/model.h"
#include "../check.h"

static const char *const golden_names[] UNUSED = {
    "gpt2",  "gpt2_odd",     "gpt_neox",          "gpt_neox_sequential",
    "llama", "llama3_rope",  "llama_linear_bf16", "mistral",
    "qwen2", "qwen3_sharded"};
enum { GOLDEN_COUNT = sizeof golden_names / sizeof golden_names[0] };

static UNUSED lt_backend *make_backend(const char *isa)
{
    lt_backend *backend = NULL;
    if (isa && strcmp(isa, "double") == 0)
        OK(lt_backend_create_double(&backend, err));
    else
        OK(lt_backend_create(&(lt_backend_settings){.isa = isa, .threads = 2}, &backend, err));
    return backend;
}

/* For groups of tests that share one; made by their own set-up. */
static lt_backend *backend UNUSED;

static UNUSED int free_backend(void **state)
{
    (void)state;
    lt_backend_free(backend);
    return 0;
}

static UNUSED lt_model *new_model(const lt_model_shape *shape, uint64_t seed, const lt_backend *on)
{
    lt_model_config config;
    lt_model *model = NULL;
    OK(lt_model_config_make(shape, &config, err));
    OK(lt_model_create(&config, on, seed, &model, err));
    return model;
}

static UNUSED const char *golden_path(const char *name, const char *file)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/golden/models/%s%s%s", LATHE_TEST_DIR, name, file ? "/" : "",
             file ? file : "");
    return path;
}

static UNUSED lt_model *load_golden(const char *name, const char *file, const lt_backend *backend)
{
    lt_model *model = NULL;
    OK(lt_model_load(golden_path(name, file), backend, &model, err));
    return model;
}

static UNUSED lt_status freeze_layers(lt_model *model, int64_t layers, lt_err *e)
{
    return lt_model_set_trainable(model, &(lt_trainable){.freeze_layers = layers}, e);
}

static UNUSED lt_memory_plan plan_of(const lt_model_config *config, const lt_backend *backend,
                                     const lt_workspace_settings *settings, int64_t frozen)
{
    lt_memory_plan plan;
    const lt_plan_settings what = {.workspace = *settings, .trainable = {.freeze_layers = frozen}};
    OK(lt_model_plan(config, backend, &what, &plan, err));
    return plan;
}

/* --- Batches --------------------------------------------------------------------------------- */

typedef struct test_batch {
    lt_batch batch;
    int32_t *ids, *targets, *positions, *first_key;
} test_batch;

/* Rows of one document each; targets all LT_IGNORE, ids zero. */
static UNUSED test_batch new_batch(int64_t rows, int64_t length)
{
    size_t n = (size_t)(rows * length);
    test_batch b = {.ids = calloc(n, 4),
                    .targets = calloc(n, 4),
                    .positions = calloc(n, 4),
                    .first_key = calloc(n, 4)};
    for (size_t i = 0; i < n; i++) {
        b.positions[i] = (int32_t)(i % (size_t)length);
        b.targets[i] = LT_IGNORE;
    }
    b.batch = (lt_batch){.rows = rows,
                         .length = length,
                         .input_ids = b.ids,
                         .targets = b.targets,
                         .positions = b.positions,
                         .first_key = b.first_key};
    return b;
}

static UNUSED void free_batch(test_batch *b)
{
    free(b->ids);
    free(b->targets);
    free(b->positions);
    free(b->first_key);
}

/* Random ids; about two thirds of the targets are trained, random too. */
static UNUSED test_batch random_batch(int64_t rows, int64_t length, int64_t vocab, uint64_t seed)
{
    test_batch b = new_batch(rows, length);
    for (int64_t i = 0; i < rows * length; i++) {
        b.ids[i] = (int32_t)lt_random_below(seed, 1, (uint64_t)i, (uint64_t)vocab);
        if (lt_random_uniform(seed, 3, (uint64_t)i) < 0.35) continue;
        b.targets[i] = (int32_t)lt_random_below(seed, 2, (uint64_t)i, (uint64_t)vocab);
        b.batch.trained_tokens++;
    }
    return b;
}

/* Splits every row into documents that start at `start` (besides 0). */
static UNUSED void split_rows(test_batch *b, int64_t start)
{
    int64_t length = b->batch.length;
    for (int64_t r = 0; r < b->batch.rows; r++)
        for (int64_t i = start; i < length; i++) {
            b->positions[r * length + i] = (int32_t)(i - start);
            b->first_key[r * length + i] = (int32_t)start;
        }
}

/* Each row's first `shared[row]` tokens become the beginning of two documents: one to `start`, one
 * behind it. */
static UNUSED void share_rows(test_batch *b, const int32_t *shared, int64_t start)
{
    int64_t length = b->batch.length;
    b->batch.shared = shared;
    for (int64_t i = 0; i < b->batch.rows * length; i++) {
        int64_t common = shared[i / length], at = i % length;
        int64_t first = at < common ? 0 : at < start || common > start ? common : start;
        b->first_key[i] = (int32_t)first;
        b->positions[i] = (int32_t)(at < common ? at : common + at - first);
    }
}

/* --- Workspaces and gradients ---------------------------------------------------------------- */

static UNUSED lt_workspace *new_workspace(const lt_model *model, const lt_workspace_settings *s)
{
    lt_workspace *workspace = NULL;
    OK(lt_workspace_create(model, s, &workspace, err));
    return workspace;
}

/* One forward and backward that replaces the gradients. Returns the loss's sum. */
static UNUSED double run_backward(lt_model *model, const lt_workspace_settings *settings,
                                  const lt_batch *batch, lt_dropout_mask dropout)
{
    lt_loss loss = {0};
    lt_workspace *workspace = new_workspace(model, settings);
    OK(lt_model_forward_backward(model, workspace, batch, dropout, false, &loss, err));
    lt_workspace_free(workspace);
    return loss.sum;
}

/* Logits of every position: [rows, length, vocab]; the caller frees them. */
static UNUSED float *logits_of(const lt_model *model, const lt_batch *batch)
{
    int64_t n = batch->rows * batch->length * model->config.vocab_size;
    float *logits = malloc((size_t)n * sizeof *logits);
    lt_workspace *w = new_workspace(
        model, &(lt_workspace_settings){.rows = batch->rows, .length = batch->length});
    OK(lt_model_logits(model, w, batch, logits, err));
    lt_workspace_free(w);
    return logits;
}

static UNUSED double largest_difference(const float *a, const float *b, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    return largest;
}

static UNUSED double element(lt_tensor t, int64_t i)
{
    return t.dtype == LT_F64 ? ((double *)t.data)[i] : (double)((float *)t.data)[i];
}

static UNUSED double largest_element(lt_tensor t)
{
    double largest = 0;
    for (int64_t i = 0; i < lt_tensor_count(t); i++)
        largest = fmax(largest, fabs(element(t, i)));
    return largest;
}

/* A copy of a host tensor's bytes. */
static UNUSED void *copy_of(lt_tensor t)
{
    size_t bytes = (size_t)lt_tensor_count(t) * lt_dtype_size(t.dtype);
    void *copy = malloc(bytes ? bytes : 1);
    if (bytes) memcpy(copy, t.data, bytes);
    return copy;
}

/* The whole gradient as one host tensor, padding included. */
static UNUSED lt_tensor all_gradients(const lt_model *model)
{
    return lt_tensor_1d(model->gradients.base, model->backend->real, model->gradient_count);
}

#endif
