/* Templates render as by Jinja2 itself, in the environment that transformers makes: see
 * tests/golden/make_jinja_golden.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/jinja.h"

#define FOLDER LATHE_TEST_DIR "/golden/jinja/"

static json_t *load(const char *name)
{
    char path[512];
    lt_err err = {0};
    json_t *json;
    snprintf(path, sizeof path, FOLDER "%s.json", name);
    if (lt_json_load(path, &json, &err) != LT_OK) fail_msg("%s", err.message);
    return json;
}

/* Compiles and renders; the text is the caller's. */
static lt_status render(const char *source, size_t size, const json_t *variables, double now,
                        lt_jinja_text *out, lt_err *err)
{
    lt_jinja_limits limits = {.now = now};
    lt_jinja *template_;
    *out = (lt_jinja_text){0};
    LT_TRY(lt_jinja_compile(source, size, "golden", &template_, err));
    lt_status status = lt_jinja_render(template_, variables, NULL, 0, &limits, out, err);
    lt_jinja_free(template_);
    return status;
}

static void print_difference(const char *what, const char *source, const json_t *golden,
                             lt_status status, const lt_jinja_text *text, const lt_err *err)
{
    const char *wanted = json_string_value(json_object_get(golden, "expected"));
    const char *error = json_string_value(json_object_get(golden, "error"));
    print_error("%s: %.200s\n  got    %s\n  wanted %s\n", what, source,
                status == LT_OK ? lt_buffer_text(&text->text) : err->message,
                wanted ? wanted : error);
}

/* Whether the case comes out as the golden file has it: the bytes, or an error, which names the
 * place and is no internal one; what the template raises itself is in the message. */
static bool matches(const json_t *golden, lt_status status, const lt_jinja_text *text,
                    const lt_err *err)
{
    const json_t *expected = json_object_get(golden, "expected");
    const char *error = json_string_value(json_object_get(golden, "error"));
    if (expected)
        return status == LT_OK && text->text.size == json_string_length(expected) &&
               text->origin.size == text->text.size &&
               memcmp(lt_buffer_text(&text->text), json_string_value(expected), text->text.size) ==
                   0;
    if (status != LT_ERR_FORMAT && status != LT_ERR_LIMIT) return false;
    if (strncmp(err->message, "golden, line ", 13) != 0) return false;
    const char *raised = strstr(error, "TemplateError: ") == error ? error + 15 : "";
    return strstr(err->message, raised) != NULL;
}

static size_t check(const char *what, const char *source, size_t size, const json_t *variables,
                    double now, const json_t *golden)
{
    lt_jinja_text text;
    lt_err err = {0};
    lt_status status = render(source, size, variables, now, &text, &err);
    bool good = matches(golden, status, &text, &err);
    if (!good) print_difference(what, source, golden, status, &text, &err);
    lt_jinja_text_free(&text);
    return !good;
}

static void test_constructs(void **state)
{
    (void)state;
    json_t *file = load("constructs"), *golden;
    double now = json_number_value(json_object_get(file, "now"));
    size_t i, bad = 0, count = json_array_size(json_object_get(file, "cases"));
    assert_true(count > 400);
    json_array_foreach(json_object_get(file, "cases"), i, golden)
    {
        const json_t *template_ = json_object_get(golden, "template");
        bad += check(json_string_value(json_object_get(golden, "section")),
                     json_string_value(template_), json_string_length(template_),
                     json_object_get(file, "variables"), now, golden);
    }
    json_decref(file);
    assert_int_equal(bad, 0);
}

static void test_conversations(void **state)
{
    (void)state;
    json_t *file = load("conversations"), *golden;
    double now = json_number_value(json_object_get(file, "now"));
    size_t i, bad = 0;
    json_array_foreach(json_object_get(file, "cases"), i, golden)
    {
        char path[512];
        lt_buffer source = {0};
        lt_err err = {0};
        const char *name = json_string_value(json_object_get(golden, "template"));
        json_int_t which = json_integer_value(json_object_get(golden, "conversation"));
        snprintf(path, sizeof path, FOLDER "%s.jinja", name);
        assert_int_equal(lt_read_file(path, 1 << 20, &source, &err), LT_OK);
        bad += check(name, source.data, source.size,
                     json_array_get(json_object_get(file, "conversations"), (size_t)which), now,
                     golden);
        lt_buffer_free(&source);
    }
    assert_true(i >= 120);
    json_decref(file);
    assert_int_equal(bad, 0);
}

/* --- One template in many threads --- */

typedef struct shared {
    const lt_jinja *template_;
    const json_t *variables;
    const char *expected;
    int bad;
} shared;

static void *render_often(void *context)
{
    shared *s = context;
    for (int i = 0; i < 50; i++) {
        lt_jinja_text text;
        lt_err err = {0};
        if (lt_jinja_render(s->template_, s->variables, NULL, 0, NULL, &text, &err) != LT_OK ||
            strcmp(lt_buffer_text(&text.text), s->expected) != 0)
            s->bad++;
        lt_jinja_text_free(&text);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static const char source[] = "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in range(20) %}"
                                 "{{ m(i) ~ 'é' * 3 ~ name | upper }}{% endfor %}";
    enum { THREADS = 4 };
    lt_jinja *template_;
    lt_err err = {0};
    lt_jinja_text text;
    json_t *variables = json_pack("{s:s}", "name", "ab");
    assert_int_equal(lt_jinja_compile(source, strlen(source), "t", &template_, &err), LT_OK);
    assert_int_equal(lt_jinja_render(template_, variables, NULL, 0, NULL, &text, &err), LT_OK);
    assert_int_equal(text.text.size, 20 * 11 + 10);
    shared of[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        of[i] = (shared){template_, variables, lt_buffer_text(&text.text), 0};
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, &of[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(of[i].bad, 0);
    }
    lt_jinja_text_free(&text);
    lt_jinja_free(template_);
    json_decref(variables);
}

/* Numbers that JSON files have and jansson has not. */
static void test_unusual_numbers(void **state)
{
    (void)state;
    static const char file[] = "{\"n\": NaN, \"i\": -Infinity, \"huge\": 100000000000000000000}";
    json_t *variables;
    lt_err err = {0};
    lt_jinja_text text;
    assert_int_equal(lt_json_parse(file, strlen(file), "numbers", &variables, &err), LT_OK);
    assert_int_equal(render("{{ n }} {{ i|tojson }}", 22, variables, 0, &text, &err), LT_OK);
    assert_string_equal(lt_buffer_text(&text.text), "nan -Infinity");
    lt_jinja_text_free(&text);
    assert_int_equal(render("{{ huge }}", 10, variables, 0, &text, &err), LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "'huge'"));
    json_decref(variables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constructs),
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_unusual_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
