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
 * line says so. Sums have a fixed order for a given thread count or GPU: same inputs, same bits.
 *
 * Number types below:
 *   `real`        weights and activations: f32; bf16 on a GPU unless f32 is asked for; f64 in the
 *                 reference backend for gradient checks
 *   `statistics`  norm statistics, log-sum-exps, rotary tables, logits, losses: f32, or f64 with
 *                 real f64. Sums are never shorter than this
 *   `gradient`    gradients of parameters: real, or f32 where real is bf16 */
#ifndef LT_KERNELS_H
#define LT_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

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
    LT_ACTIVATION_SWIGLU, /* matmul only: [gate | up] to silu(gate) * up, half as wide */
} lt_activation;

typedef enum lt_matmul_layout {
    LT_MATMUL_NT, /* c[m,n] = a[m,k] b[n,k]^T: forward, Y = X W^T */
    LT_MATMUL_NN, /* c[m,n] = a[m,k] b[k,n]:   gradient of the input, dX = dY W */
    LT_MATMUL_TN, /* c[m,n] = a[k,m]^T b[k,n]: gradient of the weight, dW = dY^T X */
} lt_matmul_layout;

/* v = a*b + a_extra*b_extra + bias; `preactivation` = v; c = activation(v) + residual, or with
 * `accumulate` c += that. Rows may be strided. c may alias residual, nothing else. Any of m, n, k
 * may be 0 (k == 0: the product is 0). An activation is taken of v as rounded to real, so that the
 * bits are those of activation_forward on a stored v.
 *
 * SWIGLU: v, bias and preactivation (required) have 2n columns, c has n; NT, without residual and
 * accumulate.
 *
 * c is real; where real is bf16 it may be f32 instead (gradients of weights, logits): then with
 * bias and accumulate at most.
 *
 * The extra pair lengthens k: [a | a_extra] times [b | b_extra], in one product. That is how a
 * low-rank update is part of its matrix (Hu et al., "LoRA", 2021). Not for TN; with an activation
 * and a residual or `accumulate` it needs `preactivation`.
 *
 * b, and b alone, may be bf16 (NT and NN): frozen weights at half the memory, sums in `real`. */
typedef struct lt_matmul_args {
    lt_matmul_layout layout;
    lt_tensor c;                /* [m, n]; real or f32 */
    lt_tensor a, b;             /* shapes by layout; b real or bf16 */
    lt_tensor a_extra, b_extra; /* as a and b with a k of their own, both real; both or neither */
    lt_tensor bias;             /* [n] or absent */
    lt_tensor residual;         /* [m, n] or absent */
    lt_tensor preactivation;    /* [m, n] or absent */
    lt_activation activation;
    bool accumulate;
} lt_matmul_args;

/* dbias[n] += sum over rows of dy[rows, n] */
typedef struct lt_bias_backward_args {
    lt_tensor dbias; /* gradient [n] */
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
    lt_tensor lse;       /* statistics [batch, heads, q_len]; may be absent in forward */
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
    lt_tensor mean; /* statistics [rows * groups], layer norm only; may be absent in inference */
    lt_tensor rstd; /* statistics [rows * groups]; may be absent in inference */
    double eps;
} lt_norm_args;

typedef struct lt_norm_backward_args {
    lt_tensor x;          /* the input that was normalised (z above) */
    lt_tensor weight;     /* [dim] */
    lt_tensor mean, rstd; /* as forward left them */
    lt_tensor dy;         /* like x */
    lt_tensor dx; /* like x; `=`, or `+=` with accumulate (the residual stream). May alias dy unless
                     accumulate */
    lt_tensor dweight, dbias; /* gradient [dim], += ; absent when frozen */
    bool accumulate;
} lt_norm_backward_args;

/* Rotary embedding in place (Su et al., 2021; the rotate_half pairing of Hugging Face): for i <
 * rotary_dim / 2 the pair (x[i], x[i + rotary_dim/2]) is turned by the angle of row position[t], i.
 * Dimensions from rotary_dim on are untouched. `inverse` turns back: that is the backward pass. */
typedef struct lt_rotary_args {
    lt_tensor x;         /* [batch, length, heads, head_dim], strided */
    lt_tensor positions; /* i32 [batch * length] */
    lt_tensor cos, sin;  /* statistics [max_position, rotary_dim / 2] */
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
/* dtoken_table[ids[r]] += dy[r], dposition_table[positions[r]] += dy[r], in row order; rows of the
 * tables may be strided. Absent tables are frozen. */
typedef struct lt_embedding_backward_args {
    lt_tensor dy;
    lt_tensor ids, positions;
    lt_tensor dtoken_table, dposition_table; /* gradient */
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

/* loss[r] = logsumexp(logits[r]) - logits[r, target[r]]; 0 where the target is LT_IGNORE.
 * `gradient` gets softmax(logits) - onehot(target) (0 where ignored): the gradient of the SUM of
 * losses. It may be the memory of the logits, each row starting where that row of logits does; rows
 * are worked on from left to right. `correct[r]` is 1 where the target is the (first) largest
 * logit, else 0. */
typedef struct lt_cross_entropy_args {
    lt_tensor logits;   /* statistics [rows, vocab] */
    lt_tensor targets;  /* i32 [rows] */
    lt_tensor loss;     /* statistics [rows] */
    lt_tensor correct;  /* i32 [rows] or absent */
    lt_tensor gradient; /* real [rows, vocab] or absent; rows strided */
} lt_cross_entropy_args;

/* totals += (sum of loss, rows whose target is not LT_IGNORE, sum of correct), in f64 over fixed
 * chunks added in order. So losses stay on the device until somebody wants to see them. */
typedef struct lt_sum_losses_args {
    lt_tensor loss;    /* statistics [rows] */
    lt_tensor targets; /* i32 [rows] */
    lt_tensor correct; /* i32 [rows] */
    lt_tensor totals;  /* f64 [3] */
} lt_sum_losses_args;

/* How the next token is chosen from its logits; the zero value: the most likely one. */
typedef struct lt_sampling {
    double temperature;        /* 0: greedy */
    int64_t top_k;             /* 0: off */
    double top_p;              /* 0 or 1: off */
    double min_p;              /* 0: off */
    double repetition_penalty; /* 0 or 1: off */
    uint64_t seed;
} lt_sampling;

/* ids[r]: the choice from logits[r], a pure function of them, the settings, sequence[r] and
 * history_count[r]. Logits are used up. Order and rules: repetition penalty on the ids of the
 * history, temperature, top_k, top_p, min_p, a draw; ties go to the lower id. */
typedef struct lt_sample_tokens_args {
    lt_tensor logits;        /* f32 [rows, vocab] */
    lt_tensor history;       /* i32 [rows, capacity]: ids so far; absent: none are penalised */
    lt_tensor history_count; /* i32 [rows] */
    lt_tensor sequence;      /* i32 [rows]: which random numbers */
    lt_tensor ids;           /* i32 [rows] */
    lt_sampling sampling;
} lt_sample_tokens_args;

/* y = dropout(x), contiguous, y may alias x. Backward is the same operation on the gradient. */
typedef struct lt_dropout_args {
    lt_tensor x, y;
    lt_dropout_mask dropout;
} lt_dropout_args;

/* y = a + b, same shape, rows may be strided; y may alias either. All real, or all gradient. */
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
    lt_tensor scale;    /* statistics [n] */
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
    lt_tensor norm;      /* statistics [out] */
    lt_tensor scale;     /* statistics [out], with magnitude */
    double scaling;
} lt_dora_norm_args;

/* dmagnitude[j] += sum over i of dy[i,j] z[i,j] / norm[j], where y = magnitude / norm z. */
typedef struct lt_dora_backward_args {
    lt_tensor dy, z;      /* [rows, n], strided */
    lt_tensor norm;       /* statistics [n] */
    lt_tensor dmagnitude; /* gradient [n] */
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
    lt_tensor x;      /* real or gradient [n] */
    lt_tensor result; /* f64 [1] */
} lt_sum_squares_args;

/* norm = sqrt(sum_squares) * gradient_scale; scale = gradient_scale * min(1, max_norm / norm), or
 * gradient_scale when max_norm is 0. gradient_scale is 1 / trained tokens: gradients are sums until
 * here; no tokens give NaN. A norm or loss that is not finite gives a NaN scale, and a loss also a
 * NaN norm, so that adamw leaves the weights alone. Stays on the device: no step waits for the
 * host. */
typedef struct lt_clip_scale_args {
    lt_tensor sum_squares; /* f64 [1] */
    lt_tensor norm, scale; /* f32 [1] */
    lt_tensor loss;        /* f64 [1] or absent */
    lt_tensor tokens;      /* f64 [1]: trained tokens; or absent, and gradient_scale counts */
    double gradient_scale, max_norm;
} lt_clip_scale_args;

/* AdamW (Loshchilov and Hutter, 2019; arithmetic as torch.optim.AdamW), g = scale * gradient:
 *   w *= 1 - lr weight_decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   w -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 * A scale that is not finite leaves everything untouched.
 *
 * m and v are statistics (f32), or bf16, or u8:
 *   bf16  stochastically rounded (the mean of the rounded is the number): element i adds the low 16
 *         bits of word i % 4 (m) or its high 16 bits (v) of Philox block i / 4 of (seed, stream) to
 *         the f32's bits, then cuts off its lower half. i counts from `first_element`
 *   u8    block-wise (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022): of
 *         LT_QUANTISED_BLOCK elements, the largest magnitude s is an f32 in m_scale, v_scale;
 *         m = s sign(q) (|q| / 127)^2 with q = code - 128; v = s (code / 255)^4. Rounded to the
 *         nearest root, but a v above 0 never to 0, so that no division blows up. Blocks count
 *         from the tensors' start; zero bytes are the state before the first step */
#define LT_QUANTISED_BLOCK 256
typedef struct lt_adamw_args {
    lt_tensor weight;           /* statistics [n]: where real is bf16, the f32 master weights */
    lt_tensor rounded;          /* bf16 [n] or absent: weight to nearest, what the passes read */
    lt_tensor gradient;         /* real or gradient [n] */
    lt_tensor m, v;             /* [n] */
    lt_tensor m_scale, v_scale; /* f32 [ceil(n / LT_QUANTISED_BLOCK)], with u8 only */
    lt_tensor scale;            /* f32 [1] */
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step;          /* 1 for the first */
    uint64_t seed, stream; /* bf16: of the rounding, a stream for each step */
    int64_t first_element;
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
    X(sum_losses, lt_sum_losses_args)                   \
    X(sample_tokens, lt_sample_tokens_args)             \
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

/* Operations recorded once, to be run again with one launch: a CUDA graph. */
typedef struct lt_recording lt_recording;

/* One device with its operations. Read the fields, change none. */
struct lt_backend {
    const char *name; /* "cpu-avx512", "cuda-sm90-bf16": printed at start, stored in checkpoints */
    lt_device device;
    lt_dtype real;       /* number type of weights and activations */
    lt_dtype statistics; /* of statistics and losses */
    int threads;
    lt_memory memory;   /* for arenas on this device */
    size_t own_memory;  /* bytes of it that the backend takes for itself: plans count them */
    const char *matmul; /* a GPU: whose matrix products, for the log; NULL: its own */
    /* Bytes of that memory that can be had now; UINT64_MAX when the device does not say. */
    uint64_t (*available_memory)(const lt_backend *backend);
    /* Host to device and back; on the CPU plain copies. The device-side address is the one that
     * came from `memory`. After upload the host's memory may be changed at once, though the device
     * may get the bytes later, in order with the operations; download waits for them. */
    lt_status (*upload)(const lt_backend *backend, void *to, const void *from, size_t bytes,
                        lt_err *err);
    lt_status (*download)(const lt_backend *backend, void *to, const void *from, size_t bytes,
                          lt_err *err);
    /* Waits for everything and reports what went wrong in it. */
    lt_status (*synchronize)(const lt_backend *backend, lt_err *err);
    /* Between begin and end, operations are recorded instead of run; no upload or download. Replay
     * runs them on the same tensors, with what these hold then. NULL: this device does not record.
     */
    lt_status (*record_begin)(const lt_backend *backend, lt_err *err);
    lt_status (*record_end)(const lt_backend *backend, lt_recording **out, lt_err *err);
    lt_status (*replay)(const lt_backend *backend, const lt_recording *recording, lt_err *err);
    void (*recording_free)(const lt_backend *backend, lt_recording *recording);
    lt_ops ops;
    void *state; /* private to the backend: packing buffers, streams */
};

/* Whose matrix products a GPU uses: ours, cuBLAS's, or by shape whichever was measured faster. */
typedef enum lt_matmul_choice {
    LT_MATMUL_AUTO,
    LT_MATMUL_NATIVE,
    LT_MATMUL_CUBLAS
} lt_matmul_choice;

/* What code for the CPU is compiled for, worst first. */
typedef enum lt_isa { LT_ISA_REF, LT_ISA_AVX2, LT_ISA_AVX512, LT_ISA_COUNT } lt_isa;

typedef struct lt_backend_settings {
    lt_device device;
    const char *isa; /* CPU: "ref", "avx2", "avx512"; NULL: LATHE_ISA from the environment, else the
                        best this machine has */
    int threads;     /* CPU: 0: OMP_NUM_THREADS or all cores */
    int index;       /* CUDA: which GPU */
    bool half;       /* CUDA: real is bf16, else f32 */
    bool plan_only;  /* the number types and nothing else: plans memory where the device is not */
    lt_matmul_choice matmul;
} lt_backend_settings;

/* An ISA that this machine lacks, or an unknown name, is LT_ERR_USAGE; a GPU that can not be used
 * is LT_ERR_UNSUPPORTED and says why. */
lt_status lt_backend_create(const lt_backend_settings *settings, lt_backend **out, lt_err *err);
/* The reference operations with `real` = double, single-threaded: for gradient checks. */
lt_status lt_backend_create_double(lt_backend **out, lt_err *err);
void lt_backend_free(lt_backend *backend);
/* What a backend for the CPU is by default, for code outside of backends that is compiled once for
 * each ISA. LT_ISA_REF where creating that backend would fail. */
lt_isa lt_cpu_isa(void);

/* lt_matmul(backend, &args, err) and so on: check that the slot is there, then call it. Shapes and
 * dtypes that do not fit together are LT_ERR_USAGE naming the operation and the tensor. */
#define LT_CALL(name, args) \
    lt_status lt_##name(const lt_backend *backend, const args *a, lt_err *err);
LT_OPERATIONS(LT_CALL)
#undef LT_CALL

#ifdef __cplusplus
}
#endif

#endif
