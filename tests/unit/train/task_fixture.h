/* What tests of task files share: the golden folder, loading, files that a test writes. */
#ifndef LT_TASK_FIXTURE_H
#define LT_TASK_FIXTURE_H

#include "train/evaluation/task.h"
#include "../folder.h"

#define TASKS LATHE_TEST_DIR "/golden/tasks/"

static const lt_task_settings plain UNUSED = {.num_fewshot = 0, .fewshot_seed = 1234};

static UNUSED lt_task load_with(const char *word, const lt_task_settings *settings)
{
    lt_task task;
    lt_err err = {0};
    if (lt_task_load(word, settings, &task, &err) != LT_OK) fail_msg("%s: %s", word, err.message);
    return task;
}

/* "FORMAT=FILE" of the golden folder. */
static UNUSED const char *golden_word(const char *word)
{
    static char out[512];
    const char *equals = strchr(word, '=');
    int format = equals ? (int)(equals + 1 - word) : 0;
    snprintf(out, sizeof out, "%.*s" TASKS "%s", format, word, word + format);
    return out;
}

static UNUSED lt_task load_golden(const char *word)
{
    return load_with(golden_word(word), &plain);
}

/* Writes `text` as a file of the test's folder and returns its path. */
static UNUSED const char *write_as(const char *name, const char *text, size_t size)
{
    const char *path = at(name);
    assert_int_equal(lt_write_file(path, text, size, NULL), LT_OK);
    return path;
}

static UNUSED void append(lt_buffer *out, const char *text)
{
    assert_int_equal(lt_buffer_append_text(out, text, NULL), LT_OK);
}

#endif
