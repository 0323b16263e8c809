/* libFuzzer: task files, compressed or not. The first byte chooses the format (0: by the keys), the
 * second one the number of examples. What loads has to be whole, and the same when read again. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "train/evaluation/task_format.h"

static void check_doc(const lt_task *task, const lt_task_doc *doc)
{
    size_t pairs = task->output == LT_TASK_MULTIPLE_CHOICE ? doc->choice_count : 1;
    if (task->output == LT_TASK_GENERATE) {
        if (!doc->prompt == !doc->messages) abort();
        return;
    }
    for (size_t i = 0; i < pairs; i++)
        if (!doc->pairs[i].context || !doc->pairs[i].continuation) abort();
    for (size_t i = 0; i < doc->gold_count; i++)
        if (doc->gold[i] < 0 || (size_t)doc->gold[i] >= doc->choice_count) abort();
}

static void check_task(const lt_task *task)
{
    if (task->doc_count < 1 || task->metric_count < 1 || strlen(task->hash) != 32) abort();
    for (int64_t i = 0; i < task->doc_count; i++)
        check_doc(task, &task->docs[i]);
    lt_buffer yaml = {0};
    lt_status status = lt_task_to_lm_eval(task, &yaml, NULL);
    if (status != LT_OK && status != LT_ERR_UNSUPPORTED) abort();
    lt_buffer_free(&yaml);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    char path[64];
    int fd = memfd_create("tasks", 0), which = data[0] % (lt_task_format_count + 1);
    if (fd < 0 || write(fd, data + 2, size - 2) != (ssize_t)size - 2) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lt_task_settings settings = {.format = which ? lt_task_formats[which - 1].name : NULL,
                                 .num_fewshot = data[1] % 4,
                                 .fewshot_first = data[1] & 4,
                                 .fewshot_seed = 1234};
    lt_task task, again;
    lt_err err = {0};
    if (lt_task_load(path, &settings, &task, &err) == LT_OK) {
        check_task(&task);
        if (lt_task_load(path, &settings, &again, &err) != LT_OK) abort();
        if (strcmp(task.hash, again.hash) != 0) abort();
        lt_task_free(&again);
        lt_task_free(&task);
    } else if (!err.message[0]) {
        abort();
    }
    if (lt_task_from_text(path, &task, &err) == LT_OK) {
        check_task(&task);
        lt_task_free(&task);
    }
    close(fd);
    return 0;
}
