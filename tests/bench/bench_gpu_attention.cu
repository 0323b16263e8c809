/* Causal attention, forward and backward, from packed projections as in training.
 * tests/gpu/bench_peers.py measures PyTorch's under the same names. */
#include "tests/bench/bench_gpu.cuh"

struct attention_shape {
    int64_t batch, length, heads, kv_heads, head_dim;
};

static const attention_shape shapes[] = {
    {16, 1024, 12, 12, 64}, {8, 1024, 25, 25, 64}, {4, 2048, 32, 32, 128},
    {2, 4096, 32, 32, 128}, {2, 4096, 32, 8, 128},
};

/* `heads` of a packed row, from head `first` on. */
static lt_tensor part(lt_tensor packed, const attention_shape *s, int64_t first, int64_t heads)
{
    lt_tensor columns = lt_tensor_slice(packed, 1, first * s->head_dim, heads * s->head_dim);
    return lt_tensor_as_heads(columns, s->batch, heads, s->head_dim);
}

static lt_attention_backward_args arguments(const attention_shape *s)
{
    int64_t rows = s->batch * s->length, width = s->heads * s->head_dim;
    int64_t all = (s->heads + 2 * s->kv_heads) * s->head_dim, v = s->heads + s->kv_heads;
    lt_tensor packed = bench_tensor(LT_BF16, rows, all),
              gradient = bench_tensor(LT_BF16, rows, all);
    lt_attention_backward_args a = {};
    a.forward.q = part(packed, s, 0, s->heads);
    a.forward.k = part(packed, s, s->heads, s->kv_heads);
    a.forward.v = part(packed, s, v, s->kv_heads);
    a.forward.out =
        lt_tensor_as_heads(bench_tensor(LT_BF16, rows, width), s->batch, s->heads, s->head_dim);
    a.forward.lse = lt_tensor_3d(bench_vector(LT_F32, rows * s->heads).data, LT_F32, s->batch,
                                 s->heads, s->length);
    a.forward.scale = 1 / sqrt((double)s->head_dim);
    a.dout =
        lt_tensor_as_heads(bench_tensor(LT_BF16, rows, width), s->batch, s->heads, s->head_dim);
    a.dq = part(gradient, s, 0, s->heads);
    a.dk = part(gradient, s, s->heads, s->kv_heads);
    a.dv = part(gradient, s, v, s->kv_heads);
    return a;
}

/* Forward: two products of length^2 / 2 x head_dim for each head; backward, as usual, 2.5 times
 * that. */
void bench_attention(bench_gpu *b)
{
    for (attention_shape s : shapes) {
        s.length = bench_size(s.length);
        if (bench_state.tiny) s.batch = 1, s.heads /= s.kv_heads, s.kv_heads = 1;
        lt_attention_backward_args a = arguments(&s);
        double work =
            2e-12 * (double)(s.batch * s.heads * s.head_dim) * (double)s.length * (double)s.length;
        char name[96];
        double forward = bench_seconds(
            b->native, [&] { BENCH_MUST(lt_attention_forward(b->native, &a.forward, err)); });
        double backward = bench_seconds(
            b->native, [&] { BENCH_MUST(lt_attention_backward(b->native, &a, err)); });
        snprintf(name, sizeof name, "forward %lldx%lld heads %lld/%lld of %lld", (long long)s.batch,
                 (long long)s.length, (long long)s.heads, (long long)s.kv_heads,
                 (long long)s.head_dim);
        bench_row("attention", name, "lathe", work / forward, "TFLOP/s");
        snprintf(name, sizeof name, "backward %lldx%lld heads %lld/%lld of %lld",
                 (long long)s.batch, (long long)s.length, (long long)s.heads, (long long)s.kv_heads,
                 (long long)s.head_dim);
        bench_row("attention", name, "lathe", 2.5 * work / backward, "TFLOP/s");
        bench_release();
    }
}
