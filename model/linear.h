/* The linear modules of a block, and what an adapter does to them. Private to model/. */
#ifndef LT_MODEL_LINEAR_H
#define LT_MODEL_LINEAR_H

#include "model/workspace.h"

/* y = residual + x weight^T + bias, and the adapter's part; activated = activation(y), when one is
 * asked for. `weight` and `bias` are the rows from `first_row` on of the block's whole matrix. */
typedef struct lt_linear_args {
    int64_t layer;
    lt_linear which;
    int64_t first_row;
    lt_tensor x; /* [tokens, in] */
    lt_tensor weight, bias;
    lt_tensor residual; /* [tokens, out] or absent; may be y's memory */
    lt_tensor y;        /* [tokens, out] */
    lt_activation activation;
    lt_tensor activated; /* [tokens, out], or for SWIGLU half as wide; may be y's memory, then y is
                            lost. The bits are those of lt_activate on y */
} lt_linear_args;

/* Gradients of the above, for the whole matrix. dx absent: not wanted. Weights under an adapter are
 * frozen: then dweight and dbias are absent. */
typedef struct lt_linear_backward_args {
    int64_t layer;
    lt_linear which;
    lt_tensor x, weight;
    lt_tensor dy, dx, dweight, dbias;
} lt_linear_backward_args;

/* y = activation(x), SWIGLU included. */
lt_status lt_activate(const lt_pass *pass, lt_activation activation, lt_tensor x, lt_tensor y,
                      lt_err *err);
lt_status lt_linear_forward(const lt_pass *pass, const lt_linear_args *args, lt_err *err);
lt_status lt_linear_backward(const lt_pass *pass, const lt_linear_backward_args *args, lt_err *err);

#endif
