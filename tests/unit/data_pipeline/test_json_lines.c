/* Files of JSON objects, and plain-text files. What they share with record files (compression,
 * arrays, damage) is tested there. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "data_pipeline/json_lines.h"

static char path[64];

static int make_path(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/lathe-json-lines-XXXXXX");
    return mkdtemp(path) && strcat(path, "/a.jsonl") ? 0 : -1;
}

static int remove_path(void **state)
{
    (void)state;
    *strrchr(path, '/') = '\0';
    return lt_remove_tree(path, NULL);
}

static void write_file(const char *text, size_t size)
{
    assert_int_equal(lt_write_file(path, text, size, NULL), LT_OK);
}

static void test_objects_and_their_lines(void **state)
{
    (void)state;
    static const char text[] = "\xEF\xBB\xBF{\"a\": 1}\n\n  {\"a\": 2}\r\n{\"a\": 3}";
    lt_json_lines *lines;
    write_file(text, sizeof text - 1);
    assert_int_equal(lt_json_lines_open(path, &lines, NULL), LT_OK);
    static const int64_t expected[] = {1, 3, 4};
    json_t *object;
    int64_t line;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(lt_json_lines_next(lines, &object, &line, NULL), LT_OK);
        assert_int_equal(json_integer_value(json_object_get(object, "a")), i + 1);
        assert_int_equal(line, expected[i]);
        json_decref(object);
    }
    assert_int_equal(lt_json_lines_bytes(lines), 8 + 9 + 8); /* with the '\r' of the second */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(lt_json_lines_next(lines, &object, &line, NULL), LT_OK);
        assert_null(object);
    }
    lt_json_lines_close(lines);
}

static void test_bad_lines(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size;
        const char *says;
    } cases[] = {
        {"{}\n[1]", 6, ":2: a record must be a JSON object"},
        {"{}\n{\"a\": }", 10, ":2: "},
        {"{}\n{\"a\": \"\xC3\"}", 13, ":2: invalid UTF-8 at byte 8"},
        {"{}\n{\"a\": \"\0\"}", 13, ":2: a NUL at byte 8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_json_lines *lines;
        lt_err err = {0};
        json_t *object;
        int64_t line;
        write_file(cases[i].text, cases[i].size);
        assert_int_equal(lt_json_lines_open(path, &lines, &err), LT_OK);
        assert_int_equal(lt_json_lines_next(lines, &object, &line, &err), LT_OK);
        json_decref(object);
        assert_int_equal(lt_json_lines_next(lines, &object, &line, &err), LT_ERR_FORMAT);
        assert_null(object);
        if (!strstr(err.message, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.message, cases[i].says);
        assert_memory_equal(err.message, path, strlen(path));
        lt_json_lines_close(lines);
    }
}

static void test_plain_text(void **state)
{
    (void)state;
    lt_buffer text = {0};
    lt_err err = {0};
    write_file("\xEF\xBB\xBFone\ntwo", 10);
    assert_int_equal(lt_read_text_file(path, &text, &err), LT_OK);
    assert_string_equal(text.data, "one\ntwo");
    write_file("one\n\0", 5);
    assert_int_equal(lt_read_text_file(path, &text, &err), LT_ERR_FORMAT);
    assert_non_null(strstr(err.message, ":2: a NUL at byte 1"));
    assert_int_equal(lt_read_text_file("/no/such/file", &text, &err), LT_ERR_IO);
    lt_buffer_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_and_their_lines),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_plain_text),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
