#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

static lt_err err;

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    lt_status status = lt_json_parse(text, strlen(text), "x.json", &value, &err);
    if (status != LT_OK) fail_msg("%s", err.message);
    return value;
}

/* Parses and writes in one line; caller frees. */
static char *rewritten(const char *text)
{
    json_t *value = parse(text);
    lt_buffer out = {0};
    assert_int_equal(lt_json_dump(value, 0, &out, &err), LT_OK);
    json_decref(value);
    return out.data;
}

static void assert_unchanged(const char *text)
{
    char *out = rewritten(text);
    assert_string_equal(out, text);
    free(out);
}

static void assert_refused(const char *text, size_t size, const char *line)
{
    json_t *value = NULL;
    err = (lt_err){0};
    assert_int_equal(lt_json_parse(text, size, "x.json", &value, &err), LT_ERR_FORMAT);
    assert_null(value);
    assert_int_equal(strncmp(err.message, "x.json: ", 8), 0);
    if (line && !strstr(err.message, line)) fail_msg("no \"%s\" in: %s", line, err.message);
}

#define REFUSED(text, line) assert_refused(text, sizeof(text) - 1, line)

static void bad_input_is_refused_with_its_line(void **state)
{
    (void)state;
    REFUSED("{\"a\": 1,\n\"a\": 2}", "line 2");
    REFUSED("{\n\n\"a\": \"\xff\"}", "line 3");
    REFUSED("{\"a\": \"\xed\xa0\x80\"}", "line 1"); /* half a surrogate pair */
    REFUSED("{\"a\": 1}\n}", "line 2");
    REFUSED("{\"a\": 1}\n{\"a\": 1}", "line 2");
    REFUSED("{\"a\":\n1e400}", "line 2");
    REFUSED("{\"a\\u0000b\":\n1}", "line 1");
    REFUSED("{\"a\": \"x\ny\"}", "line 1");
    REFUSED("{\"a\": 1,}", "line 1");
    REFUSED("[1\n2]", "line 2");
    REFUSED("{'a': 1}", "line 1");
    REFUSED("// no comments\n1", "line 1");
    REFUSED("[1, 2", "line 1");
    REFUSED("\"abc", "line 1");
    REFUSED("", "line 1");
    REFUSED("[01]", "line 1");
    REFUSED("[\0]", "line 1");

    const size_t depth = 1000000;
    char *deep = malloc(depth);
    assert_non_null(deep);
    memset(deep, '[', depth);
    assert_refused(deep, depth, "line 1");
    free(deep);
}

static void literals_come_back_unchanged(void **state)
{
    (void)state;
    assert_unchanged("{\"model_max_length\": 1000000000000000019884624838656}");
    assert_unchanged("{\"a\": [-1000000000000000019884624838656, 9223372036854775808, "
                     "9223372036854775807, -9223372036854775808, -9223372036854775809]}");
    assert_unchanged("[NaN, Infinity, -Infinity, [Infinity], {\"NaN\": NaN}]");
    assert_unchanged("NaN");
    assert_unchanged("{\"Infinity\": \"NaN\", \"a\": \"[Infinity, 99999999999999999999]\"}");
    char *out = rewritten("[ NaN\n,Infinity\t]");
    assert_string_equal(out, "[NaN, Infinity]");
    free(out);

    /* Only where a value may stand, and only as whole words. */
    REFUSED("{NaN: 1}", NULL);
    REFUSED("{99999999999999999999 : 1}", NULL);
    REFUSED("[NaNa]", NULL);
    REFUSED("[xNaN]", NULL);
    REFUSED("[+Infinity]", NULL);
    REFUSED("[--Infinity]", NULL);
    REFUSED("[nan]", NULL);
    REFUSED("[099999999999999999999]", NULL);
    REFUSED("[99999999999999999999.5.5]", NULL);
    REFUSED("[\"a\" NaN]", NULL);
    REFUSED("[NaN\n\"b\"]", "line 2");
    out = rewritten("[99999999999999999999.5, 1e20]"); /* reals are reals, however long */
    assert_string_equal(out, "[1e+20, 1e+20]");
    free(out);
}

static void ordinary_strings_are_unaffected(void **state)
{
    (void)state;
    assert_unchanged("[\"a\\\\\", \"\\\"NaN\\\"\", \"\\\\\\\"\", \"Infinity\", \"literal:NaN\"]");
    assert_unchanged("\"\xEF\xA3\xBF apple, \xEF\xA3\xBFliteral\"");
    assert_unchanged("{\"\xC3\xA9\": \"\xF0\x9F\x98\x80\", \"c\": \"\\b\\f\\n\\r\\t\\u0001/\"}");
    assert_unchanged("{\"b\": {}, \"a\": [], \"c\": [null, true, false, -0.0, 0]}");

    /* The marker itself can not be smuggled in, however it is spelled. */
    REFUSED("[\"\xEF\xA3\xBFliteral:NaN\"]", "reserved");
    REFUSED("[\"\\uF8FFliteral:1, 2\"]", "reserved");
    REFUSED("{\"\\uf8ff\\u006citeral\\u003A\": 1}", "reserved");
    json_t *value = json_string(LT_JSON_LITERAL_PREFIX "1, 2");
    lt_buffer out = {0};
    assert_int_equal(lt_json_dump(value, 0, &out, &err), LT_OK);
    assert_string_equal(out.data, "\"" LT_JSON_LITERAL_PREFIX "1, 2\"");
    lt_buffer_free(&out);
    json_decref(value);
}

static void numbers_round_trip(void **state)
{
    (void)state;
    assert_unchanged(
        "[0.1, 1e-05, 3.0, 0.3, 1e+300, 4.94065645841247e-324, 1.7976931348623157e+308, "
        "0.1234567890123456, 2.2250738585072014e-308]");
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 100000; i++) {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        double number, again;
        memcpy(&number, &bits, sizeof number);
        if (!isfinite(number)) continue;
        json_t *value = json_real(number);
        lt_buffer out = {0};
        assert_int_equal(lt_json_dump(value, 0, &out, &err), LT_OK);
        json_decref(value);
        value = parse(out.data);
        assert_true(json_is_real(value));
        again = json_real_value(value);
        assert_memory_equal(&number, &again, sizeof number);
        json_decref(value);
        lt_buffer_free(&out);
    }
}

static void indented_output(void **state)
{
    (void)state;
    json_t *value = parse("{\"b\":[1,{}],\"a\":{\"c\":null}}");
    lt_buffer out = {0};
    assert_int_equal(lt_json_dump(value, 2, &out, &err), LT_OK);
    assert_string_equal(out.data, "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": {\n"
                                  "    \"c\": null\n  }\n}\n");
    lt_buffer_free(&out);
    json_decref(value);
}

static void look_up_is_typed(void **state)
{
    (void)state;
    json_t *object = parse("{\"i\": 5, \"r\": 2.5, \"t\": true, \"s\": \"x\", \"n\": null, "
                           "\"big\": 99999999999999999999, \"inf\": Infinity, \"a\": []}");
    int64_t i = 42;
    double r = 42;
    bool b = true;
    const char *s = "default";
    assert_int_equal(lt_json_get_int(object, "i", 0, 5, "c", &i, &err), LT_OK);
    assert_int_equal(i, 5);
    assert_int_equal(lt_json_get_int(object, "missing", 0, 5, "c", &i, &err), LT_OK);
    assert_int_equal(lt_json_get_int(object, "n", 0, 5, "c", &i, &err), LT_OK);
    assert_int_equal(lt_json_get_int(object, "i", 6, 9, "c", &i, &err), LT_ERR_FORMAT);
    assert_string_equal(err.message, "c: \"i\" is 5, but must be from 6 to 9");
    assert_int_equal(lt_json_get_int(object, "r", 0, 9, "c", &i, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_json_get_int(object, "t", 0, 9, "c", &i, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_json_get_int(object, "big", 0, INT64_MAX, "c", &i, &err), LT_ERR_FORMAT);
    assert_string_equal(err.message,
                        "c: \"big\" must be an integer, but is an integer beyond 64 bits");
    assert_int_equal(i, 5);

    assert_int_equal(lt_json_get_number(object, "r", "c", &r, &err), LT_OK);
    assert_true(r == 2.5);
    assert_int_equal(lt_json_get_number(object, "big", "c", &r, &err), LT_OK);
    assert_true(r == 1e20);
    assert_int_equal(lt_json_get_number(object, "i", "c", &r, &err), LT_OK);
    assert_int_equal(lt_json_get_number(object, "inf", "c", &r, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_json_get_number(object, "s", "c", &r, &err), LT_ERR_FORMAT);
    assert_true(r == 5);

    assert_int_equal(lt_json_get_bool(object, "n", "c", &b, &err), LT_OK);
    assert_int_equal(lt_json_get_bool(object, "i", "c", &b, &err), LT_ERR_FORMAT);
    assert_true(b);
    assert_int_equal(lt_json_get_string(object, "big", "c", &s, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_json_get_string(object, "a", "c", &s, &err), LT_ERR_FORMAT);
    assert_string_equal(s, "default");
    assert_int_equal(lt_json_get_string(object, "s", "c", &s, &err), LT_OK);
    assert_string_equal(s, "x");
    json_decref(object);

    json_t *array = parse("[]");
    assert_int_equal(lt_json_get_int(array, "i", 0, 9, "c", &i, &err), LT_ERR_FORMAT);
    json_decref(array);
}

static void files_load_and_save(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe-json-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    json_t *value = parse("{\"model_max_length\": 1000000000000000019884624838656, \"x\": NaN}");
    assert_int_equal(lt_json_write_file(path, value, &err), LT_OK);
    json_t *again = NULL;
    assert_int_equal(lt_json_load(path, &again, &err), LT_OK);
    assert_true(json_equal(value, again));
    json_decref(value);
    json_decref(again);
    unlink(path);
    assert_int_equal(lt_json_load(path, &again, &err), LT_ERR_IO);
    assert_null(again);
}

/* About the size and make of a large tokenizer.json. The bound is loose; the time is for the
 * reader. */
static void large_files_are_quick(void **state)
{
    (void)state;
    lt_buffer text = {0};
    for (int i = 0; i < 256000; i++)
        assert_int_equal(lt_buffer_printf(&text, &err, "%s\"\\u0120token\\\\\\\"number%d\": %d",
                                          i ? ",\n" : "{", i, i),
                         LT_OK);
    for (int with_literal = 0; with_literal < 2; with_literal++) {
        assert_int_equal(lt_buffer_append_text(&text, with_literal ? ", \"nan\": NaN}" : "}", &err),
                         LT_OK);
        json_t *value = NULL;
        clock_t start = clock();
        assert_int_equal(lt_json_parse(text.data, text.size, "big", &value, &err), LT_OK);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        print_message("%.1f MB parsed in %.2f s\n", (double)text.size / 1e6, seconds);
        assert_int_equal(json_object_size(value), 256000 + with_literal);
        assert_true(seconds < 20);
        json_decref(value);
        text.size--; /* the brace */
    }
    lt_buffer_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_input_is_refused_with_its_line),
        cmocka_unit_test(literals_come_back_unchanged),
        cmocka_unit_test(ordinary_strings_are_unaffected),
        cmocka_unit_test(numbers_round_trip),
        cmocka_unit_test(indented_output),
        cmocka_unit_test(look_up_is_typed),
        cmocka_unit_test(files_load_and_save),
        cmocka_unit_test(large_files_are_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
