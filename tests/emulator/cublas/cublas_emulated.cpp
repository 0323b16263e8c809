/* Stands in for NVIDIA's libcublas where the GPU is emulated: the functions that
 * kernels/cuda/cublas.cu calls, written after cuBLAS's documentation, column-major and naive, so
 * that a test sees whether they are called rightly. A product is a kernel of one thread, so it is
 * asynchronous and can be recorded, as there. Runtime functions are those of the program that loads
 * it. */
#include <stdint.h>
#include <string.h>

#include <cuda_runtime.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { TYPE_F32 = 0, TYPE_BF16 = 14, COMPUTE_F32 = 68 };

static struct {
    bool created, workspace;
    cudaStream_t stream;
} handle;

static float element(const void *data, int type, int64_t i)
{
    if (type == TYPE_F32) return reinterpret_cast<const float *>(data)[i];
    uint32_t bits = (uint32_t) reinterpret_cast<const uint16_t *>(data)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void set_element(void *data, int type, int64_t i, float value)
{
    if (type == TYPE_F32) {
        reinterpret_cast<float *>(data)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits += 0x7fff + (bits >> 16 & 1); /* to nearest even */
    reinterpret_cast<uint16_t *>(data)[i] = (uint16_t)(bits >> 16);
}

extern "C" {

/* A test that wants to know how many products came here defines it. */
extern int cublas_emulated_products __attribute__((weak));

int cublasCreate_v2(void **out)
{
    handle = {true, false, nullptr};
    *out = &handle;
    return SUCCESS;
}

int cublasDestroy_v2(void *)
{
    handle.created = false;
    return SUCCESS;
}

int cublasSetStream_v2(void *, cudaStream_t stream)
{
    handle.stream = stream;
    handle.workspace = false; /* "unconditionally resets the cuBLAS library workspace" */
    return SUCCESS;
}

int cublasSetWorkspace_v2(void *, void *workspace, size_t bytes)
{
    handle.workspace = workspace && bytes > 0 && (uintptr_t)workspace % 256 == 0;
    return handle.workspace ? SUCCESS : INVALID_VALUE;
}

int cublasSetMathMode(void *, int mode)
{
    return mode == 16 ? SUCCESS : INVALID_VALUE;
}

int cublasSetAtomicsMode(void *, int mode)
{
    return mode == 0 ? SUCCESS : INVALID_VALUE;
}

const char *cublasGetStatusName(int status)
{
    return status == NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_INVALID_VALUE";
}

/* C[m x n] = alpha op(A)[m x k] op(B)[k x n] + beta C, columns first. */
int cublasGemmEx_64(void *, int a_operation, int b_operation, int64_t m, int64_t n, int64_t k,
                    const float *alpha, const void *a, int a_type, int64_t a_stride, const void *b,
                    int b_type, int64_t b_stride, const float *beta, void *c, int c_type,
                    int64_t c_stride, int compute_type, int)
{
    bool a_turned = a_operation != 0, b_turned = b_operation != 0;
    if (!handle.created || !handle.workspace) return NOT_INITIALIZED;
    if (compute_type != COMPUTE_F32 || a_type != b_type) return NOT_SUPPORTED;
    if (a_stride < (a_turned ? k : m) || b_stride < (b_turned ? n : k) || c_stride < m)
        return INVALID_VALUE;
    if (&cublas_emulated_products) cublas_emulated_products++;
    float factor = *alpha, kept = *beta;
    auto product = [=] {
        if (threadIdx.x > 0) return;
        for (int64_t column = 0; column < n; column++)
            for (int64_t row = 0; row < m; row++) {
                int64_t at = column * c_stride + row;
                float sum = 0;
                for (int64_t i = 0; i < k; i++)
                    sum += element(a, a_type, a_turned ? row * a_stride + i : i * a_stride + row) *
                           element(b, b_type,
                                   b_turned ? i * b_stride + column : column * b_stride + i);
                float before = kept == 0 ? 0 : kept * element(c, c_type, at);
                set_element(c, c_type, at, factor * sum + before);
            }
    };
    emulator_launch(dim3(1), dim3(1), 0, handle.stream, "cublas", product);
    return SUCCESS;
}
}
