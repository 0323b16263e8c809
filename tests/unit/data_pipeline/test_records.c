/* Records: every format, where they are read from, and what is refused with which words. */
#include "../folder.h"

#include <zlib.h>
#include <zstd.h>

#include "data_pipeline/dedup.h"
#include "data_pipeline/records.h"

static const char *put(const char *name, const void *data, size_t size)
{
    const char *path = at(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *put_text(const char *name, const char *text)
{
    return put(name, text, strlen(text));
}

/* Reads all records and prints them one per line, then the error if there was one. */
static char *read_all(const char *path, lt_record_format format, const char *columns)
{
    static char out[8192];
    lt_record_reader *reader = NULL;
    lt_err err = {0};
    lt_status status = lt_record_reader_open(path, format, columns, &reader, &err);
    size_t used = 0;
    bool more = status == LT_OK;
    out[0] = '\0';
    while (more) {
        lt_record r;
        status = lt_record_reader_next(reader, &r, &more, &err);
        if (status != LT_OK) break;
        if (!more) break;
        used +=
            (size_t)snprintf(out + used, sizeof out - used, "%s", lt_record_format_name(r.format));
        const char *const texts[] = {r.system,   r.instruction, r.context,
                                     r.response, r.category,    r.text};
        for (size_t i = 0; i < 6; i++)
            used +=
                (size_t)snprintf(out + used, sizeof out - used, "|%s", texts[i] ? texts[i] : "-");
        for (size_t i = 0; i < r.message_count; i++)
            used += (size_t)snprintf(out + used, sizeof out - used, "|%d:%s",
                                     (int)r.messages[i].role, r.messages[i].content);
        used +=
            (size_t)snprintf(out + used, sizeof out - used, "%s\n", r.whole_file ? "|file" : "");
        lt_record_free(&r);
    }
    if (status != LT_OK) snprintf(out + used, sizeof out - used, "error: %s", err.message);
    lt_record_reader_close(reader);
    return out;
}

static void assert_reads(const char *text, const char *expected)
{
    assert_string_equal(read_all(put_text("r.jsonl", text), LT_FORMAT_AUTO, NULL), expected);
}

/* The error must hold every one of the words, NULL-terminated. */
static void assert_refuses(const char *out, const char *const words[])
{
    const char *error = strstr(out, "error: ");
    if (!error) fail_msg("accepted: %s", out);
    for (; *words; words++)
        if (!strstr(error, *words)) fail_msg("'%s' is not in: %s", *words, error);
}
#define REFUSES(out, ...) assert_refuses(out, (const char *const[]){__VA_ARGS__, NULL})

static char *read_text(const char *text)
{
    return read_all(put_text("r.jsonl", text), LT_FORMAT_AUTO, NULL);
}

static void every_format_is_recognised(void **state)
{
    (void)state;
    assert_reads("{\"instruction\":\"i\",\"context\":\"c\",\"response\":\"r\",\"category\":\"k\"}\n"
                 "\n{\"instruction\":\"i2\",\"response\":\"r2\",\"context\":null}",
                 "dolly|-|i|c|r|k|-\ndolly|-|i2||r2|-|-\n");
    assert_reads("{\"instruction\":\"i\",\"input\":\"c\",\"output\":\"r\",\"system\":\"s\"}",
                 "alpaca|s|i|c|r|-|-\n");
    assert_reads("{\"messages\":[{\"role\":\"system\",\"content\":\"\"},{\"role\":\"user\","
                 "\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}",
                 "messages|-|-|-|-|-|-|0:|1:u|2:a\n");
    assert_reads("{\"conversations\":[{\"from\":\"human\",\"value\":\"u\"},{\"from\":\"gpt\","
                 "\"value\":\"a\"},{\"from\":\"observation\",\"value\":\"o\"}],\"category\":3}",
                 "sharegpt|-|-|-|-|-|-|1:u|2:a|3:o\n");
    assert_reads("{\"instruction\":\"i\",\"input\":null,\"output\":\"r\",\"system\":\" \"}",
                 "alpaca|-|i||r|-|-\n");
    assert_reads("{\"prompt\":\"p\",\"completion\":\"c\"}", "completion|-|p||c|-|-\n");
    assert_reads("{\"text\":\"t\"}\r\n", "text|-|-|-|-|-|t\n");
}

static void files_of_every_kind_are_read(void **state)
{
    (void)state;
    const char *json = "{\"prompt\":\"a \\\"]} b\",\"completion\":\"[{\"}";
    char text[200], expected[] = "completion|-|a \"]} b||[{|-|-\ncompletion|-|a \"]} b||[{|-|-\n";
    snprintf(text, sizeof text, "\xEF\xBB\xBF %s\n\n%s\n", json, json);
    assert_reads(text, expected);
    snprintf(text, sizeof text, " [\n%s ,\n %s\n]\n ", json, json);
    assert_reads(text, expected);
    assert_reads("[]", "");
    assert_reads("", "");

    unsigned char packed[1000];
    uLongf half = sizeof packed;
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
    z.next_in = (unsigned char *)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = packed;
    z.avail_out = (uInt)half;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = z.total_out;
    deflateEnd(&z);
    assert_string_equal(read_all(put("r.json.gz", packed, size), LT_FORMAT_AUTO, NULL), expected);
    REFUSES(read_all(put("r.json.gz", packed, size - 9), LT_FORMAT_AUTO, NULL),
            "r.json.gz:", "gzip", "cut short");
    packed[size - 6] ^= 1; /* the checksum at its end */
    REFUSES(read_all(put("r.json.gz", packed, size), LT_FORMAT_AUTO, NULL), "gzip", "damaged");

    size = ZSTD_compress(packed, sizeof packed, text, strlen(text), 3);
    assert_string_equal(read_all(put("r.zst", packed, size), LT_FORMAT_AUTO, NULL), expected);
    REFUSES(read_all(put("r.zst", packed, size - 3), LT_FORMAT_AUTO, NULL), "zstd", "cut short");

    assert_string_equal(read_all(put_text("t.txt", "[plain]\ntext"), LT_FORMAT_AUTO, NULL),
                        "text|-|-|-|-|-|[plain]\ntext|file\n");
    assert_string_equal(read_all(put_text("t", "{plain"), LT_FORMAT_TEXT, NULL),
                        "text|-|-|-|-|-|{plain|file\n");
}

/* Lines longer than the reader's blocks, and an element across many. */
static void long_records_are_whole(void **state)
{
    (void)state;
    enum { LENGTH = 1000000 };
    char *text = malloc(LENGTH + 100);
    for (int array = 0; array < 2; array++) {
        int n = sprintf(text, "%s{\"prompt\":\"p\",\"completion\":\"", array ? "[" : "");
        memset(text + n, 'x', LENGTH);
        sprintf(text + n + LENGTH, "\"}%s", array ? "]" : "\n");
        lt_record_reader *reader = NULL;
        lt_record record;
        bool more;
        assert_int_equal(
            lt_record_reader_open(put_text("l", text), LT_FORMAT_AUTO, NULL, &reader, NULL), LT_OK);
        assert_int_equal(lt_record_reader_next(reader, &record, &more, NULL), LT_OK);
        assert_int_equal(strlen(record.response), LENGTH);
        assert_string_equal(lt_record_answer(&record), record.response);
        lt_record_free(&record);
        assert_int_equal(lt_record_reader_next(reader, &record, &more, NULL), LT_OK);
        assert_false(more);
        lt_record_reader_close(reader);
    }
    free(text);
}

static void columns_rename_keys(void **state)
{
    (void)state;
    const char *path =
        put_text("c.jsonl", "{\"question\":\"q\",\"answer\":\"a\",\"passage\":\"p\"}");
    assert_string_equal(
        read_all(path, LT_FORMAT_AUTO, "instruction=question,response=answer,context=passage"),
        "dolly|-|q|p|a|-|-\n");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "instruktion=question"), "--columns", "'instruktion'");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "instruction"), "--columns", "field=key");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "instruction=,"), "--columns", "field=key");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "text=question,text=answer"), "twice");
    REFUSES(read_all(path, LT_FORMAT_ALPACA, "response=answer"), "'response'", "alpaca");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "instruction=question,response=answer,input=passage"),
            "'input'", "dolly");
    REFUSES(read_all(path, LT_FORMAT_AUTO, "instruction=question,response=answer,context=passsage"),
            "c.jsonl:1", "'passsage'", "missing", "question, answer, passage");
}

static void bad_records_are_refused(void **state)
{
    (void)state;
    const char *good = "{\"instruction\":\"i\",\"response\":\"r\"}\n";
    char text[400];
    snprintf(text, sizeof text, "%s\n%s{\"instruction\":\"i\",\"response\":\n%s", good, good, good);
    REFUSES(read_text(text), "r.jsonl:4:");
    snprintf(text, sizeof text, "%s{\"instruction\":\"i\",\"output\":\"r\"}", good);
    REFUSES(read_text(text), "r.jsonl:2:", "'response'", "missing", "instruction, output", "dolly");
    snprintf(text, sizeof text, "%s{\"instruction\":\"\",\"response\":\"r\"}", good);
    REFUSES(read_text(text), "r.jsonl:2:", "'instruction'", "empty");
    snprintf(text, sizeof text, "%s{\"instruction\":\"i\",\"response\":\" \\n\"}", good);
    REFUSES(read_text(text), "r.jsonl:2:", "'response'", "empty");
    snprintf(text, sizeof text, "%s{\"instruction\":\"i\",\"response\":5}", good);
    REFUSES(read_text(text), "r.jsonl:2:", "'response'", "text");
    snprintf(text, sizeof text, "%s{\"instruction\":\"i\",\"response\":12345678901234567890123}",
             good);
    REFUSES(read_text(text), "r.jsonl:2:", "'response'", "text");
    snprintf(text, sizeof text, "%s{\"instruction\":\"\xC3(\",\"response\":\"r\"}", good);
    REFUSES(read_text(text), "r.jsonl:2:", "invalid UTF-8", "byte 17", "0xc3");
    REFUSES(read_text("{\"instruction\":\"\\u0000\",\"response\":\"r\"}"), "r.jsonl:1:");
    REFUSES(read_text("{\"instruction\":\"\\ud800\",\"response\":\"r\"}"), "r.jsonl:1:");
    REFUSES(read_text("{\"instruction\":\"i\",\"instruction\":\"j\",\"response\":\"r\"}"),
            "r.jsonl:1:");
    REFUSES(read_text("{\"frage\":\"i\",\"antwort\":\"r\"}"), "r.jsonl:1:", "frage, antwort",
            "--columns");
    REFUSES(read_text("instruction,response\n"), "r.jsonl:1:", "--format text");
    REFUSES(read_text("[1]"), "r.jsonl:1:", "object");
    REFUSES(read_text("[{\"text\":\"t\"},]"), "r.jsonl:1:");
    REFUSES(read_text("[\n{\"text\":\"t\"}\n{\"text\":\"t\"}]"), "r.jsonl:3:", "','");
    REFUSES(read_text("[\n{\"text\":\"t\"},\n{\"text\":"), "r.jsonl:3:", "ends inside");
    REFUSES(read_text("[{\"text\":\"t\"}\n"), "r.jsonl:2:", "ends");
    REFUSES(read_text("[{\"text\":\"t\"}] x"), "more text after");
    REFUSES(read_text("{\"messages\":[]}"), "at least one message");
    REFUSES(read_text("{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}"), "assistant",
            "no token would be trained");
    REFUSES(read_text("{\"messages\":[{\"role\":\"boss\",\"content\":\"u\"}]}"), "message 1",
            "role");
    REFUSES(read_text("{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}"), "message 1",
            "content");
    REFUSES(read_text("{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}]}"), "message 1",
            "empty");
    REFUSES(read_text("{\"prompt\":[],\"completion\":[]}"), "messages");
    REFUSES(read_text("{\"instruction\":\"i\",\"output\":\"r\",\"history\":[[\"a\",\"b\"]]}"),
            "history");
    REFUSES(read_all(put("t.txt", "a\nb\0c", 5), LT_FORMAT_AUTO, NULL), "t.txt:2:", "NUL");
    REFUSES(read_all(put_text("t.txt", "a\nb\xFF"), LT_FORMAT_AUTO, NULL),
            "t.txt:2:", "invalid UTF-8", "byte 2");
    const char *const not_utf8[] = {
        "\xC0\x80",         "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5",         "\x80",         "\xE6\xBC"};
    for (size_t i = 0; i < sizeof not_utf8 / sizeof *not_utf8; i++)
        REFUSES(read_all(put_text("t.txt", not_utf8[i]), LT_FORMAT_AUTO, NULL),
                "t.txt:1:", "invalid UTF-8");
    REFUSES(read_all(put_text("t.txt", "\n"), LT_FORMAT_AUTO, NULL), "t.txt", "empty");
    REFUSES(read_all("/nonexistent/x.jsonl", LT_FORMAT_AUTO, NULL), "/nonexistent/x.jsonl");
    REFUSES(read_all(folder, LT_FORMAT_AUTO, NULL), folder);
}

static void prompts_need_no_answer(void **state)
{
    (void)state;
    lt_record_reader *reader = NULL;
    lt_record record;
    bool more;
    const char *path = put_text("p.jsonl", "{\"instruction\":\"i\",\"context\":\"c\"}");
    assert_int_equal(lt_record_reader_open(path, LT_FORMAT_AUTO, NULL, &reader, NULL), LT_OK);
    lt_record_reader_allow_prompts(reader);
    assert_int_equal(lt_record_reader_next(reader, &record, &more, NULL), LT_OK);
    assert_int_equal(record.format, LT_FORMAT_DOLLY);
    assert_string_equal(record.context, "c");
    assert_string_equal(record.response, "");
    lt_record_free(&record);
    lt_record_reader_close(reader);
}

/* --- Duplicates --- */

static lt_novelty add(lt_dedup *dedup, const char *instruction, const char *context,
                      const char *response)
{
    lt_record record = {.instruction = instruction, .context = context, .response = response};
    lt_fingerprint fingerprint;
    lt_novelty novelty;
    assert_int_equal(lt_fingerprint_make(&record, &fingerprint, NULL), LT_OK);
    assert_int_equal(lt_dedup_add(dedup, &fingerprint, &novelty, NULL), LT_OK);
    lt_fingerprint_free(&fingerprint);
    return novelty;
}

static void duplicates_are_found(void **state)
{
    (void)state;
    lt_dedup *dedup = NULL;
    assert_int_equal(lt_dedup_create(&dedup, NULL), LT_OK);
    const char *answer = "It was the third day of the storm and every boat in the harbour had been "
                         "tied down twice over when the lamp on the mole went out for good";
    const char *one_word =
        "It was the third day of the storm and every boat in the harbour had been "
        "tied down twice over when the light on the mole went out for good";
    assert_int_equal(add(dedup, "What happened?", "", answer), LT_NEW);
    assert_int_equal(add(dedup, "What happened?", "", answer), LT_DUPLICATE);
    assert_int_equal(add(dedup, " WHAT\u00a0 happened?\n", "", answer), LT_DUPLICATE);
    assert_int_equal(add(dedup, "What happened?", "", one_word), LT_NEAR_DUPLICATE);
    /* about something else; about one thing, but another question */
    assert_int_equal(add(dedup, "What happened?", answer, answer), LT_NEW);
    assert_int_equal(add(dedup, "How many days?", answer, "Three."), LT_NEW);
    assert_int_equal(add(dedup, "Which lamp?", answer, "The one on the mole."), LT_NEW);
    assert_int_equal(add(dedup, "What is 2 + 2?", "", "4"), LT_NEW);
    assert_int_equal(add(dedup, "What is 2 + 3?", "", "5"), LT_NEW);
    /* composed and decomposed; where a text ends is part of it */
    assert_int_equal(add(dedup, "caf\u00e9", "", "Stra\u00dfe"), LT_NEW);
    assert_int_equal(add(dedup, "cafe\u0301", "", "STRASSE"), LT_DUPLICATE);
    assert_int_equal(add(dedup, "a b", "", "c"), LT_NEW);
    assert_int_equal(add(dedup, "a b c", "", "d"), LT_NEW);
    lt_dedup_free(dedup);
}

/* Many records: the index grows, and finds each again. */
static void the_index_grows(void **state)
{
    (void)state;
    lt_dedup *dedup = NULL;
    assert_int_equal(lt_dedup_create(&dedup, NULL), LT_OK);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < 5000; i++) {
            char question[64];
            snprintf(question, sizeof question, "%d bottles %d caps", i * 7919, i * 104729 % 1000);
            assert_int_equal(add(dedup, question, "", "yes"), pass ? LT_DUPLICATE : LT_NEW);
        }
    }
    lt_dedup_free(dedup);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_is_recognised),
        cmocka_unit_test(files_of_every_kind_are_read),
        cmocka_unit_test(long_records_are_whole),
        cmocka_unit_test(columns_rename_keys),
        cmocka_unit_test(bad_records_are_refused),
        cmocka_unit_test(prompts_need_no_answer),
        cmocka_unit_test(duplicates_are_found),
        cmocka_unit_test(the_index_grows),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
