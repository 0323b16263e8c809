/* Hostile templates end soon and with a message; what is not supported is named; limits hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../hostile/jinja_corpus.h"
#include "data_pipeline/jinja.h"

static lt_status run(const char *source, size_t size, const json_t *variables,
                     const lt_jinja_limits *limits, lt_buffer *out, lt_err *err)
{
    lt_jinja *template_;
    lt_jinja_text text = {0};
    LT_TRY(lt_jinja_compile(source, size, "t.jinja", &template_, err));
    lt_status status = lt_jinja_render(template_, variables, NULL, 0, limits, &text, err);
    lt_jinja_free(template_);
    if (out && status == LT_OK) {
        *out = text.text;
        text.text = (lt_buffer){0};
    }
    lt_jinja_text_free(&text);
    return status;
}

static void append(lt_buffer *out, const char *text, size_t size)
{
    lt_err err = {0};
    if (lt_buffer_append(out, text, size, &err) != LT_OK) fail_msg("%s", err.message);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void test_hostile(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile_templates / sizeof *hostile_templates; i++) {
        const hostile_template *hostile = &hostile_templates[i];
        lt_buffer source = {0};
        lt_err err = {0};
        append(&source, hostile->source, hostile->size ? hostile->size : strlen(hostile->source));
        for (size_t k = 0; k < hostile->repeat; k++)
            append(&source, hostile->unit, strlen(hostile->unit));
        if (hostile->tail) append(&source, hostile->tail, strlen(hostile->tail));
        double start = seconds();
        lt_status status = run(source.data, source.size, NULL, NULL, NULL, &err);
        double took = seconds() - start;
        lt_buffer_free(&source);
        if (status != hostile->expected ||
            (hostile->message && !strstr(err.message, hostile->message)))
            fail_msg("%s: got %d, %s", hostile->name, status, err.message);
        if (took > 5) fail_msg("%s took %g s", hostile->name, took);
        if (status != LT_OK) assert_int_equal(strncmp(err.message, "t.jinja", 7), 0);
    }
}

/* What a message has to say of each. */
static void test_unsupported(void **state)
{
    (void)state;
    static const struct {
        const char *source, *named;
    } cases[] = {
        {"\n{% block a %}{% endblock %}", "t.jinja, line 2: {% block %} is not supported"},
        {"{% extends 'a' %}", "{% extends %}"},
        {"{% from 'a' import b %}", "{% from %}"},
        {"{% autoescape true %}{% endautoescape %}", "{% autoescape %}"},
        {"\n\n{{ [1] | groupby('a') }}", "t.jinja, line 3: the filter 'groupby' is not supported"},
        {"{% if 0 %}{{ [1] | batch(2) }}{% endif %}", "'batch'"},
        {"{{ [1] | slice(2) }}", "'slice'"},
        {"{{ [1] | random }}", "'random'"},
        {"{{ 'a' | truncate(3) }}", "'truncate'"},
        {"{{ 'a' | wordwrap }}", "'wordwrap'"},
        {"{{ 'a' | urlencode }}", "'urlencode'"},
        {"{{ 'a' | striptags }}", "'striptags'"},
        {"{{ 'a' | pprint }}", "'pprint'"},
        {"{{ {} | xmlattr }}", "'xmlattr'"},
        {"{{ 5 | filesizeformat }}", "'filesizeformat'"},
        {"{{ '%s' | format(1) }}", "'format'"},
        {"{{ [1] | map('batch', 2) | list }}", "'batch'"},
        {"{{ '%d' % 5 }}", "formatting with %"},
        {"{{ '{:>5}'.format(5) }}", "format()"},
        {"{{ 'a'.encode() }}", "str.encode"},
        {"{{ 'a'.translate({}) }}", "str.translate"},
        {"{{ cycler('a') }}", "'cycler'"},
        {"{{ joiner() }}", "'joiner'"},
        {"{{ lipsum() }}", "'lipsum'"},
        {"{{ range }}", "printing a function"},
        {"{{ 'a'.upper }}", "printing a method"},
        {"{{ [1] | map('upper') }}", "printing a generator"},
        {"{{ (5).real }}", "'real'"},
        {"{{ (-8) ** 0.5 }}", "complex"},
        {"{{ 1234 | round(-2) }}", "rounding"},
        {"{{ ('a' | e).replace('a', '<') }}", "escaped text"},
        {"{{ '\\N{BULLET}' }}", "characters by name"},
        {"{{ [1][0:1, 2] }}", "subscripts"},
        {"{% for x in [1] %}{{ loop | list }}{% endfor %}", "'loop'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_err err = {0};
        lt_status status = run(cases[i].source, strlen(cases[i].source), NULL, NULL, NULL, &err);
        if (status != LT_ERR_UNSUPPORTED || !strstr(err.message, cases[i].named))
            fail_msg("%s: %d, %s", cases[i].source, status, err.message);
    }
}

static void test_own_limits(void **state)
{
    (void)state;
    static const char loop[] = "{% for i in range(100) %}{{ i }}{% endfor %}";
    static const char deep[] = "{% macro f(n) %}{{ f(n - 1) if n else 'end' }}{% endmacro %}"
                               "{{ f(3) }}";
    lt_err err = {0};
    lt_buffer text = {0};
    assert_int_equal(run(loop, strlen(loop), NULL, NULL, &text, &err), LT_OK);
    assert_int_equal(text.size, 190);
    lt_buffer_free(&text);
    assert_int_equal(run(loop, strlen(loop), NULL, &(lt_jinja_limits){.steps = 1000}, &text, &err),
                     LT_OK);
    lt_buffer_free(&text);
    assert_int_equal(run(loop, strlen(loop), NULL, &(lt_jinja_limits){.steps = 200}, NULL, &err),
                     LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "200 steps"));
    assert_int_equal(run(loop, strlen(loop), NULL, &(lt_jinja_limits){.output = 190}, &text, &err),
                     LT_OK);
    lt_buffer_free(&text);
    assert_int_equal(run(loop, strlen(loop), NULL, &(lt_jinja_limits){.output = 189}, NULL, &err),
                     LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "189 bytes"));
    assert_int_equal(run(deep, strlen(deep), NULL, &(lt_jinja_limits){.depth = 4}, &text, &err),
                     LT_OK);
    assert_string_equal(lt_buffer_text(&text), "end");
    lt_buffer_free(&text);
    assert_int_equal(run(deep, strlen(deep), NULL, &(lt_jinja_limits){.depth = 3}, NULL, &err),
                     LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "deeper than 3"));
}

/* Variables that are as deep as JSON gets. */
static void test_deep_variable(void **state)
{
    (void)state;
    json_t *value = json_array(), *variables;
    lt_err err = {0};
    for (int i = 0; i < 2000; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, value);
        value = outer;
    }
    variables = json_pack("{s:o}", "v", value);
    assert_int_equal(run("{{ v }}", 7, variables, NULL, NULL, &err), LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "nested deeper"));
    assert_int_equal(run("{{ w }}", 7, variables, NULL, NULL, &err), LT_OK);
    json_decref(variables);
}

static void test_bad_variable(void **state)
{
    (void)state;
    json_t *variables = json_object();
    lt_err err = {0};
    json_object_set_new(variables, "v", json_string_nocheck("a\xff"));
    assert_int_equal(run("{{ v }}", 7, variables, NULL, NULL, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "'v' holds text that is not UTF-8"));
    json_decref(variables);
}

/* A long conversation takes a time in proportion to it. */
static void test_long_conversation(void **state)
{
    (void)state;
    static const char source[] =
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + '<|end|>\n' }}"
        "{% endfor %}";
    enum { MESSAGES = 1000, SIZE = 2000 };
    char content[SIZE + 1];
    json_t *messages = json_array();
    lt_buffer text;
    lt_err err = {0};
    memset(content, 'a', SIZE);
    content[SIZE] = '\0';
    for (int i = 0; i < MESSAGES; i++)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", "user", "content", content));
    json_t *variables = json_pack("{s:o}", "messages", messages);
    double start = seconds();
    assert_int_equal(run(source, strlen(source), variables, NULL, &text, &err), LT_OK);
    assert_true(seconds() - start < 2);
    assert_int_equal(text.size, MESSAGES * (SIZE + 16));
    lt_buffer_free(&text);
    json_decref(variables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),      cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_own_limits),   cmocka_unit_test(test_deep_variable),
        cmocka_unit_test(test_bad_variable), cmocka_unit_test(test_long_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
