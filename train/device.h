/* From what a user says about the machine to a backend: --device, --dtype, --matmul, --threads. */
#ifndef LT_TRAIN_DEVICE_H
#define LT_TRAIN_DEVICE_H

#include "base/options.h"
#include "kernels/kernels.h"

/* NULL means "auto" everywhere. */
typedef struct lt_device_choice {
    const char *device; /* "auto", "cpu", "cuda", "cuda:N" */
    const char *dtype;  /* of weights and activations: "auto", "float32", "bfloat16" */
    const char *matmul; /* of a GPU: "auto", "native", "cublas" */
    int threads;        /* of the CPU; 0: OMP_NUM_THREADS or all cores */
    int local_rank;     /* of several processes on this machine: which GPU "auto" and "cuda" mean,
                           counted from the one that they mean alone */
    bool plan_only;     /* a GPU that can not be used is planned for as if it could */
} lt_device_choice;

typedef struct lt_device_opened {
    lt_backend *backend; /* owned by whoever called */
    bool planned;        /* there is no such device: the backend only plans */
    char note[1100];     /* why it is this device, for the log: one line, or "" */
} lt_device_opened;

/* auto: the first GPU that this build can use, else the CPU; bfloat16 on a GPU, float32 on the CPU.
 * LT_ERR_USAGE for what does not go together, LT_ERR_UNSUPPORTED for a GPU that can not be used. */
lt_status lt_device_open(const lt_device_choice *choice, lt_device_opened *out, lt_err *err);

/* Rows for option tables, over the char * fields `device`, `dtype` and `matmul` of a settings
 * struct. */
#define LT_DEVICE_OPTION(settings, standard)                                                     \
    {                                                                                            \
        .name = "device", .type = LT_OPTION_STRING, .offset = offsetof(settings, device),        \
        .default_text = standard, .metavar = "auto|cpu|cuda|cuda:N",                             \
        .help = "Where to compute: auto takes a GPU when this build and this machine have one, " \
                "cuda:1 the second GPU. lathe devices lists them."                               \
    }
#define LT_DTYPE_OPTION(settings)                                                                \
    {                                                                                            \
        .name = "dtype", .type = LT_OPTION_CHOICE, .offset = offsetof(settings, dtype),          \
        .default_text = "auto", .choices = "auto|float32|bfloat16",                              \
        .help = "Number type of weights and activations: auto is bfloat16 on a GPU and float32 " \
                "on the CPU, which has no other."                                                \
    }
#define LT_MATMUL_OPTION(settings)                                                              \
    {                                                                                           \
        .name = "matmul", .type = LT_OPTION_CHOICE, .offset = offsetof(settings, matmul),       \
        .default_text = "auto", .choices = "auto|native|cublas",                                \
        .help = "GPU: whose matrix products: Lathe's own, NVIDIA's, or by shape whichever was " \
                "measured to be faster."                                                        \
    }

#endif
