#include "model/linear.h"

#include "model/adapters/internal.h"

static lt_tensor rows_of(lt_tensor t, const lt_span *span)
{
    return t.data ? lt_tensor_slice(t, 0, span->first, span->count) : t;
}

lt_status lt_activate(const lt_pass *pass, lt_activation activation, lt_tensor x, lt_tensor y,
                      lt_err *err)
{
    if (activation == LT_ACTIVATION_SWIGLU)
        return lt_swiglu_forward(pass->backend, &(lt_swiglu_args){.gate_up = x, .y = y}, err);
    lt_activation_args args = {.activation = activation, .x = x, .y = y};
    return lt_activation_forward(pass->backend, &args, err);
}

/* The activation is part of the product. */
static lt_status plain_forward(const lt_pass *pass, const lt_linear_args *l, lt_err *err)
{
    lt_matmul_args product = {.layout = LT_MATMUL_NT,
                              .c = l->y,
                              .a = l->x,
                              .b = l->weight,
                              .bias = l->bias,
                              .residual = l->residual,
                              .activation = l->activation};
    if (l->activation != LT_ACTIVATION_NONE) {
        product.c = l->activated;
        if (l->activated.data != l->y.data) product.preactivation = l->y;
    }
    return lt_matmul(pass->backend, &product, err);
}

/* The tokens of one span. */
static lt_status span_forward(const lt_pass *pass, const lt_linear_args *args, const lt_span *span,
                              lt_err *err)
{
    lt_linear_args l = *args;
    bool done = false;
    l.x = rows_of(args->x, span);
    l.y = rows_of(args->y, span);
    l.residual = rows_of(args->residual, span);
    l.activated = rows_of(args->activated, span);
    if (span->adapter)
        LT_TRY(span->adapter->method->linear_forward(pass, span->adapter, &l, &done, err));
    if (!done) return plain_forward(pass, &l, err);
    if (l.activation == LT_ACTIVATION_NONE) return LT_OK;
    return lt_activate(pass, l.activation, l.y, l.activated, err);
}

lt_status lt_linear_forward(const lt_pass *pass, const lt_linear_args *args, lt_err *err)
{
    for (int64_t i = 0; i < pass->span_count; i++)
        LT_TRY(span_forward(pass, args, &pass->spans[i], err));
    return LT_OK;
}

lt_status lt_linear_backward(const lt_pass *pass, const lt_linear_backward_args *l, lt_err *err)
{
    const lt_backend *backend = pass->backend;
    const lt_adapter *adapter = pass->spans[0].adapter; /* training passes have one span */
    bool done = false;
    if (adapter) LT_TRY(adapter->method->linear_backward(pass, adapter, l, &done, err));
    if (done) return LT_OK;
    lt_matmul_args dw = {.layout = LT_MATMUL_TN,
                         .c = l->dweight,
                         .a = l->dy,
                         .b = l->x,
                         .accumulate = pass->accumulate};
    lt_matmul_args dx = {.layout = LT_MATMUL_NN, .c = l->dx, .a = l->dy, .b = l->weight};
    lt_bias_backward_args db = {.dbias = l->dbias, .dy = l->dy};
    if (l->dx.data) LT_TRY(lt_matmul(backend, &dx, err));
    if (l->dweight.data) LT_TRY(lt_matmul(backend, &dw, err));
    return l->dbias.data ? lt_bias_backward(backend, &db, err) : LT_OK;
}
