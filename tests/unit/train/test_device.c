/* From --device, --dtype and --matmul to a backend; what does not go together is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "kernels/devices.h"
#include "train/device.h"

static lt_device_opened opened;

static lt_status open_device(const lt_device_choice *choice, lt_err *err)
{
    *err = (lt_err){0};
    return lt_device_open(choice, &opened, err);
}

static void refuse(const lt_device_choice *choice, const char *reason)
{
    lt_err err;
    assert_int_equal(open_device(choice, &err), LT_ERR_USAGE);
    if (!strstr(err.message, reason)) fail_msg("\"%s\" is not in: %s", reason, err.message);
}

static void the_cpu_has_float32(void **state)
{
    (void)state;
    static const char *const dtypes[] = {NULL, "auto", "float32"};
    lt_err err;
    for (int i = 0; i < 3; i++) {
        const lt_device_choice choice = {.device = "cpu", .dtype = dtypes[i], .threads = 1};
        assert_int_equal(open_device(&choice, &err), LT_OK);
        assert_int_equal(opened.backend->device, LT_DEVICE_CPU);
        assert_int_equal(opened.backend->real, LT_F32);
        assert_int_equal(opened.backend->threads, 1);
        assert_false(opened.planned);
        assert_string_equal(opened.note, "");
        lt_backend_free(opened.backend);
    }
    refuse(&(lt_device_choice){.device = "cpu", .dtype = "bfloat16"}, "needs a GPU");
    refuse(&(lt_device_choice){.device = "cpu", .matmul = "native"},
           "--matmul native is for a GPU");
}

static void unknown_devices_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"gpu",    "cuda:",   "cuda:x",    "cuda:-1", "cuda:1x",
                                      "cuda 1", "cuda:+1", "cuda:9999", "",        "cpu:0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(&(lt_device_choice){.device = bad[i]}, "there are auto, cpu, cuda");
}

/* Whatever this machine has: a GPU in bfloat16, or the CPU and why. */
static void auto_takes_what_there_is(void **state)
{
    (void)state;
    int index;
    lt_err err, why = {0};
    bool gpu = lt_cuda_choose(&index, &why) == LT_OK;
    assert_int_equal(open_device(&(lt_device_choice){0}, &err), LT_OK);
    assert_int_equal(opened.backend->device, gpu ? LT_DEVICE_CUDA : LT_DEVICE_CPU);
    assert_int_equal(opened.backend->real, gpu ? LT_BF16 : LT_F32);
    if (!gpu) {
        assert_memory_equal(opened.note, "no GPU: ", 8);
        assert_string_equal(opened.note + 8, why.message);
    }
    lt_backend_free(opened.backend);
    if (gpu) return;
    refuse(&(lt_device_choice){.dtype = "bfloat16"}, why.message);
    assert_int_equal(open_device(&(lt_device_choice){.device = "cuda"}, &err), LT_ERR_UNSUPPORTED);
    assert_true(strlen(err.message) > 0);
}

/* Where there is no GPU, one can be planned for. */
static void a_plan_needs_no_gpu(void **state)
{
    (void)state;
    static const struct {
        const char *dtype;
        lt_dtype real;
    } cases[] = {{NULL, LT_BF16}, {"bfloat16", LT_BF16}, {"float32", LT_F32}};
    int index;
    lt_err err;
    if (lt_cuda_choose(&index, NULL) == LT_OK) skip();
    for (int i = 0; i < 3; i++) {
        const lt_device_choice choice = {
            .device = "cuda:1", .dtype = cases[i].dtype, .plan_only = true};
        assert_int_equal(open_device(&choice, &err), LT_OK);
        assert_true(opened.planned);
        assert_int_equal(opened.backend->device, LT_DEVICE_CUDA);
        assert_int_equal(opened.backend->real, cases[i].real);
        assert_int_equal(opened.backend->statistics, LT_F32);
        assert_memory_equal(opened.note, "planned for only: ", 18);
        lt_backend_free(opened.backend);
    }
    /* auto plans for what will be used */
    const lt_device_choice choice = {.plan_only = true};
    assert_int_equal(open_device(&choice, &err), LT_OK);
    assert_int_equal(opened.backend->device, LT_DEVICE_CPU);
    lt_backend_free(opened.backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_has_float32),
        cmocka_unit_test(unknown_devices_are_refused),
        cmocka_unit_test(auto_takes_what_there_is),
        cmocka_unit_test(a_plan_needs_no_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
