/* The models of tests/golden/evaluation, opened for answering. */
#ifndef LT_TEST_EVALUATION_FIXTURE_H
#define LT_TEST_EVALUATION_FIXTURE_H

#include <math.h>

#include "base/json.h"
#include "train/assistant.h"
#include "../check.h"

static const char *const model_names[] UNUSED = {"gpt2_words", "llama_words"};
enum { GPT2_WORDS, LLAMA_WORDS, MODEL_COUNT };

typedef struct golden_model {
    lt_backend *backend;
    lt_assistant assistant;
    json_t *expected;
} golden_model;

static UNUSED const char *golden_path(const char *name, const char *file)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/golden/evaluation/%s%s%s", LATHE_TEST_DIR, name,
             file ? "/" : "", file ? file : "");
    return path;
}

static UNUSED golden_model open_golden(int which)
{
    golden_model m = {0};
    const char *name = model_names[which];
    OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &m.backend, err));
    OK(lt_assistant_open(golden_path(name, NULL), NULL, 0, m.backend, &m.assistant, err));
    OK(lt_json_load(golden_path(name, "expected.json"), &m.expected, err));
    return m;
}

static UNUSED void close_golden(golden_model *m)
{
    json_decref(m->expected);
    lt_assistant_close(&m->assistant);
    lt_backend_free(m->backend);
}

static UNUSED const char *text_at(const json_t *row, size_t index)
{
    return json_string_value(json_array_get(row, index));
}

static UNUSED double number_at(const json_t *row, size_t index)
{
    return json_number_value(json_array_get(row, index));
}

#endif
