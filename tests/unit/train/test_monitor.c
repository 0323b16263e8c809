/* The file observers: log.jsonl, TensorBoard events, report.html. */
#include "../folder.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "train/monitor/append_file.h"
#include "train/monitor/report_page.h"
#include "train/monitor/tensorboard_format.h"
#include "train/train.h"

/* --- Helpers ---------------------------------------------------------------------------------- */

static lt_buffer read_text(const char *name)
{
    lt_buffer text = {0};
    lt_err err = {0};
    if (lt_read_file(at(name), 1 << 24, &text, &err) != LT_OK) fail_msg("%s", err.message);
    return text;
}

static size_t count_text(const lt_buffer *buffer, const char *what)
{
    size_t count = 0;
    for (const char *at = lt_buffer_text(buffer); (at = strstr(at, what)); at++)
        count++;
    return count;
}

static lt_train_observer open_log(bool resumed, int64_t first_step)
{
    lt_train_observer observer;
    lt_err err = {0};
    if (lt_log_jsonl_open(folder, resumed, first_step, &observer, &err) != LT_OK)
        fail_msg("%s", err.message);
    return observer;
}

static void tell_start(const lt_train_observer *observer, int64_t first_step)
{
    json_t *settings = json_pack("{s:f, s:s}", "learning_rate", 5e-4, "method", "full");
    lt_run_info info = {.settings = settings,
                        .setup = "model  tiny\nmemory 1 MiB\n",
                        .model = "models/base",
                        .output = "runs/out",
                        .total_steps = 10,
                        .first_step = first_step};
    observer->start(observer->context, &info);
    json_decref(settings);
}

static void tell_step(const lt_train_observer *observer, int64_t step, double loss)
{
    lt_step_info info = {.step = step,
                         .total_steps = 10,
                         .epoch = 0.25 * (double)step,
                         .loss = loss,
                         .accuracy = 0.5,
                         .gradient_norm = 1.5,
                         .learning_rate = 3e-4,
                         .trained_tokens = 60,
                         .input_tokens = 100,
                         .total_input_tokens = 100 * step,
                         .seconds = 0.5,
                         .elapsed_seconds = 0.5 * (double)step,
                         .flops = 1e9,
                         .taken = isfinite(loss),
                         .logging = isfinite(loss)};
    observer->step(observer->context, &info);
}

static void tell_eval(const lt_train_observer *observer, int64_t step, double loss)
{
    lt_eval_info info = {
        .step = step, .loss = loss, .perplexity = exp(loss), .accuracy = 0.25, .tokens = 7};
    observer->evaluation(observer->context, &info);
}

/* The n-th line of log.jsonl, parsed. */
static json_t *log_line(int number)
{
    lt_buffer text = read_text("log.jsonl");
    const char *at = lt_buffer_text(&text);
    for (int i = 0; i < number; i++) {
        at = strchr(at, '\n');
        assert_non_null(at);
        at++;
    }
    json_error_t error;
    json_t *line = json_loadb(at, strcspn(at, "\n"), 0, &error);
    if (!line) fail_msg("line %d: %s: %s", number, error.text, at);
    lt_buffer_free(&text);
    return line;
}

/* --- log.jsonl -------------------------------------------------------------------------------- */

static void log_holds_every_field(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0);
    tell_start(&log, 0);
    tell_step(&log, 1, 2.5);
    lt_log_jsonl_close(&log);

    json_t *start = log_line(0);
    assert_string_equal(lt_logged_text(start, "event"), "start");
    json_t *settings = json_object_get(start, "settings");
    assert_true(lt_logged_number(settings, "learning_rate") == 5e-4);
    json_decref(start);

    json_t *step = log_line(1);
    assert_string_equal(lt_logged_text(step, "event"), "step");
    assert_true(lt_logged_number(step, "step") == 1);
    assert_true(lt_logged_number(step, "loss") == 2.5);
    assert_true(lt_logged_number(step, "grad_norm") == 1.5);
    assert_true(lt_logged_number(step, "learning_rate") == 3e-4);
    assert_true(lt_logged_number(step, "epoch") == 0.25);
    assert_true(lt_logged_number(step, "tokens_per_second") == 200);
    assert_true(lt_logged_number(step, "elapsed_time") == 0.5);
    assert_true(lt_logged_number(step, "remaining_time") == 4.5);
    json_decref(step);
}

static void log_keeps_quiet_steps_out_and_skipped_ones_in(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0);
    lt_step_info quiet = {.step = 1, .total_steps = 10, .loss = 1, .taken = true};
    log.step(log.context, &quiet);
    tell_step(&log, 2, NAN);
    tell_step(&log, 3, INFINITY);
    lt_log_jsonl_close(&log);

    json_t *first = log_line(0), *second = log_line(1);
    assert_true(lt_logged_number(first, "step") == 2);
    assert_string_equal(lt_logged_text(first, "loss"), "NaN");
    assert_true(json_is_false(json_object_get(first, "taken")));
    assert_string_equal(lt_logged_text(second, "loss"), "Infinity");
    json_decref(first);
    json_decref(second);
}

static void log_stays_json_whatever_the_text(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0);
    log.message(log.context, "a \"quote\"\nand \xFF\xC3 bytes, \xC3\xA9");
    lt_sample_info sample = {.step = 0, .prompt = "p", .reference = "r\x01", .answer = "\xE2\x82"};
    log.sample(log.context, &sample);
    lt_log_jsonl_close(&log);

    json_t *message = log_line(0), *logged = log_line(1);
    assert_string_equal(lt_logged_text(message, "text"),
                        "a \"quote\"\nand \xEF\xBF\xBD\xEF\xBF\xBD bytes, \xC3\xA9");
    assert_string_equal(lt_logged_text(logged, "reference"), "r\x01");
    assert_true(json_is_null(json_object_get(logged, "category")));
    json_decref(message);
    json_decref(logged);
}

static void resumed_log_has_no_doubles(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0);
    tell_start(&log, 0);
    for (int i = 1; i <= 6; i++)
        tell_step(&log, i, i);
    tell_eval(&log, 4, 2.0);
    lt_log_jsonl_close(&log);
    FILE *torn = fopen(at("log.jsonl"), "ab");
    fputs("{\"event\":\"step\",\"st", torn); /* killed while writing */
    fclose(torn);

    log = open_log(true, 4);
    tell_start(&log, 4);
    tell_step(&log, 5, 50);
    lt_log_jsonl_close(&log);

    lt_buffer text = read_text("log.jsonl");
    assert_int_equal(count_text(&text, "\"event\":\"step\""), 5);
    assert_int_equal(count_text(&text, "\"step\":5,"), 1);
    assert_int_equal(count_text(&text, "\"step\":6,"), 0);
    assert_int_equal(count_text(&text, "\"event\":\"eval\""), 1);
    assert_int_equal(count_text(&text, "unreadable"), 1);
    assert_int_equal(count_text(&text, "\"event\":\"start\""), 2);
    lt_buffer_free(&text);
}

static void resuming_twice_from_one_checkpoint_undoes_the_first_try(void **state)
{
    (void)state;
    for (int attempt = 0; attempt < 3; attempt++) {
        lt_train_observer log = open_log(attempt > 0, attempt ? 4 : 0);
        tell_start(&log, attempt ? 4 : 0);
        log.message(log.context, attempt ? "notice again" : "notice");
        for (int i = attempt ? 5 : 1; i <= 5; i++)
            tell_step(&log, i, i);
        lt_log_jsonl_close(&log);
    }
    lt_buffer text = read_text("log.jsonl");
    assert_int_equal(count_text(&text, "\"event\":\"start\""), 2);
    assert_int_equal(count_text(&text, "notice again"), 1);
    assert_int_equal(count_text(&text, "\"event\":\"step\""), 5);
    lt_buffer_free(&text);
}

static void a_new_run_begins_a_new_log(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0);
    tell_step(&log, 1, 1);
    lt_log_jsonl_close(&log);
    log = open_log(false, 0);
    tell_step(&log, 1, 1);
    lt_log_jsonl_close(&log);
    lt_buffer text = read_text("log.jsonl");
    assert_int_equal(count_text(&text, "\n"), 1);
    lt_buffer_free(&text);
}

static void log_that_can_not_be_opened_says_why(void **state)
{
    (void)state;
    lt_train_observer log;
    lt_err err = {0};
    assert_int_equal(lt_log_jsonl_open("/nonexistent/place", false, 0, &log, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, "/nonexistent/place"));
    lt_log_jsonl_close(&log); /* harmless */
}

/* --- Files that grow -------------------------------------------------------------------------- */

/* A limit on the file's size stands in for a full disk: a write is cut short just the same. */
static void records_wait_while_the_disk_is_full(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    lt_append_file file;
    assert_int_equal(lt_append_file_open(&file, at("grow"), true, NULL), LT_OK);
    struct rlimit small = {.rlim_cur = 20, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    lt_append_file_write(&file, "first record\n", 13);
    lt_append_file_write(&file, "second record\n", 14);
    setrlimit(RLIMIT_FSIZE, &before);

    lt_buffer text = read_text("grow");
    assert_string_equal(lt_buffer_text(&text), "first record\n"); /* not a torn second one */
    lt_buffer_free(&text);
    lt_append_file_write(&file, "third record\n", 13);
    assert_int_equal(lt_append_file_close(&file, NULL), LT_OK);
    text = read_text("grow");
    assert_string_equal(lt_buffer_text(&text), "first record\nsecond record\nthird record\n");
    lt_buffer_free(&text);
}

static void records_that_never_fit_are_reported(void **state)
{
    (void)state;
    lt_append_file file;
    lt_err err = {0};
    if (lt_append_file_open(&file, "/dev/full", false, &err) != LT_OK) skip();
    lt_append_file_write(&file, "x", 1);
    assert_int_equal(lt_append_file_close(&file, &err), LT_ERR_IO);
}

/* --- TensorBoard ------------------------------------------------------------------------------ */

static void crc32c_of_known_texts(void **state)
{
    (void)state;
    static const char zeros[32];
    assert_int_equal(lt_crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(lt_crc32c(zeros, 32), 0x8a9136aau);
    assert_int_equal(lt_crc32c_masked("\x1a\x11"
                                      "CRC test, one two",
                                      19),
                     0x5794d08au);
}

/* A version record (time 1.7e9) and train/loss = 2.5 at step 10, as TensorBoard's own writer makes
 * them. */
static void events_equal_the_golden_file(void **state)
{
    (void)state;
    static const char golden[] =
        "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d20"
        "0000000000000029eda9500900004040fc54d941100a2a130a110a0a747261696e2f6c6f7373150000"
        "2040a6466f5b";
    lt_buffer events = {0}, hex = {0};
    assert_int_equal(lt_events_append_version(&events, 1.7e9, NULL), LT_OK);
    assert_int_equal(lt_events_append_scalar(&events, 1.7e9 + 1, 10, "train/loss", 2.5, NULL),
                     LT_OK);
    assert_int_equal(events.size, 88);
    for (size_t i = 0; i < events.size; i++)
        lt_buffer_printf(&hex, NULL, "%02x", (unsigned char)events.data[i]);
    assert_string_equal(lt_buffer_text(&hex), golden);
    lt_buffer_free(&events);
    lt_buffer_free(&hex);
}

/* Walks the records of an event file, checking both checksums, and returns how many there are. */
static int count_records(const char *name)
{
    lt_buffer text = read_text(name);
    const unsigned char *at = (const unsigned char *)text.data;
    size_t left = text.size;
    int count = 0;
    for (; left > 0; count++) {
        assert_true(left >= 16);
        uint64_t size = 0;
        for (int i = 7; i >= 0; i--)
            size = size << 8 | at[i];
        assert_true(size + 16 <= left);
        uint32_t head = lt_crc32c_masked(at, 8), body = lt_crc32c_masked(at + 12, size);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(at[8 + i], (head >> (8 * i)) & 255);
            assert_int_equal(at[12 + size + (size_t)i], (body >> (8 * i)) & 255);
        }
        at += size + 16;
        left -= size + 16;
    }
    lt_buffer_free(&text);
    return count;
}

static void each_run_writes_an_event_file_of_its_own(void **state)
{
    (void)state;
    for (int run = 0; run < 2; run++) {
        lt_train_observer board;
        assert_int_equal(lt_tensorboard_open(folder, &board, NULL), LT_OK);
        tell_start(&board, 4 * run);
        tell_step(&board, 4 * run + 1, 2.0);
        tell_eval(&board, 4 * run + 1, NAN);
        lt_tensorboard_close(&board);
    }
    lt_name_list names = {0};
    assert_int_equal(lt_list_directory(folder, &names, NULL), LT_OK);
    assert_int_equal(names.count, 2);
    /* version, five of the step, two of the evaluation; the resumed one has a session mark */
    assert_int_equal(strncmp(names.names[0], "events.out.tfevents.", 20), 0);
    assert_int_equal(count_records(names.names[0]), 8);
    assert_int_equal(count_records(names.names[1]), 9);
    lt_name_list_free(&names);
}

/* --- report.html ------------------------------------------------------------------------------ */

/* Every element that is opened is closed, in order: text from outside can not have broken out. */
static void assert_balanced(const lt_buffer *page)
{
    static const char *const alone[] = {"meta", "path", "br", "!DOCTYPE"};
    char open[64][16];
    int depth = 0;
    for (const char *at = strchr(page->data, '<'); at; at = strchr(at + 1, '<')) {
        bool closing = at[1] == '/';
        char name[16];
        size_t length = strcspn(at + 1 + closing, " >/\n");
        assert_true(length < sizeof name);
        snprintf(name, sizeof name, "%.*s", (int)length, at + 1 + closing);
        bool skip = false;
        for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
            skip = skip || strcmp(name, alone[i]) == 0;
        if (skip) continue;
        if (closing) {
            assert_true(depth > 0);
            assert_string_equal(open[--depth], name);
        } else {
            assert_true(depth < 64);
            strcpy(open[depth++], name);
        }
        if (!closing && (strcmp(name, "script") == 0 || strcmp(name, "style") == 0)) {
            char end[24];
            snprintf(end, sizeof end, "</%s>", name);
            at = strstr(at, end) - 1; /* what is inside is not markup */
        }
    }
    assert_int_equal(depth, 0);
}

static lt_buffer run_with_report(int steps, const char *hostile)
{
    lt_train_observer log = open_log(false, 0), report;
    assert_int_equal(lt_report_open(folder, &report, NULL), LT_OK);
    tell_start(&log, 0);
    tell_start(&report, 0);
    for (int i = 1; i <= steps; i++)
        tell_step(&log, i, i == 3 ? NAN : 4.0 / i);
    log.message(log.context, hostile);
    tell_eval(&log, steps, 1.25);
    lt_sample_info sample = {
        .step = steps, .prompt = hostile, .reference = hostile, .answer = hostile};
    log.sample(log.context, &sample);
    sample.answer = "something else";
    log.sample(log.context, &sample);
    tell_eval(&report, steps, 1.25);
    lt_train_result result = {.steps = steps, .train_loss = 0.4, .seconds = 75};
    log.end(log.context, &result);
    report.end(report.context, &result);
    lt_log_jsonl_close(&log);
    lt_report_close(&report);
    return read_text("report.html");
}

static void report_shows_the_run(void **state)
{
    (void)state;
    lt_buffer page = run_with_report(10, "a plain text");
    assert_int_equal(count_text(&page, "1.25</b>"), 2); /* best and final held-out loss */
    assert_int_equal(count_text(&page, "1m 15s"), 1);
    assert_int_equal(count_text(&page, ">Loss</h3>"), 1);
    assert_int_equal(count_text(&page, ">Learning rate</h3>"), 1);
    assert_int_equal(count_text(&page, "match</span>"), 1);
    assert_int_equal(count_text(&page, "differs</span>"), 1);
    assert_int_equal(count_text(&page, "1 of 2 equal the reference"), 1);
    assert_int_equal(count_text(&page, "<dt>learning_rate</dt><dd>0.0005</dd>"), 1);
    assert_int_equal(count_text(&page, "memory 1 MiB"), 1);
    assert_int_equal(count_text(&page, "a plain text"), 6);
    assert_int_equal(count_text(&page, "http://"), 0); /* nothing is fetched */
    assert_int_equal(count_text(&page, "https://"), 0);
    assert_balanced(&page);
    lt_buffer_free(&page);
}

static void report_escapes_hostile_text(void **state)
{
    (void)state;
    lt_buffer page = run_with_report(
        5, "</div></table></td><script>alert(1)</script>\"><img src=x onerror='x'>&lt;\x01");
    assert_int_equal(count_text(&page, "<script>alert"), 0);
    assert_int_equal(count_text(&page, "<img"), 0);
    assert_int_equal(count_text(&page, "\x01"), 0);
    assert_int_equal(count_text(&page, "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&gt;&lt;img"),
                     6);
    assert_int_equal(count_text(&page, "&amp;lt;"), 6);
    assert_balanced(&page);
    lt_buffer_free(&page);
}

static void report_of_next_to_nothing_is_a_page(void **state)
{
    (void)state;
    lt_train_observer log = open_log(false, 0), report;
    assert_int_equal(lt_report_open(folder, &report, NULL), LT_OK);
    tell_eval(&report, 0, 1); /* an empty log */
    lt_buffer page = read_text("report.html");
    assert_balanced(&page);
    lt_buffer_free(&page);
    tell_step(&log, 1, NAN); /* and one without a single finite value */
    tell_step(&log, 2, NAN);
    tell_eval(&report, 0, 1);
    lt_log_jsonl_close(&log);
    lt_report_close(&report);
    page = read_text("report.html");
    assert_balanced(&page);
    assert_int_equal(count_text(&page, "nan"), 0);
    lt_buffer_free(&page);
}

static void long_curves_stay_small(void **state)
{
    (void)state;
    lt_buffer short_page = run_with_report(1000, "text");
    lt_buffer long_page = run_with_report(20000, "text");
    assert_true(long_page.size < 2 * short_page.size);
    assert_true(long_page.size < 400000);
    lt_buffer_free(&short_page);
    lt_buffer_free(&long_page);
}

static void values_are_short(void **state)
{
    (void)state;
    static const struct {
        lt_value_style style;
        double value;
        const char *text;
    } cases[] = {{LT_VALUE_PLAIN, 2.31449, "2.314"},
                 {LT_VALUE_SMALL, 3e-4, "3e-4"},
                 {LT_VALUE_SMALL, 9.9999e-5, "1e-4"},
                 {LT_VALUE_RATE, 12345, "12.3k"},
                 {LT_VALUE_RATE, 999999, "1M"},
                 {LT_VALUE_PERCENT, 0.5, "50 %"},
                 {LT_VALUE_PLAIN, 0, "0"},
                 {LT_VALUE_PLAIN, -INFINITY, "-Infinity"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[48];
        lt_format_value(cases[i].style, cases[i].value, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(log_holds_every_field),
        IN_FOLDER(log_keeps_quiet_steps_out_and_skipped_ones_in),
        IN_FOLDER(log_stays_json_whatever_the_text),
        IN_FOLDER(resumed_log_has_no_doubles),
        IN_FOLDER(resuming_twice_from_one_checkpoint_undoes_the_first_try),
        IN_FOLDER(a_new_run_begins_a_new_log),
        cmocka_unit_test(log_that_can_not_be_opened_says_why),
        IN_FOLDER(records_wait_while_the_disk_is_full),
        cmocka_unit_test(records_that_never_fit_are_reported),
        cmocka_unit_test(crc32c_of_known_texts),
        cmocka_unit_test(events_equal_the_golden_file),
        IN_FOLDER(each_run_writes_an_event_file_of_its_own),
        IN_FOLDER(report_shows_the_run),
        IN_FOLDER(report_escapes_hostile_text),
        IN_FOLDER(report_of_next_to_nothing_is_a_page),
        IN_FOLDER(long_curves_stay_small),
        cmocka_unit_test(values_are_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
