/* Options that several commands have in the same words: rows for their tables, over the fields of
 * those names of a settings struct. What a macro takes besides is what differs. More of them:
 * train/device.h (the machine), cli/answering.h (how to answer). */
#ifndef LT_CLI_COMMON_OPTIONS_H
#define LT_CLI_COMMON_OPTIONS_H

#include "base/options.h"
#include "train/device.h"

#define LT_MODEL_OPTION(settings, heading)                                                        \
    {                                                                                             \
        .name = "model", .type = LT_OPTION_STRING, .offset = offsetof(settings, model),           \
        .required = true, .metavar = "DIR",                                                       \
        .help = "Model directory, or org/name in the local Hugging Face cache.", .group = heading \
    }

/* LT_OPTION_STRING, or LT_OPTION_LIST where more than one is an error that is told. */
#define LT_ADAPTER_OPTION(settings, kind)                                                         \
    {                                                                                             \
        .name = "adapter", .type = kind, .offset = offsetof(settings, adapter), .metavar = "DIR", \
        .help = "PEFT directory of an adapter of this model."                                     \
    }

#define LT_THREADS_OPTION(settings, heading)                                                     \
    {                                                                                            \
        .name = "threads", .type = LT_OPTION_INT, .offset = offsetof(settings, threads),         \
        .max = 4096, .default_text = "0", .help = "CPU threads; 0: all cores.", .group = heading \
    }

/* The lt_device_choice of LT_DEVICE_OPTION, LT_DTYPE_OPTION, LT_MATMUL_OPTION and the threads. */
#define LT_DEVICE_CHOICE(settings)                                                              \
    {                                                                                           \
        .device = (settings)->device, .dtype = (settings)->dtype, .matmul = (settings)->matmul, \
        .threads = (int)(settings)->threads                                                     \
    }

#define LT_TEMPLATE_CHOICES "dolly|alpaca|chatml|plain|chat"

/* For lt_file_dtype. */
#define LT_FILE_DTYPE_CHOICES "f32|bf16|f16|float32|bfloat16|float16"

#endif
