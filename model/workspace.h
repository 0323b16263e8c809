/* The memory and the shared parts of the passes. Private to model/.
 *
 * A pass carries a flat list of tokens through the stack. Everything but attention is blind to
 * where one sequence ends and the next begins; attention walks over the pass's groups, runs of
 * sequences of equal length. A training batch is one group; a decoding step has a group for each
 * run of neighbouring rows with as many new tokens, so that nothing is ever padded. */
#ifndef LT_MODEL_WORKSPACE_H
#define LT_MODEL_WORKSPACE_H

#include "model/params.h"

/* The linear modules of a block, each one matrix: [q; k; v], the attention's output, [gate; up] or
 * up, down. */
typedef enum lt_linear {
    LT_LINEAR_QKV,
    LT_LINEAR_OUT,
    LT_LINEAR_UP,
    LT_LINEAR_DOWN,
    LT_LINEAR_COUNT
} lt_linear;

/* What one block computes on the way forward. Tensors are [tokens, ...] with room for the largest
 * batch. Which of them a block has for itself, and which it shares with all the others, is what
 * lt_recompute and frozen layers decide; a block that keeps nothing works in place on one residual
 * stream (input, middle and output are the same memory). */
typedef struct lt_block_activations {
    lt_tensor input;                      /* [tokens, hidden]: the residual stream as it enters */
    lt_tensor norm1, norm2;               /* [tokens, hidden] */
    lt_tensor mean1, rstd1, mean2, rstd2; /* [tokens]; absent where nothing is kept */
    lt_tensor qkv; /* [tokens, (heads + 2 kv_heads) head_dim], q and k after rotary */
    lt_tensor qk;  /* [tokens, (heads + kv_heads) head_dim] before the q/k norm, or absent */
    lt_tensor q_rstd, k_rstd; /* [tokens * heads], [tokens * kv_heads], or absent */
    lt_tensor attention;      /* [tokens, heads head_dim] */
    lt_tensor lse;            /* [tokens * heads], or absent */
    lt_tensor middle;         /* [tokens, hidden]: the stream after attention was added */
    lt_tensor up;             /* [tokens, intermediate] or gated [tokens, 2 intermediate] */
    lt_tensor activated;      /* [tokens, intermediate] */
    lt_tensor output;         /* [tokens, hidden]: the next block's input */
} lt_block_activations;

/* Room for what adapters do. Absent unless an adapter of the model wants it. */
enum { LT_ROOM_STAGES = 2 }; /* before a prompt network's last */

typedef struct lt_adapter_room {
    /* LoRA, [tokens, ...] */
    lt_tensor low, d_low; /* [widest stacked rank]: s x A^T and its gradient */
    lt_tensor input;      /* [widest input]: x after the adapter's dropout */
    lt_tensor output;     /* [widest output], DoRA: x (W + s B A)^T, then its gradient */

    /* Virtual tokens before a batch: every row's keys and values with theirs in front. */
    lt_tensor keys, values;     /* [rows * (virtual + length), kv_heads head_dim] */
    lt_tensor d_keys, d_values; /* the same */
    lt_tensor d_prefix;         /* [virtual, kv_heads head_dim]: summed over rows */
    lt_tensor own;              /* i32 [rows * length]: rows of `keys` that are the batch's */
    lt_tensor zeros, offsets;   /* i32 [rows]: 0, and the number of virtual tokens */
    lt_tensor order;            /* i32 [virtual]: 0, 1, 2, ... */

    /* The network behind a prompt: table and its gradient [virtual, width], and what each stage
     * gives before and after its activation. */
    lt_tensor table, d_table;
    lt_tensor stage[LT_ROOM_STAGES], activated[LT_ROOM_STAGES], d_stage[2];
} lt_adapter_room;

struct lt_workspace {
    lt_workspace_settings settings;
    const lt_model *model;         /* borrowed */
    const lt_model_config *config; /* the model's, and its backend */
    const lt_backend *backend;
    int adapter_count;        /* when it was made */
    int64_t tokens;           /* capacity, with virtual tokens */
    int64_t batch_tokens;     /* without */
    int64_t virtual_tokens;   /* the most that stand in front of a row */
    int64_t chunk;            /* rows of logits held at a time */
    int64_t first_kept_layer; /* blocks below keep nothing for backward */
    lt_arena arena;           /* device */
    lt_arena host;
    lt_block_activations *blocks; /* [layers] */
    lt_adapter_room room;

    /* The batch on the device: i32 [tokens]. */
    lt_tensor ids, positions, first_key;
    lt_tensor offset; /* [rows] keys in front of a row's: those that the cache holds already, or
                         virtual and shared ones */
    lt_tensor index, targets; /* the positions that get logits, and what they should predict */

    lt_tensor stream;     /* [tokens, hidden]: output of the last block */
    lt_tensor branch;     /* [tokens, hidden]: a branch before dropout; absent without dropout */
    lt_tensor head_input; /* [tokens, hidden]: the gathered rows of `stream` */
    lt_tensor head_norm;  /* [tokens, hidden]: after the final norm */
    lt_tensor head_mean, head_rstd; /* [tokens] */
    lt_tensor logits;               /* statistics [chunk, vocab] */
    lt_tensor d_logits;             /* real: their gradient, in the same memory */
    lt_tensor logits_f32;           /* the same as f32; absent when statistics is f32 */
    lt_tensor loss, correct;        /* statistics and i32 [tokens] */
    lt_tensor totals;               /* f64 [3]: losses, targets, correct ones, not yet taken */

    /* Backward; absent unless training. */
    lt_tensor d_stream, d_norm;         /* [tokens, hidden] */
    lt_tensor d_branch;                 /* [tokens, hidden]; absent without dropout */
    lt_tensor d_activated, d_attention; /* the same memory, never used at the same time */
    lt_tensor d_qkv;                    /* like qkv */

    /* Staging on the host, [tokens + virtual_tokens] each. */
    int32_t *host_index, *host_targets, *host_ids, *host_positions, *host_offset;
    void *host_loss; /* statistics */
};

/* Sequences first_row .. first_row + rows, `length` tokens each, that lie in the pass from
 * first_token on. Their queries see `kv_length` keys (of the cache, when there is one). */
typedef struct lt_group {
    int64_t first_row, rows, length, first_token, kv_length;
} lt_group;

/* Neighbouring tokens of a pass, or rows of its head, whose products have the same adapter in them
 * (NULL: none). */
typedef struct lt_span {
    int64_t first, count;
    const lt_adapter *adapter;
} lt_span;

enum { LT_RECORDED_STEPS = 8 };

/* Keys and values of earlier tokens. */
struct lt_kv_cache {
    const lt_model *model; /* borrowed */
    int adapter_count;     /* when it was made */
    lt_arena arena;
    int64_t rows, capacity;
    lt_tensor *k, *v;            /* [layers] of real [rows, capacity, kv_heads, head_dim] */
    int64_t *lengths;            /* [rows] */
    const lt_adapter **adapters; /* [rows]: of the sequence that a row holds */
    lt_group *groups;            /* [rows]: scratch of a decoding step, and so are the spans */
    lt_span *spans, *head_spans;
    /* Of the rows with new ids, side by side, when the next ids are chosen on the device: i32. */
    lt_tensor history;                       /* [rows, capacity] */
    lt_tensor history_count, sequence, next; /* [rows] */
    int32_t *host_rows;                      /* [rows]: staging */
    struct lt_recorded_step *recorded;       /* [LT_RECORDED_STEPS], or NULL */
    uint64_t clock;
    lt_kv_cache **prefixes; /* [adapter_count]: virtual tokens of an adapter, one row; NULL
                               until they are asked for */
};

typedef struct lt_pass {
    const lt_model *model;
    const lt_backend *backend;
    const lt_workspace *workspace;
    int64_t tokens;
    int64_t virtual_tokens;    /* of `tokens`, the first so many come from the adapter's table */
    const lt_adapter *adapter; /* of a batch; NULL: none, or (decoding) each group's own */
    const lt_group *groups; /* with virtual tokens they are the first group, the batch the last */
    int64_t group_count;
    const lt_span *spans, *head_spans;
    int64_t span_count, head_span_count;
    const int32_t *shared;    /* lt_batch.shared, or NULL */
    const lt_kv_cache *cache; /* NULL: keys and values are the batch's own */
    bool empty;               /* nothing is computed: the observer alone is told of the units */
    bool accumulate;          /* gradients of matrices are added to, else replaced */
    bool dropout;             /* training: masks apply */
    lt_dropout_mask key;      /* seed and stream of the masks; its rate is not used */
} lt_pass;

/* Places in a block where dropout acts; each has masks of its own. */
enum {
    LT_SITE_ATTENTION,
    LT_SITE_ATTENTION_OUT,
    LT_SITE_MLP_OUT,
    LT_SITE_EMBEDDING,
    LT_SITE_ADAPTER, /* and one for each linear module */
    LT_SITES = LT_SITE_ADAPTER + LT_LINEAR_COUNT
};
lt_dropout_mask lt_pass_mask(const lt_pass *pass, double rate, int64_t layer, int site);

/* The first `tokens` rows of a tensor with room for the workspace's capacity; absent stays absent.
 */
lt_tensor lt_workspace_rows(const lt_workspace *workspace, lt_tensor t, int64_t tokens);
lt_block_activations lt_workspace_block(const lt_workspace *workspace, int64_t layer,
                                        int64_t tokens);

/* The batch fits model and workspace, and every id, position and target is in range. */
lt_status lt_batch_check(const lt_model *model, const lt_workspace *workspace,
                         const lt_batch *batch, lt_err *err);

/* How many neighbouring rows of a batch, from `row` on, share as many tokens as it does. */
int64_t lt_rows_alike(const int32_t *shared, int64_t row, int64_t rows);

/* --- Blocks (block_forward.c, block_backward.c) ---------------------------------------------- */

lt_status lt_norm_pass(const lt_pass *pass, lt_tensor x, lt_tensor weight, lt_tensor bias,
                       lt_tensor y, lt_tensor mean, lt_tensor rstd, lt_err *err);
lt_status lt_norm_pass_backward(const lt_pass *pass, const lt_norm_backward_args *args,
                                lt_err *err);
/* [tokens, kv_heads, head_dim] as the keys of each of `rows` sequences: a batch stride of 0. */
lt_tensor lt_for_all_rows(lt_tensor t, int64_t rows);
lt_tensor lt_split_heads(lt_tensor t, int64_t first_head, int64_t heads, int64_t head_dim);
/* Attention of one group of a batch; puts virtual tokens' keys and values in front. */
lt_status lt_attention_of(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                          const lt_group *group, lt_attention_args *out, lt_err *err);
/* Keys and values [virtual, kv_heads, head_dim] that stand in front of a batch group's, if any. */
bool lt_prefix_of(const lt_pass *pass, const lt_block_activations *a, int64_t layer,
                  const lt_group *group, lt_tensor *keys, lt_tensor *values);
lt_status lt_rotate(const lt_pass *pass, lt_tensor qkv, bool inverse, lt_err *err);

lt_status lt_block_forward(const lt_pass *pass, int64_t layer, lt_err *err);
/* Computes again what backward needs and the workspace's level of recompute did not keep. */
lt_status lt_block_recompute(const lt_pass *pass, int64_t layer, lt_err *err);
/* workspace->d_stream holds the gradient of the block's output and then of its input. */
lt_status lt_block_backward(const lt_pass *pass, int64_t layer, lt_err *err);

/* Embeds the pass's tokens and runs every block: workspace->stream is the result. */
lt_status lt_stack_forward(const lt_pass *pass, lt_err *err);
/* A unit's gradients are about to be written: tells so, and clears what has to start at 0. */
lt_status lt_begin_gradients(const lt_pass *pass, int64_t layer, lt_err *err);

/* --- Head (head.c) --------------------------------------------------------------------------- */

/* Puts host_index[0..count), the rows of the stream that get logits, on the device. */
lt_status lt_head_choose(const lt_workspace *workspace, int64_t count, lt_err *err);
/* Loss of row host_index[i] against host_targets[i], into ws->loss and ws->correct. With `gradient`
 * also the backward pass of head and final norm, which leaves d_stream. */
lt_status lt_head_loss(const lt_pass *pass, int64_t count, bool gradient, lt_err *err);
/* Hands the logits of the chosen rows to `take`, some rows at a time, in order. */
typedef lt_status (*lt_take_logits)(void *context, int64_t first, int64_t count,
                                    lt_tensor logits_f32, lt_err *err);
lt_status lt_head_logits(const lt_pass *pass, int64_t count, lt_take_logits take, void *context,
                         lt_err *err);

#endif
