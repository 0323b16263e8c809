#include "model/linear.h"

#include "model/adapters/internal.h"

static lt_tensor rows_of(lt_tensor t, const lt_span *span)
{
    return t.data ? lt_tensor_slice(t, 0, span->first, span->count) : t;
}

static lt_status plain_forward(const lt_pass *pass, const lt_linear_args *l, lt_err *err)
{
    return lt_matmul(pass->backend,
                     &(lt_matmul_args){.layout = LT_MATMUL_NT,
                                       .c = l->y,
                                       .a = l->x,
                                       .b = l->weight,
                                       .bias = l->bias,
                                       .residual = l->residual},
                     err);
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
    if (span->adapter)
        LT_TRY(span->adapter->method->linear_forward(pass, span->adapter, &l, &done, err));
    return done ? LT_OK : plain_forward(pass, &l, err);
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
