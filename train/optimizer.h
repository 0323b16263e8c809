/* AdamW over what this process steps of a model: all of it, or its part. Private to train/.
 *
 * Weights are stepped in f32. Where the model holds them as bf16, the optimizer owns the f32 ones,
 * the master weights, and what the passes read is those, rounded. The state (moments, and master
 * weights) lies beside the model; or, offloaded, in the host's memory, where the CPU steps a part
 * of it at a time: gradients come down, weights go up, and the device holds neither moments nor
 * master weights.
 *
 * Nothing is read back: a step whose loss or gradient is not finite is not taken, and the device
 * knows that by itself. */
#ifndef LT_TRAIN_OPTIMIZER_H
#define LT_TRAIN_OPTIMIZER_H

#include "model/model.h"

typedef enum lt_optimizer_kind {
    LT_ADAMW,      /* moments in f32 */
    LT_ADAMW_BF16, /* in bf16, stochastically rounded */
    LT_ADAMW_8BIT, /* in 8 bits, block-wise */
    LT_OPTIMIZER_KINDS
} lt_optimizer_kind;

typedef struct lt_optimizer_settings {
    lt_optimizer_kind kind;
    bool offload;  /* the state is the host's */
    int threads;   /* of the CPU that steps it; 0: all cores */
    uint64_t seed; /* of the rounding */
    int64_t chunk; /* elements that are moved at a time, in whole blocks; 0: a few MB of them */
} lt_optimizer_settings;

typedef struct lt_optimizer {
    lt_optimizer_settings settings;
    const lt_backend *device;  /* the model's; borrowed */
    const lt_backend *backend; /* whose memory the state is in: `device` or `cpu` */
    lt_backend *cpu;           /* offloaded; else NULL. Owned */
    lt_arena state, scratch, staging;
    lt_own_piece *pieces; /* owned: what of the model this process steps */
    int piece_count;
    /* The state of what this process steps: [lt_model_own_count]. */
    lt_tensor master;           /* f32; absent where the model's own weights are f32 and here */
    lt_tensor m, v;             /* f32, bf16 or u8 */
    lt_tensor m_scale, v_scale; /* u8: f32 [blocks] */
    /* Of a step, on the device. */
    lt_tensor squares; /* f64 [1]: of the gradient */
    lt_tensor scale;   /* f32 [1] */
    /* On their way between device and host: [chunk]. */
    lt_tensor staged_gradient, staged_weight;
} lt_optimizer;

/* What one step needs to know. */
typedef struct lt_optimizer_step {
    lt_tensor tokens; /* f64 [1] on the device: trained tokens of all processes. Gradients are sums
                         until they are divided by them; 0: no step */
    double learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm;
    int64_t number; /* 1 for the first; steps that were not taken count */
    lt_tensor loss; /* f64 [1] on the device, or absent: one that is not finite is no step */
    lt_tensor norm; /* f32 [1] on the device, written: of the mean gradient, before clipping; not
                       finite where the step was not taken */
} lt_optimizer_step;

/* Bytes: of the parts, and where they are. */
typedef struct lt_optimizer_memory {
    uint64_t master, moments;
    uint64_t device, host;
} lt_optimizer_memory;

const char *lt_optimizer_name(lt_optimizer_kind kind); /* "adamw-8bit": as --optimizer has it */
bool lt_optimizer_by_name(const char *name, lt_optimizer_kind *out);

/* An optimizer for that many elements of `gradient`, with no allocation. */
lt_optimizer_memory lt_optimizer_plan(const lt_optimizer_settings *settings,
                                      const lt_backend *device, lt_dtype gradient,
                                      int64_t gradient_count);
/* After the model's gradients have been allocated. Master weights start as the model's. */
lt_status lt_optimizer_create(const lt_model *model, const lt_optimizer_settings *settings,
                              lt_optimizer *out, lt_err *err);
void lt_optimizer_free(lt_optimizer *optimizer);

/* The squares of the gradients that this process steps, into optimizer->squares, f64 [1] on the
 * device; where others step the rest, the caller adds theirs before it goes on. */
lt_status lt_optimizer_sum_squares(lt_optimizer *optimizer, const lt_model *model, lt_err *err);
/* Clips and steps, by these squares: the weights of the model it was created for. */
lt_status lt_optimizer_apply(lt_optimizer *optimizer, const lt_optimizer_step *step, lt_err *err);

/* optimizer.safetensors (optimizer_file.c), beyond 5 GB optimizer-00001-of-0000N.safetensors and so
 * on, the same bytes for any number of processes and level of
 * sharding, which each write, and read, their own parts: "m.NAME" and "v.NAME" for every trainable
 * row NAME, in the state's number type; in 8 bits "m_scale" and "v_scale" over all of them; with
 * bf16 weights "master.NAME", f32. Reading a file of another kind, or of other rows, is
 * LT_ERR_FORMAT. */
lt_status lt_optimizer_save(const lt_optimizer *optimizer, const lt_model *model, const char *path,
                            const lt_file_group *group, lt_err *err);
/* The same; files hold at most `shard_bytes` of tensors, a larger tensor has its own. */
lt_status lt_optimizer_save_sharded(const lt_optimizer *optimizer, const lt_model *model,
                                    const char *path, uint64_t shard_bytes,
                                    const lt_file_group *group, lt_err *err);
lt_status lt_optimizer_load(lt_optimizer *optimizer, const lt_model *model, const char *path,
                            lt_err *err);

#endif
