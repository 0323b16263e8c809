/* Encoding and decoding GGUF's number types: ns per weight, and bytes of f32 and of blocks that are
 * moved per second, as a share of what a copy moves.
 *
 *     build/release/tests/bench_quants [million weights, default 16] */
#include "model/formats/quants.h"
#include "tests/bench/bench.h"

static const lt_gguf_type types[] = {LT_GGUF_F16,  LT_GGUF_BF16, LT_GGUF_Q8_0, LT_GGUF_Q6_K,
                                     LT_GGUF_Q5_0, LT_GGUF_Q4_K, LT_GGUF_Q4_0};

/* What a thread takes at a time, as in an export. */
enum { CHUNK = 1 << 16 };

static void encode_all(lt_gguf_type type, const float *values, int64_t count, char *blocks,
                       int threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count; i += CHUNK) {
        lt_err err = {0};
        bench_check(
            lt_gguf_encode(type, values + i, CHUNK, blocks + lt_gguf_row_bytes(type, i), &err),
            &err);
    }
}

static void decode_all(lt_gguf_type type, const char *blocks, int64_t count, float *values,
                       int threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < count; i += CHUNK)
        lt_gguf_decode(type, blocks + lt_gguf_row_bytes(type, i), CHUNK, values + i);
}

static void print(const char *what, lt_gguf_type type, int threads, int64_t count, double seconds,
                  double copy)
{
    double moved =
        1e-9 * ((double)count * sizeof(float) + (double)lt_gguf_row_bytes(type, count)) / seconds;
    printf("%s %-4s %d thread%s: %7.3f ns/weight, %6.2f GB/s (%3.0f %% of a copy)\n", what,
           lt_gguf_type_name(type), threads, threads > 1 ? "s" : " ", 1e9 * seconds / (double)count,
           moved, 100 * moved / copy);
}

int main(int argc, char **argv)
{
    int64_t count = (argc > 1 ? atoll(argv[1]) : 16) * 1000000 / CHUNK * CHUNK;
    float *values = bench_random(count, 1), *back = bench_random(count, 2);
    char *blocks = malloc((size_t)count * sizeof(float));
    int most = omp_get_max_threads();
    if (!blocks || count < CHUNK) return 1;
    for (int64_t i = 0; i < count; i++)
        values[i] *= 0.02f;
    memset(blocks, 0, (size_t)count * sizeof(float));
    for (int threads = 1; threads <= most; threads += most > 1 ? most - 1 : 1) {
        double seconds, copy = bench_copy_gbytes(threads);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            BENCH_BEST(seconds, 0.3, encode_all(types[t], values, count, blocks, threads));
            print("encode", types[t], threads, count, seconds, copy);
            BENCH_BEST(seconds, 0.3, decode_all(types[t], blocks, count, back, threads));
            print("decode", types[t], threads, count, seconds, copy);
        }
    }
    free(values);
    free(back);
    free(blocks);
    return 0;
}
