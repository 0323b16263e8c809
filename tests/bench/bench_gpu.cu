/* Speed of the CUDA kernels, with random data, by CUDA events: what scripts/gpu_bench.sh runs.
 * Needs the CUDA toolkit and nothing else of what Lathe needs.
 *
 *     bench_gpu [copy] [matmul] [attention] [memory]       (none: all)
 *
 * One line for each figure: SECTION NAME WHO VALUE UNIT, tabs between. Figures of the same section
 * and name are to be compared. LATHE_BENCH_TINY in the environment: everything at sizes of nothing,
 * to see that it runs. Lines "table<TAB>..." are for kernels/cuda/matmul_table.h. */
#include "tests/bench/bench_gpu.cuh"

bench_globals bench_state;

/* --- Peaks ------------------------------------------------------------------------------------ */

/* Dense bf16 TFLOP/s with f32 sums, as NVIDIA's data sheets and architecture papers have them (half
 * of figures "with sparsity"). The first name that the card's begins with. */
static const struct {
    const char *name;
    double tflops;
} peaks[] = {
    {"NVIDIA H100 PCIe", 756},
    {"NVIDIA H100 NVL", 835},
    {"NVIDIA H100", 989},
    {"NVIDIA H200 NVL", 835},
    {"NVIDIA H200", 989},
    {"NVIDIA GH200", 989},
    {"NVIDIA H800", 989},
    {"NVIDIA B200", 2250},
    {"NVIDIA GB200", 2500},
    {"NVIDIA A100", 312},
    {"NVIDIA A800", 312},
    {"NVIDIA A30", 165},
    {"NVIDIA A40", 149.7},
    {"NVIDIA RTX A6000", 154.8},
    {"NVIDIA L40S", 362},
    {"NVIDIA L40", 181},
    {"NVIDIA L4", 121},
    {"NVIDIA GeForce RTX 3090 Ti", 80},
    {"NVIDIA GeForce RTX 3090", 71},
    {"NVIDIA GeForce RTX 4090 D", 0},
    {"NVIDIA GeForce RTX 4090", 165.2},
    {"NVIDIA GeForce RTX 5090 D", 0},
    {"NVIDIA GeForce RTX 5090", 209.5},
};

static void print_card(const bench_gpu *b)
{
    for (const auto &peak : peaks)
        if (strncmp(b->card.name, peak.name, strlen(peak.name)) == 0) {
            if (peak.tflops > 0)
                bench_row("card", "bf16 peak", "data sheet", peak.tflops, "TFLOP/s");
            break;
        }
    bench_row("card", "multiprocessors", "driver", b->card.multiProcessorCount, "");
    bench_row("card", "L2 cache", "driver", b->card.l2CacheSize / 1e6, "MB");
}

/* --- Copying: the ceiling of whatever is bound by memory ----------------------------------------
 */

__global__ void copy_kernel(uint4 *to, const uint4 *from, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        to[i] = from[i];
}

/* More than any cache holds; both figures count what is read and what is written. */
void bench_copy(bench_gpu *b)
{
    const int64_t n = bench_size((int64_t)1 << 28); /* floats: 1 GiB */
    lt_tensor from = bench_tensor(LT_F32, 1, n), to = bench_tensor(LT_F32, 1, n);
    cudaStream_t stream = cuda_of(b->native)->stream;
    double bytes = 8.0 * (double)n, best = 0;
    for (int blocks = 8; blocks <= 64; blocks *= 2) {
        int grid = blocks * b->card.multiProcessorCount;
        double seconds = bench_seconds(b->native, [&] {
            BENCH_MUST(lt_launch(b->native, "copy", err, copy_kernel, dim3(grid), dim3(256), 0,
                                 (uint4 *)to.data, (const uint4 *)from.data, n / 4));
        });
        best = fmax(best, bytes / seconds);
    }
    double memcpy_seconds = bench_seconds(b->native, [&] {
        cudaMemcpyAsync(to.data, from.data, (size_t)n * 4, cudaMemcpyDeviceToDevice, stream);
    });
    bench_row("copy", "1 GiB", "kernel", best / 1e9, "GB/s");
    bench_row("copy", "1 GiB", "cudaMemcpy", bytes / memcpy_seconds / 1e9, "GB/s");
    b->copy = fmax(best, bytes / memcpy_seconds);
    bench_row("copy", "ceiling", "copy ceiling", b->copy / 1e9, "GB/s");
    bench_release();
}

/* --- Everything ------------------------------------------------------------------------------- */

static lt_backend *open_backend(lt_matmul_choice choice)
{
    lt_backend_settings settings = {};
    lt_backend *backend = nullptr;
    lt_err err = {};
    settings.device = LT_DEVICE_CUDA;
    settings.half = true;
    settings.matmul = choice;
    if (lt_backend_create(&settings, &backend, &err) == LT_OK) return backend;
    fprintf(stderr, "bench_gpu: %s\n", err.message);
    return nullptr;
}

static bool wanted(int argc, char **argv, const char *section)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], section) == 0) return true;
    return argc < 2;
}

int main(int argc, char **argv)
{
    bench_gpu b = {};
    bench_state.tiny = getenv("LATHE_BENCH_TINY") != nullptr;
    b.native = open_backend(LT_MATMUL_NATIVE);
    if (!b.native) return 3;
    bench_must(cudaGetDeviceProperties(&b.card, 0), "the card");
    bench_state.backend = b.native;
    print_card(&b);
    bench_copy(&b); /* always: others are measured against it */
    if (wanted(argc, argv, "matmul")) {
        b.cublas = open_backend(LT_MATMUL_CUBLAS);
        bench_matmul(&b);
        lt_backend_free(b.cublas);
    }
    if (wanted(argc, argv, "attention")) bench_attention(&b);
    if (wanted(argc, argv, "memory")) bench_memory(&b);
    lt_backend_free(b.native);
    return 0;
}
