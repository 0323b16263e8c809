/* Backends on a GPU: which machines and builds fit together, uploads and downloads, order, memory,
 * recording, errors. Compiled twice: as it is, where without a GPU the refusal is looked at; and
 * against the emulated GPU (LT_EMULATOR), where everything is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum { MIB = 1 << 20 };

/* NULL, and the test is skipped, where there is no GPU. */
static lt_backend *open_backend(bool half)
{
    lt_backend *backend = NULL;
    lt_err err = {0};
    lt_backend_settings settings = {.device = LT_DEVICE_CUDA, .half = half};
    if (lt_cuda_backend_create(&settings, &backend, &err) == LT_OK) return backend;
#ifdef LT_EMULATOR
    fail_msg("%s", err.message);
#endif
    assert_null(backend);
    print_message("%s\n", err.message);
    return NULL;
}

/* --- Machines --------------------------------------------------------------------------------- */

static lt_status usable(const char *code, int runtime, int driver, int capability, lt_err *err)
{
    lt_cuda_machine machine = {
        .driver = driver, .gpu_count = 1, .gpus = {{.name = "Test", .capability = capability}}};
    return lt_cuda_usable((lt_cuda_build){runtime, code}, &machine, 0, err);
}

static void assert_refused(const char *code, int runtime, int driver, int capability,
                           const char *words)
{
    lt_err err = {0};
    assert_int_equal(usable(code, runtime, driver, capability, &err), LT_ERR_UNSUPPORTED);
    if (!strstr(err.message, words)) fail_msg("'%s' is not in: %s", words, err.message);
}

static void test_builds_and_machines(void **state)
{
    lt_cuda_machine machine = {.driver = 13000, .gpu_count = 2};
    lt_err err = {0};
    (void)state;
    assert_int_equal(usable("sm_80,sm_90a", 13000, 13000, 90, &err), LT_OK);
    assert_int_equal(usable("sm_80,sm_90a", 12050, 13000, 86, &err), LT_OK);
    assert_int_equal(usable("sm_80,sm_90a", 12090, 12020, 89, &err), LT_OK);
    assert_int_equal(usable("sm_80,compute_80", 13000, 13000, 120, &err), LT_OK);
    assert_int_equal(usable("sm_100", 13000, 13010, 103, &err), LT_OK);
    assert_refused("", 0, 13000, 90, "no CUDA kernels");
    assert_refused("sm_75", 13000, 13000, 75, "7.5");
    assert_refused("sm_86", 13000, 13000, 80, "sm_86");
    assert_refused("sm_80,sm_90a", 13000, 13000, 100, "10.0");
    assert_refused("sm_80,compute_120", 13000, 13000, 100, "LATHE_CUDA_ARCHS");
    assert_refused("sm_90a,compute_90a", 13000, 13000, 120, "12.0");
    assert_refused("sm_80", 13000, 12080, 80, "runs CUDA 12.8 and this build of lathe needs 13.0");
    assert_int_equal(lt_cuda_usable((lt_cuda_build){13000, "sm_80"}, &machine, 2, &err),
                     LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "no GPU 2"));
}

static void test_creation(void **state)
{
    lt_backend *backend = open_backend(true);
    lt_err err = {0};
    (void)state;
    if (!backend) skip();
    assert_non_null(strstr(backend->name, "cuda-sm"));
    assert_non_null(strstr(backend->name, "-bf16"));
    assert_int_equal(backend->real, LT_BF16);
    assert_int_equal(backend->statistics, LT_F32);
    assert_non_null(strstr(backend->matmul, "native"));
    lt_cuda_backend_free(backend);
    backend = open_backend(false);
    assert_non_null(strstr(backend->name, "-f32"));
    assert_int_equal(backend->real, LT_F32);
    lt_cuda_backend_free(backend);
    lt_cuda_backend_free(NULL);
    lt_backend_settings settings = {.device = LT_DEVICE_CUDA, .index = 1000};
    assert_int_equal(lt_cuda_backend_create(&settings, &backend, &err), LT_ERR_USAGE);
    assert_null(backend);
    assert_non_null(strstr(err.message, "1000"));
}

/* --- Copies ----------------------------------------------------------------------------------- */

static void fill(unsigned char *data, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)((i + seed) * 2654435761u >> 13);
}

static void *take(const lt_backend *backend, size_t bytes)
{
    void *memory = backend->memory.allocate(backend->memory.context, bytes);
    assert_non_null(memory);
    return memory;
}

static void give_back(const lt_backend *backend, void *memory, size_t bytes)
{
    backend->memory.release(backend->memory.context, memory, bytes);
}

/* What was uploaded comes back, though the host's copy is overwritten at once. */
static void test_copies(void **state)
{
    static const size_t sizes[] = {0, 1, 255, 257, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 45 * MIB + 3};
    lt_backend *backend = open_backend(true);
    lt_err err = {0};
    (void)state;
    if (!backend) skip();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = sizes[i];
        unsigned char *host = malloc(bytes + 1), *back = malloc(bytes + 1);
        unsigned char *device = take(backend, bytes + 1);
        fill(host, bytes, (unsigned)i);
        assert_int_equal(backend->upload(backend, device, host, bytes, &err), LT_OK);
        memset(host, 0xee, bytes);
        assert_int_equal(backend->download(backend, back, device, bytes + 1, &err), LT_OK);
        fill(host, bytes, (unsigned)i);
        assert_memory_equal(back, host, bytes);
        assert_int_equal(back[bytes], 0); /* fresh memory is zero, and nothing is written behind */
        give_back(backend, device, bytes + 1);
        free(host);
        free(back);
    }
    lt_cuda_backend_free(backend);
}

/* Small uploads from one host buffer, more than the ring holds, each in order with an operation. */
static void test_order(void **state)
{
    enum { COUNT = 96 * 1024, ROUNDS = 200 };
    lt_backend *backend = open_backend(false);
    lt_err err = {0};
    float *host = malloc(COUNT * sizeof *host), sums[4];
    (void)state;
    if (!backend) {
        free(host);
        skip();
    }
    float *x = take(backend, COUNT * sizeof *x), *sum = take(backend, COUNT * sizeof *sum);
    lt_tensor from = lt_tensor_2d(x, LT_F32, 1, COUNT), to = lt_tensor_2d(sum, LT_F32, 1, COUNT);
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++)
            host[i] = (float)(round * (1 + i % 3));
        assert_int_equal(backend->upload(backend, x, host, COUNT * sizeof *x, &err), LT_OK);
        assert_int_equal(lt_add(backend, &(lt_add_args){from, to, to}, &err), LT_OK);
    }
    assert_int_equal(backend->download(backend, sums, sum + COUNT - 4, sizeof sums, &err), LT_OK);
    for (int i = 0; i < 4; i++)
        assert_true(sums[i] == (float)(ROUNDS * (ROUNDS + 1) / 2 * (1 + (COUNT - 4 + i) % 3)));
    assert_int_equal(backend->synchronize(backend, &err), LT_OK);
    give_back(backend, x, COUNT * sizeof *x);
    give_back(backend, sum, COUNT * sizeof *sum);
    lt_cuda_backend_free(backend);
    free(host);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static void test_memory(void **state)
{
    lt_backend *backend = open_backend(true);
    lt_arena arena = {0};
    lt_err err = {0};
    (void)state;
    if (!backend) skip();
    uint64_t before = backend->available_memory(backend);
    assert_true(before > 0);
    assert_int_equal(lt_arena_reserve(&arena, "too much", (size_t)1 << 46, backend->memory, &err),
                     LT_ERR_NOMEM);
    assert_int_equal(lt_arena_reserve(&arena, "some", 64 * MIB, backend->memory, &err), LT_OK);
    assert_true(backend->available_memory(backend) < before);
    assert_int_equal(backend->synchronize(backend, &err), LT_OK);
    lt_arena_release(&arena);
    lt_cuda_backend_free(backend);
}

/* --- Recording -------------------------------------------------------------------------------- */

static void test_recording(void **state)
{
    enum { COUNT = 1000 };
    lt_backend *backend = open_backend(false);
    lt_recording *recording = NULL;
    lt_err err = {0};
    float host[COUNT];
    (void)state;
    if (!backend) skip();
    float *x = take(backend, sizeof host);
    lt_tensor tensor = lt_tensor_2d(x, LT_F32, 1, COUNT);
    lt_scale_args twice = {tensor, tensor, 2};
    assert_int_equal(backend->record_begin(backend, &err), LT_OK);
    assert_int_equal(lt_scale(backend, &twice, &err), LT_OK);
    assert_int_equal(lt_add(backend, &(lt_add_args){tensor, tensor, tensor}, &err), LT_OK);
    assert_int_equal(backend->upload(backend, x, host, sizeof host, &err), LT_ERR_USAGE);
    assert_int_equal(backend->download(backend, host, x, sizeof host, &err), LT_ERR_USAGE);
    assert_int_equal(backend->record_end(backend, &recording, &err), LT_OK);
    for (int i = 0; i < COUNT; i++)
        host[i] = (float)i;
    assert_int_equal(backend->upload(backend, x, host, sizeof host, &err), LT_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(backend->replay(backend, recording, &err), LT_OK);
    assert_int_equal(backend->download(backend, host, x, sizeof host, &err), LT_OK);
    for (int i = 0; i < COUNT; i++)
        assert_true(host[i] == (float)(64 * i)); /* not run when it was recorded */
    backend->recording_free(backend, recording);
    backend->recording_free(backend, NULL);
    give_back(backend, x, sizeof host);
    lt_cuda_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builds_and_machines),
        cmocka_unit_test(test_creation),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_recording),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
