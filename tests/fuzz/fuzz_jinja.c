/* libFuzzer target: any bytes as a chat template. Whatever comes out, there is an origin for each
 * byte, and rendering again gives the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/jinja.h"

static const char variables_text[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be <brief>.\"},"
    "{\"role\": \"user\", \"content\": \"  Gr\u00fc\u00dfe, \u4e16\u754c \U0001F600 \\n\"},"
    "{\"role\": \"assistant\", \"content\": \"a,b  c\", \"tool_calls\": [{\"function\": {\"name\":"
    "\"f\", \"arguments\": {\"x\": 1, \"y\": null, \"z\": [1.5, true]}}}]}],"
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}],"
    "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"n\": -3}";

static int source_of(void *context, size_t element)
{
    (void)context;
    return (int)element;
}

static lt_status render(const lt_jinja *template_, const json_t *variables, lt_jinja_text *out)
{
    const lt_jinja_limits limits = {.steps = 20000, .depth = 16, .output = 1 << 16, .now = 1e9};
    const lt_jinja_mark mark = {.variable = "messages", .source = source_of};
    lt_err err = {0};
    lt_status status = lt_jinja_render(template_, variables, &mark, 1, &limits, out, &err);
    if (status != LT_OK && (err.code != status || !err.message[0])) abort();
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *variables;
    lt_jinja *template_;
    lt_jinja_text text, again;
    lt_err err = {0};
    if (!variables) variables = json_loads(variables_text, 0, NULL);
    if (!variables) abort();
    lt_status status = lt_jinja_compile((const char *)data, size, "fuzz", &template_, &err);
    if (status != LT_OK) {
        if (err.code != status || !err.message[0] || template_) abort();
        return 0;
    }
    status = render(template_, variables, &text);
    if (status == LT_OK) {
        if (text.text.size != text.origin.size || text.text.size > 1 << 16) abort();
        if (render(template_, variables, &again) != LT_OK) abort();
        if (again.text.size != text.text.size ||
            (text.text.size && (memcmp(again.text.data, text.text.data, text.text.size) != 0 ||
                                memcmp(again.origin.data, text.origin.data, text.text.size) != 0)))
            abort();
        lt_jinja_text_free(&again);
    }
    lt_jinja_text_free(&text);
    lt_jinja_free(template_);
    return 0;
}
