/* The backward pass of every adapter against finite differences in double, through whole models of
 * every family, with packed rows, dropout of the base and of LoRA; and micro-batches that add up.
 *
 * A row of n elements is tried along one random direction d: the slope of the loss is g . d, which
 * a wrong element anywhere in g spoils. */
#include "adapters.h"
#include "training.h"

/* --- DoRA's lengths --------------------------------------------------------------------------- */

/* DoRA's backward takes |W + s B A| for a constant (as the paper does, to save memory), so its
 * gradient is the slope of a loss in which the lengths stay what they were. An adapter that is not
 * trained keeps those of its last refresh; the copy is to see that they did stay. */
static double *hold_lengths(lt_model *model, const lt_adapter *adapter)
{
    double *lengths = NULL;
    size_t count = 0;
    model->params[adapter->first_param].trainable = false;
    for (int64_t i = 0; i < model->config.num_hidden_layers * LT_LINEAR_COUNT; i++)
        for (int k = 0; k < adapter->linears[i].part_count; k++) {
            const lt_lora_part *part = &adapter->linears[i].parts[k];
            if (part->rank == 0) continue;
            lengths = realloc(lengths, (count + (size_t)part->rows) * sizeof *lengths);
            memcpy(lengths + count, part->norm.data, (size_t)part->rows * sizeof *lengths);
            count += (size_t)part->rows;
        }
    return lengths;
}

static void check_lengths(const lt_model *model, const lt_adapter *adapter, const double *lengths)
{
    for (int64_t i = 0; i < model->config.num_hidden_layers * LT_LINEAR_COUNT; i++)
        for (int k = 0; k < adapter->linears[i].part_count; k++) {
            const lt_lora_part *part = &adapter->linears[i].parts[k];
            if (part->rank == 0) continue;
            assert_memory_equal(lengths, part->norm.data, (size_t)part->rows * sizeof *lengths);
            lengths += part->rows;
        }
}

/* Magnitude over the length that is held. */
static void renew_scales(const lt_model *model, const lt_adapter *adapter)
{
    if (!adapter->config.use_dora) return;
    for (int64_t i = 0; i < model->config.num_hidden_layers * LT_LINEAR_COUNT; i++)
        for (int k = 0; k < adapter->linears[i].part_count; k++) {
            const lt_lora_part *part = &adapter->linears[i].parts[k];
            for (int64_t j = 0; part->rank > 0 && j < part->rows; j++)
                set_element(part->scale, j,
                            element(model->params[part->magnitude].weight, j) /
                                element(part->norm, j));
        }
}

/* --- Slopes ----------------------------------------------------------------------------------- */

typedef struct slopes {
    lt_model *model;
    const lt_adapter *adapter;
    lt_workspace *workspace;
    const lt_batch *batch;
} slopes;

static double loss_of(const slopes *s)
{
    lt_loss loss = {0};
    renew_scales(s->model, s->adapter);
    OK(lt_model_forward_backward(s->model, s->workspace, s->batch, dropout_key, false, &loss, err));
    return loss.sum;
}

static double loss_along(const slopes *s, const lt_param *row, const double *kept,
                         const double *direction, double step)
{
    for (int64_t i = 0; i < lt_tensor_count(row->weight); i++)
        set_element(row->weight, i, kept[i] + step * direction[i]);
    return loss_of(s);
}

/* How far g . d is from the difference, in units of what g could give. */
static double check_row(const slopes *s, int index, const double *gradient, const char *what)
{
    const lt_param *row = &s->model->params[index];
    int64_t n = lt_tensor_count(row->weight);
    double *kept = copy_of(row->weight), *direction = malloc((size_t)n * sizeof *direction);
    double length = 0, slope = 0, steepest = 0, step = 1e-5;
    for (int64_t i = 0; i < n; i++) {
        direction[i] = lt_random_normal(9, (uint64_t)index, (uint64_t)i);
        length += direction[i] * direction[i];
    }
    for (int64_t i = 0; i < n; i++) {
        direction[i] /= sqrt(length);
        slope += gradient[i] * direction[i];
        steepest += gradient[i] * gradient[i];
    }
    steepest = sqrt(steepest);
    if (!(steepest > 1e-6)) fail_msg("%s: the gradient of %s is nothing", what, row->name);
    double difference =
        (loss_along(s, row, kept, direction, step) - loss_along(s, row, kept, direction, -step)) /
        (2 * step);
    double off = fabs(difference - slope) / (steepest + 1e-3);
    if (!(off <= 1e-6))
        fail_msg("%s: %s has slope %.10g, difference %.10g (steepest %.3g)", what, row->name, slope,
                 difference, steepest);
    memcpy(row->weight.data, kept, (size_t)n * sizeof *kept);
    free(kept);
    free(direction);
    return off;
}

static double check_slopes(const char *base, const adapter_case *c, double dropout,
                           const lt_backend *backend)
{
    lt_model *model = load_golden(base, NULL, backend);
    const lt_adapter *adapter = random_adapter(model, c, "tried", 3);
    test_batch b = packed_batch(model, ROWS, 3);
    lt_workspace_settings settings = training(dropout, LT_RECOMPUTE_NONE);
    slopes s = {.model = model, .adapter = adapter, .batch = &b.batch};
    char what[128];
    double worst = 0;
    snprintf(what, sizeof what, "%s, %s, dropout %g", base, c->name, dropout);
    OK(lt_model_allocate_gradients(model, err));
    run_backward(model, &settings, &b.batch, dropout_key);
    double *gradients = copy_of(all_gradients(model));
    s.workspace = new_workspace(model, &settings);
    double *lengths = c->dora ? hold_lengths(model, adapter) : NULL;
    for (int p = 0; p < adapter->param_count; p++) {
        int index = adapter->first_param + p;
        worst = fmax(worst,
                     check_row(&s, index, gradients + model->params[index].gradient_offset, what));
    }
    if (c->dora) check_lengths(model, adapter, lengths);
    free(lengths);
    lt_workspace_free(s.workspace);
    free(gradients);
    free_batch(&b);
    lt_model_free(model);
    return worst;
}

static void test_finite_differences(void **state)
{
    (void)state;
    lt_backend *backend = make_backend("double");
    for (int m = 0; m < ADAPTER_BASES; m++) {
        double worst = 0;
        for (int i = 0; i < ADAPTER_CASES; i++) {
            const adapter_case *c = &adapter_cases[i];
            if (c->dropout == 0) worst = fmax(worst, check_slopes(adapter_bases[m], c, 0, backend));
            worst = fmax(worst, check_slopes(adapter_bases[m], c, 0.2, backend));
        }
        printf("%s: slopes within %.1e\n", adapter_bases[m], worst);
    }
    lt_backend_free(backend);
}

/* --- Micro-batches ---------------------------------------------------------------------------- */

static void set_gradients(const lt_model *model, double value)
{
    for (int p = 0; p < model->param_count; p++)
        for (int64_t i = 0; i < lt_tensor_count(model->params[p].gradient); i++)
            set_element(model->params[p].gradient, i, value);
}

static lt_batch rows_of(const test_batch *b, int64_t first, int64_t rows)
{
    int64_t at = first * LENGTH;
    return (lt_batch){.rows = rows,
                      .length = LENGTH,
                      .input_ids = b->ids + at,
                      .targets = b->targets + at,
                      .positions = b->positions + at,
                      .first_key = b->first_key + at};
}

/* |a + b - c| / |c|; `b` may be NULL. */
static double distance(const double *a, const double *b, const double *c, int64_t n)
{
    double off = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = a[i] + (b ? b[i] : 0) - c[i];
        off += d * d;
        norm += c[i] * c[i];
    }
    return sqrt(off / norm);
}

/* Two micro-batches with masks of their own: one on top of the other is the sum of both; the first
 * wipes out what was there. Without masks it is the gradient of both side by side, too. */
static void check_accumulation(const char *base, const adapter_case *c, const lt_backend *backend)
{
    lt_model *model = load_golden(base, NULL, backend);
    lt_loss loss = {0};
    random_adapter(model, c, "tried", 3);
    test_batch b = packed_batch(model, 2 * ROWS, 8);
    lt_workspace_settings settings = training(c->dropout, LT_RECOMPUTE_NONE);
    settings.rows *= 2;
    lt_batch first = rows_of(&b, 0, ROWS), second = rows_of(&b, ROWS, ROWS);
    const lt_dropout_mask other_key = {.seed = 5, .stream = 78};
    OK(lt_model_allocate_gradients(model, err));
    lt_workspace *w = new_workspace(model, &settings);
    OK(lt_model_forward_backward(model, w, &first, dropout_key, false, &loss, err));
    double *x = copy_of(all_gradients(model));
    OK(lt_model_forward_backward(model, w, &second, other_key, false, &loss, err));
    double *y = copy_of(all_gradients(model));
    set_gradients(model, 1000);
    OK(lt_model_forward_backward(model, w, &first, dropout_key, false, &loss, err));
    assert_memory_equal(x, model->gradients.base, (size_t)model->gradient_count * sizeof *x);
    OK(lt_model_forward_backward(model, w, &second, other_key, true, &loss, err));
    double off = distance(x, y, all_gradients(model).data, model->gradient_count);
    if (!(off <= 1e-13)) fail_msg("%s, %s: two micro-batches are off by %g", base, c->name, off);
    if (c->dropout == 0) {
        double *sum = copy_of(all_gradients(model));
        OK(lt_model_forward_backward(model, w, &b.batch, dropout_key, false, &loss, err));
        off = distance(sum, NULL, all_gradients(model).data, model->gradient_count);
        if (!(off <= 1e-12)) fail_msg("%s, %s: 2 + 2 rows differ from 4 by %g", base, c->name, off);
        free(sum);
    }
    free(x);
    free(y);
    lt_workspace_free(w);
    free_batch(&b);
    lt_model_free(model);
}

static void test_accumulation(void **state)
{
    (void)state;
    lt_backend *backend = make_backend("double");
    for (int m = 0; m < ADAPTER_BASES; m++)
        for (int i = 0; i < ADAPTER_CASES; i++)
            check_accumulation(adapter_bases[m], &adapter_cases[i], backend);
    lt_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_finite_differences),
                                       cmocka_unit_test(test_accumulation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
