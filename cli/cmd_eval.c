/* lathe eval: how good a model is, and whether it is better than another. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/cli.h"
#include "train/evaluation.h"

enum { BAR_WIDTH = 24, LINE_SECONDS = 10 };
#define BAR_INTERVAL 0.1 /* seconds between redraws */

typedef struct eval_settings {
    char *model, *adapter, *data, *compare, *compare_adapter, *fewshot_data, *fewshot_sampler;
    char *judge, *rubric, *output;
    lt_string_list tasks, text;
    int64_t limit, batch_size, max_length, num_fewshot, max_new_tokens, bootstrap, threads;
    bool apply_chat_template, generate, json;
    char *device, *dtype, *matmul;
} eval_settings;

#define FIELD(name) offsetof(eval_settings, name)

static const lt_option options[] = {
    {.name = "model",
     .type = LT_OPTION_STRING,
     .offset = FIELD(model),
     .required = true,
     .metavar = "DIR",
     .help = "Model directory, or org/name in the local Hugging Face cache.",
     .group = "Which model"},
    {.name = "adapter",
     .type = LT_OPTION_STRING,
     .offset = FIELD(adapter),
     .metavar = "DIR",
     .help = "PEFT directory of an adapter of this model."},
    {.name = "compare",
     .type = LT_OPTION_STRING,
     .offset = FIELD(compare),
     .metavar = "DIR",
     .help =
         "A baseline that answers the same: what --model gained or lost against it is shown with "
         "95 % intervals."},
    {.name = "compare-adapter",
     .type = LT_OPTION_STRING,
     .offset = FIELD(compare_adapter),
     .metavar = "DIR",
     .help = "Adapter of the baseline; without --compare the baseline is --model with this one."},
    {.name = "data",
     .type = LT_OPTION_STRING,
     .offset = FIELD(data),
     .metavar = "DATA.h5",
     .help = "Held-out part of a prepared dataset: its loss, and answers to its questions.",
     .group = "On what (one or several)"},
    {.name = "tasks",
     .type = LT_OPTION_LIST,
     .offset = FIELD(tasks),
     .metavar = "[FORMAT=]FILE",
     .help =
         "JSON Lines of a published benchmark or of your own; the format is known by its keys, or "
         "named: arc_easy=test.jsonl."},
    {.name = "text",
     .type = LT_OPTION_LIST,
     .offset = FIELD(text),
     .metavar = "FILE",
     .help = "Plain-text files: perplexity by word and byte, in windows."},
    {.name = "limit",
     .type = LT_OPTION_INT,
     .offset = FIELD(limit),
     .max = 1e12,
     .default_text = "0",
     .help = "Only the first so many documents of each task; 0: all.",
     .group = "How"},
    {.name = "num-fewshot",
     .type = LT_OPTION_INT,
     .offset = FIELD(num_fewshot),
     .min = -1,
     .max = 1000,
     .default_text = "-1",
     .help = "Solved examples in front of each question; -1: as many as the benchmark has."},
    {.name = "fewshot-data",
     .type = LT_OPTION_STRING,
     .offset = FIELD(fewshot_data),
     .metavar = "FILE",
     .help = "Where examples come from; without it from the task's own file."},
    {.name = "fewshot-sampler",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(fewshot_sampler),
     .default_text = "default",
     .choices = "default|first_n",
     .help =
         "default draws the examples that lm-evaluation-harness draws, first_n takes the first."},
    {.name = "apply-chat-template",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(apply_chat_template),
     .help = "Ask in the model's chat template, as a user."},
    {.name = "max-length",
     .type = LT_OPTION_INT,
     .offset = FIELD(max_length),
     .max = 1e9,
     .default_text = "0",
     .help = "Tokens that the model is shown; longer questions lose their beginning. 0: all it can "
             "see."},
    {.name = "max-new-tokens",
     .type = LT_OPTION_INT,
     .offset = FIELD(max_new_tokens),
     .max = 1e9,
     .default_text = "0",
     .help = "Tokens of the longest answer; 0: as the benchmark has it, for --data 256 or half of "
             "what the model sees."},
    {.name = "generate",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(generate),
     .default_text = "true",
     .help = "Also what is answered by text, which takes longest; --no-generate leaves it out."},
    {.name = "judge",
     .type = LT_OPTION_STRING,
     .offset = FIELD(judge),
     .metavar = "DIR",
     .help = "A model that judges each answer: its probability that the answer is good."},
    {.name = "rubric",
     .type = LT_OPTION_STRING,
     .offset = FIELD(rubric),
     .metavar = "FILE",
     .help = "What the judge is asked, to be continued with yes or no: a text with {answer}, and "
             "{instruction}, {context}, {reference}."},
    {.name = "bootstrap",
     .type = LT_OPTION_INT,
     .offset = FIELD(bootstrap),
     .max = 1e7,
     .default_text = "100000",
     .help = "Resamples for errors that have no formula; comparisons take 10000 at most. 0: none."},
    {.name = "output",
     .type = LT_OPTION_STRING,
     .offset = FIELD(output),
     .metavar = "DIR",
     .help =
         "Where samples, results and report.html go; a run that was stopped goes on from what is "
         "there.",
     .group = "Output and machine"},
    {.name = "json",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(json),
     .help = "Print the results as JSON instead of a table."},
    {.name = "batch-size",
     .type = LT_OPTION_INT,
     .offset = FIELD(batch_size),
     .max = 65536,
     .default_text = "0",
     .help = "Texts read side by side; 0: chosen by their lengths."},
    LT_DEVICE_OPTION(eval_settings, "auto"),
    LT_DTYPE_OPTION(eval_settings),
    LT_MATMUL_OPTION(eval_settings),
    {.name = "threads",
     .type = LT_OPTION_INT,
     .offset = FIELD(threads),
     .max = 4096,
     .default_text = "0",
     .help = "CPU threads; 0: all cores."},
};

static const lt_option_table table = {
    .command = "lathe eval",
    .synopsis = "lathe eval --model DIR [--adapter DIR] (--data DATA.h5 | --tasks FILE... | --text "
                "FILE...) [OPTIONS]",
    .description =
        "Measures a model on a dataset's held-out part, on benchmarks and on plain text, as "
        "lm-evaluation-harness does, and compares it with another.\n\n"
        "  lathe eval --model out/final --data data.h5 --output eval\n"
        "  lathe eval --model base --tasks arc.jsonl hellaswag.jsonl --num-fewshot 5\n\n"
        "Did the tuning help? The baseline is --compare:\n"
        "  lathe eval --model out/final --compare base --data data.h5 --output eval\n"
        "  lathe eval --model base --adapter lora/final --compare base --data data.h5\n"
        "  lathe eval --model base --adapter lora/final --compare-adapter prefix/final --data "
        "data.h5",
    .options = options,
    .count = sizeof options / sizeof options[0]};

/* --- Signals ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void say(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

static void on_signal(int number)
{
    if (interrupted) _exit(LT_EXIT_INTERRUPTED);
    interrupted = 1;
    say(number == SIGINT ? "\nlathe: stopping after this batch; again to stop at once\n"
                         : "\nlathe: stopping after this batch\n");
}

static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is then an error that can be told */
}

/* --- Progress --------------------------------------------------------------------------------- */

typedef struct console {
    bool terminal; /* a bar on the last line, redrawn in place; else a line now and then */
    bool bar_shown;
    double shown; /* seconds of the last bar or line */
} console;

static void clear_bar(console *c)
{
    if (c->bar_shown) fputs("\r\033[K", stderr);
    c->bar_shown = false;
}

static void on_message(void *context, const char *text)
{
    clear_bar(context);
    for (; *text; text++) /* it may quote a file */
        fputc((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text, stderr);
    fputc('\n', stderr);
}

/* "0:07", "2:05:00" */
static void format_duration(double seconds, char *out, size_t size)
{
    int64_t s = seconds > 0 && seconds < 1e9 ? (int64_t)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(out, size, "%lld:%02d:%02d", (long long)(s / 3600), (int)(s / 60 % 60),
                 (int)(s % 60));
    else
        snprintf(out, size, "%d:%02d", (int)(s / 60), (int)(s % 60));
}

/* What an earlier run has done says nothing of this one's speed. */
static void describe(const lt_evaluation_progress *p, char *out, size_t size)
{
    double fresh = (double)(p->all_done - p->all_resumed),
           left = (double)(p->all_total - p->all_done);
    double speed = p->seconds > 0 ? fresh / p->seconds : 0;
    char remaining[32] = "?";
    if (speed > 0) format_duration(left / speed, remaining, sizeof remaining);
    snprintf(out, size, "%s  %lld/%lld  %.*f/s  ETA %s", p->task, (long long)p->done,
             (long long)p->total, speed < 10 ? 2 : 0, speed, remaining);
}

static int terminal_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void draw_bar(console *c, double share, const char *text)
{
    char cells[BAR_WIDTH + 1], line[512];
    for (int i = 0; i < BAR_WIDTH; i++)
        cells[i] = i < share * BAR_WIDTH ? '#' : '.';
    cells[BAR_WIDTH] = '\0';
    snprintf(line, sizeof line, "[%s] %3.0f%%  %s", cells, 100 * share, text);
    /* a line that wraps can not be redrawn in place */
    fprintf(stderr, "\r\033[K%.*s", terminal_width() - 1, line);
    fflush(stderr);
    c->bar_shown = true;
}

static void on_progress(void *context, const lt_evaluation_progress *p)
{
    console *c = context;
    char text[384];
    double share = p->all_total > 0 ? (double)p->all_done / (double)p->all_total : 0;
    if (p->seconds - c->shown < (c->terminal ? BAR_INTERVAL : LINE_SECONDS)) return;
    c->shown = p->seconds;
    describe(p, text, sizeof text);
    if (c->terminal)
        draw_bar(c, share, text);
    else
        fprintf(stderr, "%3.0f%%  %s: %s\n", 100 * share, p->model, text);
}

/* --- Results ---------------------------------------------------------------------------------- */

static lt_status print_json(const json_t *json, lt_err *err)
{
    lt_buffer text = {0};
    lt_status status = lt_json_dump(json, 2, &text, err);
    if (status == LT_OK) fwrite(text.data, 1, text.size, stdout);
    lt_buffer_free(&text);
    return status;
}

static void print_lines(FILE *out, const char *before, const lt_buffer *lines)
{
    const char *at = lt_buffer_text(lines);
    while (*at) {
        int length = (int)strcspn(at, "\n");
        fprintf(out, "%s%.*s\n", before, length, at);
        at += length + (at[length] == '\n');
    }
}

/* Tables of one model have the notes inside. */
static lt_status print_result(const lt_evaluation_result *result, bool json, bool compared,
                              lt_err *err)
{
    if (json)
        LT_TRY(print_json(result->json, err));
    else
        fputs(lt_buffer_text(&result->tables), stdout);
    FILE *out = json ? stderr : stdout;
    if (json || compared) print_lines(out, "\n", &result->notes);
    if (result->files.size > 0) fputc('\n', out);
    print_lines(out, "wrote ", &result->files);
    if (fflush(stdout) == 0) return LT_OK;
    return lt_fail(err, LT_ERR_IO, "the results can not be written to standard output");
}

static void explain_interruption(const eval_settings *s, const lt_evaluation_result *result,
                                 lt_err *err)
{
    lt_fail(err, LT_ERR_INTERRUPTED, "stopped after %lld of %lld documents; %s",
            (long long)result->done, (long long)result->total,
            s->output ? "the same command goes on from there"
                      : "nothing was kept (with --output the same command would go on)");
}

/* --- The command ------------------------------------------------------------------------------ */

static lt_evaluation_settings choose(const eval_settings *s)
{
    bool compared = s->compare || s->compare_adapter;
    return (lt_evaluation_settings){
        .model = {s->model, s->adapter},
        .baseline = {compared ? (s->compare ? s->compare : s->model) : NULL, s->compare_adapter},
        .data = s->data,
        .tasks = s->tasks,
        .texts = s->text,
        .limit = s->limit,
        .batch_size = s->batch_size,
        .max_length = s->max_length,
        .num_fewshot = s->num_fewshot,
        .fewshot_data = s->fewshot_data,
        .fewshot_first = strcmp(s->fewshot_sampler, "first_n") == 0,
        .apply_chat_template = s->apply_chat_template,
        .max_new_tokens = s->max_new_tokens,
        .no_generate = !s->generate,
        .judge = s->judge,
        .rubric = s->rubric,
        .resamples = s->bootstrap,
        .output = s->output,
        .machine = {.device = s->device,
                    .dtype = s->dtype,
                    .matmul = s->matmul,
                    .threads = (int)s->threads},
        .cancelled = &interrupted,
    };
}

static lt_status run(const eval_settings *s, lt_err *err)
{
    console c = {.terminal = isatty(STDERR_FILENO) != 0};
    const lt_evaluation_observer observer = {
        .context = &c, .message = on_message, .progress = on_progress};
    const lt_evaluation_settings settings = choose(s);
    lt_evaluation_result result;
    handle_signals();
    lt_status status = lt_evaluation_run(&settings, &observer, &result, err);
    clear_bar(&c);
    if (status == LT_OK)
        status = print_result(&result, s->json, settings.baseline.model != NULL, err);
    if (status == LT_ERR_INTERRUPTED) explain_interruption(s, &result, err);
    lt_evaluation_result_free(&result);
    return status;
}

int lt_cmd_eval(int argc, char **argv)
{
    eval_settings settings = {0};
    lt_option_result given = {0};
    lt_err err = {0};
    int exit_code = LT_EXIT_OK;
    if (lt_cli_parse(&table, argc, argv, &settings, &given, &exit_code)) {
        lt_status status = run(&settings, &err);
        if (status != LT_OK) exit_code = lt_cli_fail(status, &err);
    }
    lt_options_free(&table, &settings, &given);
    return exit_code;
}
