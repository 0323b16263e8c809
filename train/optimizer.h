/* AdamW over the segments of a model, with its state in one arena. Private to train/. */
#ifndef LT_TRAIN_OPTIMIZER_H
#define LT_TRAIN_OPTIMIZER_H

#include "model/model.h"

typedef struct lt_optimizer {
    const lt_backend *backend; /* borrowed */
    lt_arena arena;
    lt_tensor m, v;        /* real [gradient_count], laid out as the model's gradients */
    lt_tensor sum_squares; /* f64 [1] */
    lt_tensor norm, scale; /* f32 [1] */
} lt_optimizer;

/* What one step needs to know. */
typedef struct lt_optimizer_step {
    double gradient_scale; /* 1 / trained tokens: gradients are sums until here. NaN: do not step */
    double learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm;
    int64_t update; /* 1 for the first */
} lt_optimizer_step;

/* Bytes of an optimizer for that many gradient elements, with no allocation. */
size_t lt_optimizer_plan(int64_t gradient_count, lt_dtype real);
lt_status lt_optimizer_create(const lt_model *model, lt_optimizer *out, lt_err *err);
void lt_optimizer_free(lt_optimizer *optimizer);

/* Clips and steps. *norm: of the mean gradient, before clipping. When it is not finite, weights and
 * state are as they were. */
lt_status lt_optimizer_apply(lt_optimizer *optimizer, lt_model *model,
                             const lt_optimizer_step *step, double *norm, lt_err *err);

/* optimizer.safetensors: "m.NAME" and "v.NAME" for every trainable row NAME, f32. */
lt_status lt_optimizer_save(const lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err);
lt_status lt_optimizer_load(lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err);

#endif
