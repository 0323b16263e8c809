/* The math: one slot per operation, the same on every device.
 *
 * `lt_backend` is a device with its table of operations. The table is filled with the plain C
 * versions (kernels/ref, the meaning of every operation), then overwritten by what the machine has
 * (kernels/cpu: AVX2, AVX-512). The choice is made once, in lt_backend_create. Calling a slot that
 * a device lacks is LT_ERR_UNSUPPORTED and names it; there is no silent fallback.
 *
 * Conventions. Matrices are row-major; a dimension written in a shape comment is exact unless "or
 * absent" is said; an absent tensor has data == NULL. Backward: gradients of parameters are added
 * to (`+=`), gradients of activations are written (`=`), the residual stream is added to where its
 * line says so. `real` below is the backend's number type: f32, or f64 in the reference backend for
 * gradient checks. Statistics and losses are `real` too. Sums have a fixed order for a given thread
 * count: same inputs, same threads, same bits. */
#ifndef LT_KERNELS_H
#define LT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

/* --- Tensors
 * ------------------------------------------------------------------------------------------ */

typedef enum lt_dtype { LT_F32, LT_F64, LT_BF16, LT_F16, LT_I32, LT_U8, LT_DTYPE_COUNT } lt_dtype;

size_t lt_dtype_size(lt_dtype dtype);      /* bytes of one element */
const char *lt_dtype_name(lt_dtype dtype); /* "f32" */

#define LT_MAX_DIMS 4

/* A view of memory on some device. Owns nothing; all zero is "absent". */
typedef struct lt_tensor {
    void *data;
    lt_dtype dtype;
    int ndim;
    int64_t shape[LT_MAX_DIMS];
    int64_t stride[LT_MAX_DIMS]; /* in elements; the last is 1 */
} lt_tensor;

/* Contiguous views. */
lt_tensor lt_tensor_1d(void *data, lt_dtype dtype, int64_t n0);
lt_tensor lt_tensor_2d(void *data, lt_dtype dtype, int64_t n0, int64_t n1);
lt_tensor lt_tensor_3d(void *data, lt_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
lt_tensor lt_tensor_4d(void *data, lt_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3);

/* t[start : start + count] along `dim`, as a view. */
lt_tensor lt_tensor_slice(lt_tensor t, int dim, int64_t start, int64_t count);
/* [rows, width] with width == heads * head_dim seen as [batch, rows / batch, heads, head_dim]. */
lt_tensor lt_tensor_as_heads(lt_tensor t, int64_t batch, int64_t heads, int64_t head_dim);
int64_t lt_tensor_count(lt_tensor t); /* elements; 0 when absent */
bool lt_tensor_is_contiguous(lt_tensor t);

/* --- Arguments of the operations
 * ------------------------------------------------------------------------ */

typedef struct lt_backend lt_backend;

typedef enum lt_activation {
    LT_ACTIVATION_NONE,
    LT_ACTIVATION_GELU,      /* 0.5 x (1 + erf(x / sqrt 2)): Hugging Face "gelu" */
    LT_ACTIVATION_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))): "gelu_new",
                                "gelu_pytorch_tanh" */
    LT_ACTIVATION_SILU,      /* x / (1 + exp(-x)): "silu", "swish" */
    LT_ACTIVATION_RELU,
    LT_ACTIVATION_TANH,
} lt_activation;

typedef enum lt_matmul_layout {
    LT_MATMUL_NT, /* c[m,n] = a[m,k] b[n,k]^T: forward, Y = X W^T */
    LT_MATMUL_NN, /* c[m,n] = a[m,k] b[k,n]:   gradient of the input, dX = dY W */
    LT_MATMUL_TN, /* c[m,n] = a[k,m]^T b[k,n]: gradient of the weight, dW = dY^T X */
} lt_matmul_layout;

/* v = a*b + a_extra*b_extra + bias; `preactivation` = v; c = activation(v) + residual, or with
 * `accumulate` c += that. Rows may be strided. c may alias residual, nothing else. Any of m, n, k
 * may be 0 (k == 0: the product is 0).
 *
 * The extra pair lengthens k: [a | a_extra] times [b | b_extra], in one product. That is how a
 * low-rank update is part of its matrix (Hu et al., "LoRA", 2021). Not for TN; with an activation
 * and a residual or `accumulate` it needs `preactivation`.
 *
 * b, and b alone, may be bf16 (NT and NN): frozen weights at half the memory, sums in `real`. */
typedef struct lt_matmul_args {
    lt_matmul_layout layout;
    lt_tensor c;                /* [m, n] */
    lt_tensor a, b;             /* shapes by layout; b real or bf16 */
    lt_tensor a_extra, b_extra; /* as a and b with a k of their own; both or neither */
    lt_tensor bias;             /* [n] or absent */
    lt_tensor residual;         /* [m, n] or absent */
    lt_tensor preactivation;    /* [m, n] or absent */
    lt_activation activation;
    bool accumulate;
} lt_matmul_args;

/* dbias[n] += sum over rows of dy[rows, n] */
typedef struct lt_bias_backward_args {
    lt_tensor dbias; /* [n] */
    lt_tensor dy;    /* [rows, n] */
} lt_bias_backward_args;

/* A mask that keeps each element with probability 1 - rate and scales what is kept by 1 / (1 -
 * rate). Element i of the operation draws word i % 4 of Philox block i / 4 of (seed, stream); it is
 * kept when word >= rate * 2^32. So backward draws the same mask again and nothing is stored. rate
 * 0: no dropout. */
typedef struct lt_dropout_mask {
    double rate; /* in [0, 1) */
    uint64_t seed, stream;
} lt_dropout_mask;

/* Flash-style attention (Dao, "FlashAttention-2", 2023): never a q_len x kv_len buffer. Query i of
 * sequence b is at key index p = offset[b] + i and sees the keys j with first_key[b,i] <= j <= p
 * and, when window > 0, j > p - window. A query that sees no key gives out = 0, lse = -inf. Head h
 * reads key/value head h / (heads / kv_heads). s_j = scale q.k_j;  lse = log sum_j exp s_j;  out =
 * sum_j dropout(exp(s_j - lse)) v_j Dropout element index: ((b * heads + h) * q_len + i) * kv_len +
 * j.
 *
 * The first `prefix` keys of every sequence stand in front of each of its documents (Li and Liang,
 * "Prefix-Tuning", 2021): first_key is at least `prefix`, and a query sees the keys j < prefix too,
 * as if its document followed them directly: with window > 0 those with
 * j > p - (first_key[b,i] - prefix) - window. */
typedef struct lt_attention_args {
    lt_tensor q;         /* [batch, q_len, heads, head_dim], rows strided as in a packed QKV */
    lt_tensor k, v;      /* [batch, kv_len, kv_heads, head_dim] */
    lt_tensor out;       /* [batch, q_len, heads, head_dim] */
    lt_tensor lse;       /* real [batch, heads, q_len]; may be absent in forward */
    lt_tensor offset;    /* i32 [batch] or absent: 0 */
    lt_tensor first_key; /* i32 [batch, q_len] or absent: 0 */
    int64_t window;
    int64_t prefix; /* 0: none; needs first_key unless the one document starts right behind it */
    double scale;
    lt_dropout_mask dropout;
} lt_attention_args;

/* dq, dk, dv are written (=), shaped and strided like q, k, v; keys that nobody sees get 0. */
typedef struct lt_attention_backward_args {
    lt_attention_args forward; /* q, k, v, out, lse as forward left them */
    lt_tensor dout;            /* like out */
    lt_tensor dq, dk, dv;
} lt_attention_backward_args;

/* z = x + residual (when present; z goes to `sum`), then over the last dimension
 *   layer norm: y = (z - mean) * rstd * weight + bias, rstd = 1 / sqrt(var + eps)   (Ba et al.,
 * 2016) RMS norm:   y = z * rstd * weight, rstd = 1 / sqrt(mean(z^2) + eps)             (Zhang and
 * Sennrich, 2019) x, y: [rows, dim] or [rows, groups, dim], strided. sum may alias x or residual; y
 * may alias x. */
typedef struct lt_norm_args {
    lt_tensor x, y;
    lt_tensor residual, sum; /* like x, both or neither */
    lt_tensor weight;        /* [dim] */
    lt_tensor bias;          /* [dim] or absent; layer norm only */
    lt_tensor mean;          /* real [rows * groups], layer norm only; may be absent in inference */
    lt_tensor rstd;          /* real [rows * groups]; may be absent in inference */
    double eps;
} lt_norm_args;

typedef struct lt_norm_backward_args {
    lt_tensor x;          /* the input that was normalised (z above) */
    lt_tensor weight;     /* [dim] */
    lt_tensor mean, rstd; /* as forward left them */
    lt_tensor dy;         /* like x */
    lt_tensor dx; /* like x; `=`, or `+=` with accumulate (the residual stream). May alias dy unless
                     accumulate */
    lt_tensor dweight, dbias; /* [dim], += ; absent when frozen */
    bool accumulate;
} lt_norm_backward_args;

/* Rotary embedding in place (Su et al., 2021; the rotate_half pairing of Hugging Face): for i <
 * rotary_dim / 2 the pair (x[i], x[i + rotary_dim/2]) is turned by the angle of row position[t], i.
 * Dimensions from rotary_dim on are untouched. `inverse` turns back: that is the backward pass. */
typedef struct lt_rotary_args {
    lt_tensor x;         /* [batch, length, heads, head_dim], strided */
    lt_tensor positions; /* i32 [batch * length] */
    lt_tensor cos, sin;  /* real [max_position, rotary_dim / 2] */
    bool inverse;
} lt_rotary_args;

/* y = activation(x);  backward: dx = dy * activation'(x). Same shape, rows may be strided, y may
 * alias x, dx may alias dy. */
typedef struct lt_activation_args {
    lt_activation activation;
    lt_tensor x, y;
} lt_activation_args;
typedef struct lt_activation_backward_args {
    lt_activation activation;
    lt_tensor x, dy, dx;
} lt_activation_backward_args;

/* SwiGLU (Shazeer, 2020) on a fused projection gate_up[rows, 2 dim] = [gate | up]: y = silu(gate) *
 * up. */
typedef struct lt_swiglu_args {
    lt_tensor gate_up; /* [rows, 2 dim] */
    lt_tensor y;       /* [rows, dim] */
} lt_swiglu_args;
typedef struct lt_swiglu_backward_args {
    lt_tensor gate_up;  /* [rows, 2 dim] */
    lt_tensor dy;       /* [rows, dim] */
    lt_tensor dgate_up; /* [rows, 2 dim], = ; may alias gate_up */
} lt_swiglu_backward_args;

/* y[r] = tokens[ids[r]] + positions_table[positions[r]]. Ids and positions are in range: the caller
 * has checked. */
typedef struct lt_embedding_args {
    lt_tensor y;              /* [rows, dim] */
    lt_tensor ids;            /* i32 [rows] */
    lt_tensor token_table;    /* [vocab, dim]; real or bf16 */
    lt_tensor positions;      /* i32 [rows] or absent */
    lt_tensor position_table; /* [max_position, dim] or absent */
} lt_embedding_args;
/* dtoken_table[ids[r]] += dy[r], dposition_table[positions[r]] += dy[r], in row order. Absent
 * tables are frozen. */
typedef struct lt_embedding_backward_args {
    lt_tensor dy;
    lt_tensor ids, positions;
    lt_tensor dtoken_table, dposition_table;
} lt_embedding_backward_args;

/* gather_rows: y[i] = x[index[i]].  scatter_rows: y = 0, then y[index[i]] = x[i] (indices
 * distinct). */
typedef struct lt_rows_args {
    lt_tensor x, y;  /* [*, dim] */
    lt_tensor index; /* i32 [n] */
} lt_rows_args;

/* cache[b, offset[b] + i] = kv[b, i]: what attention will read goes behind what it has already. */
typedef struct lt_cache_append_args {
    lt_tensor k, v;             /* [batch, length, kv_heads, head_dim], strided */
    lt_tensor k_cache, v_cache; /* [batch, capacity, kv_heads, head_dim], contiguous */
    lt_tensor offset;           /* i32 [batch]; offset[b] + length <= capacity */
} lt_cache_append_args;

/* loss[r] = logsumexp(logits[r]) - logits[r, target[r]]; 0 where the target is LT_IGNORE. With
 * `gradient` the logits are replaced by softmax(logits) - onehot(target) (0 where ignored): the
 * gradient of the SUM of losses. `correct[r]` is 1 where the target is the (first) largest logit,
 * else 0. */
typedef struct lt_cross_entropy_args {
    lt_tensor logits;  /* [rows, vocab] */
    lt_tensor targets; /* i32 [rows] */
    lt_tensor loss;    /* real [rows] */
    lt_tensor correct; /* i32 [rows] or absent */
    bool gradient;
} lt_cross_entropy_args;

/* y = dropout(x), contiguous, y may alias x. Backward is the same operation on the gradient. */
typedef struct lt_dropout_args {
    lt_tensor x, y;
    lt_dropout_mask dropout;
} lt_dropout_args;

/* y = a + b, same shape, rows may be strided; y may alias either. */
typedef struct lt_add_args {
    lt_tensor a, b, y;
} lt_add_args;

/* y = factor x, same shape, rows may be strided; y may alias x. */
typedef struct lt_scale_args {
    lt_tensor x, y;
    double factor;
} lt_scale_args;

/* y[i,j] = (scale[j] + shift) x[i,j] + bias[j] + residual[i,j], or with `accumulate` y += that.
 * Rows may be strided; y may alias x or residual. */
typedef struct lt_scale_columns_args {
    lt_tensor x, y;     /* [rows, n] */
    lt_tensor scale;    /* [n] */
    lt_tensor bias;     /* [n] or absent */
    lt_tensor residual; /* [rows, n] or absent */
    double shift;
    bool accumulate;
} lt_scale_columns_args;

/* DoRA (Liu et al., 2024) learns the length of each row of W + scaling B A apart from its
 * direction: norm[j] = |W[j] + scaling B[j] A| (Euclidean; taken as a constant in backward),
 * scale[j] = magnitude[j] / norm[j]. A row of length 0 has no direction: its scale is 0, and its
 * magnitude gets no gradient. */
typedef struct lt_dora_norm_args {
    lt_tensor weight;    /* [out, in]; real or bf16 */
    lt_tensor a, b;      /* [r, in], [out, r] */
    lt_tensor magnitude; /* [out] or absent: then only norm is written */
    lt_tensor norm;      /* [out] */
    lt_tensor scale;     /* [out], with magnitude */
    double scaling;
} lt_dora_norm_args;

/* dmagnitude[j] += sum over i of dy[i,j] z[i,j] / norm[j], where y = magnitude / norm z. */
typedef struct lt_dora_backward_args {
    lt_tensor dy, z;      /* [rows, n], strided */
    lt_tensor norm;       /* [n] */
    lt_tensor dmagnitude; /* [n] */
} lt_dora_backward_args;

/* y = 0. Contiguous. */
typedef struct lt_zero_args {
    lt_tensor y;
} lt_zero_args;

/* y = x with the dtype of y; any of f32, f64, bf16, f16 (round to nearest even). Contiguous, same
 * count. */
typedef struct lt_convert_args {
    lt_tensor x, y;
} lt_convert_args;

/* result[0] += sum of x[i]^2, in double, over fixed chunks added in order. */
typedef struct lt_sum_squares_args {
    lt_tensor x;      /* [n] */
    lt_tensor result; /* f64 [1] */
} lt_sum_squares_args;

/* norm = sqrt(sum_squares) * gradient_scale; scale = gradient_scale * min(1, max_norm / norm), or
 * gradient_scale when max_norm is 0. gradient_scale is 1 / trained tokens: gradients are sums until
 * here. A norm that is not finite gives a NaN scale, so that adamw leaves the weights alone. Stays
 * on the device: no step waits for the host. */
typedef struct lt_clip_scale_args {
    lt_tensor sum_squares; /* f64 [1] */
    lt_tensor norm, scale; /* f32 [1] */
    double gradient_scale, max_norm;
} lt_clip_scale_args;

/* AdamW (Loshchilov and Hutter, 2019; arithmetic as torch.optim.AdamW), g = scale * gradient:
 *   w *= 1 - lr weight_decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   w -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 * A scale that is not finite leaves w, m, v untouched. */
typedef struct lt_adamw_args {
    lt_tensor weight, gradient, m, v; /* [n] */
    lt_tensor scale;                  /* f32 [1] */
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step; /* 1 for the first */
} lt_adamw_args;

/* --- The table
 * -------------------------------------------------------------------------------------------- */

/* X(name, arguments type): the slot `name`, called as lt_<name>(backend, &args, err). */
#define LT_OPERATIONS(X)                                \
    X(matmul, lt_matmul_args)                           \
    X(bias_backward, lt_bias_backward_args)             \
    X(attention_forward, lt_attention_args)             \
    X(attention_backward, lt_attention_backward_args)   \
    X(layer_norm_forward, lt_norm_args)                 \
    X(layer_norm_backward, lt_norm_backward_args)       \
    X(rms_norm_forward, lt_norm_args)                   \
    X(rms_norm_backward, lt_norm_backward_args)         \
    X(rotary, lt_rotary_args)                           \
    X(activation_forward, lt_activation_args)           \
    X(activation_backward, lt_activation_backward_args) \
    X(swiglu_forward, lt_swiglu_args)                   \
    X(swiglu_backward, lt_swiglu_backward_args)         \
    X(embedding_forward, lt_embedding_args)             \
    X(embedding_backward, lt_embedding_backward_args)   \
    X(gather_rows, lt_rows_args)                        \
    X(scatter_rows, lt_rows_args)                       \
    X(cache_append, lt_cache_append_args)               \
    X(cross_entropy, lt_cross_entropy_args)             \
    X(dropout, lt_dropout_args)                         \
    X(add, lt_add_args)                                 \
    X(scale, lt_scale_args)                             \
    X(scale_columns, lt_scale_columns_args)             \
    X(dora_norm, lt_dora_norm_args)                     \
    X(dora_backward, lt_dora_backward_args)             \
    X(zero, lt_zero_args)                               \
    X(convert, lt_convert_args)                         \
    X(sum_squares, lt_sum_squares_args)                 \
    X(clip_scale, lt_clip_scale_args)                   \
    X(adamw, lt_adamw_args)

typedef struct lt_ops {
#define LT_SLOT(name, args) \
    lt_status (*name)(const lt_backend *backend, const args *a, lt_err *err);
    LT_OPERATIONS(LT_SLOT)
#undef LT_SLOT
} lt_ops;

typedef enum lt_device { LT_DEVICE_CPU, LT_DEVICE_CUDA } lt_device;

/* One device with its operations. Read the fields, change none. */
struct lt_backend {
    const char *name; /* "cpu-avx512": printed at start and stored in checkpoints */
    lt_device device;
    lt_dtype real; /* number type of weights and activations */
    int threads;
    lt_memory memory; /* for arenas on this device */
    /* Host to device and back; on the CPU plain copies. The device-side address is the one that
     * came from `memory`. */
    lt_status (*upload)(const lt_backend *backend, void *to, const void *from, size_t bytes,
                        lt_err *err);
    lt_status (*download)(const lt_backend *backend, void *to, const void *from, size_t bytes,
                          lt_err *err);
    lt_ops ops;
    void *state; /* private to the backend: packing buffers */
};

typedef struct lt_backend_settings {
    lt_device device;
    const char *isa; /* "ref", "avx2", "avx512"; NULL: LATHE_ISA from the environment, else the best
                        this machine has */
    int threads;     /* 0: OMP_NUM_THREADS or all cores */
} lt_backend_settings;

/* An ISA that this machine lacks, or an unknown name, is LT_ERR_USAGE. */
lt_status lt_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err);
/* The reference operations with `real` = double, single-threaded: for gradient checks. */
lt_status lt_backend_create_double(lt_backend **out, lt_err *err);
void lt_backend_free(lt_backend *backend);

/* lt_matmul(backend, &args, err) and so on: check that the slot is there, then call it. Shapes and
 * dtypes that do not fit together are LT_ERR_USAGE naming the operation and the tensor. */
#define LT_CALL(name, args) \
    lt_status lt_##name(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_CALL)
#undef LT_CALL

#endif
