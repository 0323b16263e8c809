#include "train/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/devices.h"

enum { MAX_INDEX_DIGITS = 3 };

static bool is(const char *word, const char *name)
{
    return strcmp(word ? word : "auto", name) == 0;
}

/* One GPU for each process, or, with fewer, several for one: whether that will do is for those to
 * say who connect them. */
static int gpu_of(int local_rank, int first)
{
    lt_cuda_machine machine;
    if (local_rank == 0 || lt_cuda_probe(&machine, NULL) != LT_OK) return first;
    return (first + local_rank) % machine.gpu_count;
}

/* "cuda" or "cuda:N". */
static bool parse_cuda(const char *device, int local_rank, int *index)
{
    bool any = is(device, "cuda");
    *index = any ? gpu_of(local_rank, 0) : 0;
    if (any) return true;
    if (!device || strncmp(device, "cuda:", 5) != 0) return false;
    const char *digits = device + 5;
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > MAX_INDEX_DIGITS || digits[length]) return false;
    *index = atoi(digits);
    return true;
}

static lt_status open_cpu(const lt_device_choice *choice, const char *why_not_a_gpu,
                          lt_device_opened *out, lt_err *err)
{
    const lt_backend_settings settings = {.threads = choice->threads};
    if (is(choice->dtype, "bfloat16"))
        return lt_fail(err, LT_ERR_USAGE,
                       "--dtype bfloat16 needs a GPU, and this is the CPU%s%s; --dtype float32 is "
                       "what it has",
                       *why_not_a_gpu ? ": " : "", why_not_a_gpu);
    if (!is(choice->matmul, "auto"))
        return lt_fail(err, LT_ERR_USAGE, "--matmul %s is for a GPU, and this is the CPU%s%s",
                       choice->matmul, *why_not_a_gpu ? ": " : "", why_not_a_gpu);
    return lt_backend_create(&settings, &out->backend, err);
}

static lt_status open_cuda(const lt_device_choice *choice, int index, lt_device_opened *out,
                           lt_err *err)
{
    lt_backend_settings settings = {.device = LT_DEVICE_CUDA,
                                    .index = index,
                                    .half = !is(choice->dtype, "float32"),
                                    .matmul = is(choice->matmul, "native")   ? LT_MATMUL_NATIVE
                                              : is(choice->matmul, "cublas") ? LT_MATMUL_CUBLAS
                                                                             : LT_MATMUL_AUTO};
    lt_err why = {0};
    lt_status status = lt_backend_create(&settings, &out->backend, &why);
    if (status == LT_OK || !choice->plan_only) {
        if (status != LT_OK) lt_fail(err, status, "%s", why.message);
        return status;
    }
    snprintf(out->note, sizeof out->note, "planned for only: %s", why.message);
    out->planned = true;
    settings.plan_only = true;
    return lt_backend_create(&settings, &out->backend, err);
}

lt_status lt_device_open(const lt_device_choice *choice, lt_device_opened *out, lt_err *err)
{
    int index;
    *out = (lt_device_opened){0};
    if (is(choice->device, "cpu")) return open_cpu(choice, "", out, err);
    if (parse_cuda(choice->device, choice->local_rank, &index))
        return open_cuda(choice, index, out, err);
    if (!is(choice->device, "auto"))
        return lt_fail(err, LT_ERR_USAGE,
                       "--device %s: there are auto, cpu, cuda and, for another GPU than the "
                       "first, cuda:1 and so on",
                       choice->device);
    lt_err why = {0};
    if (lt_cuda_choose(&index, &why) == LT_OK)
        return open_cuda(choice, gpu_of(choice->local_rank, index), out, err);
    LT_TRY(open_cpu(choice, why.message, out, err));
    snprintf(out->note, sizeof out->note, "no GPU: %s", why.message);
    return LT_OK;
}
