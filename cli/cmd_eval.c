/* lathe eval: how good a model is, and whether it is better than another. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/bar.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "cli/interrupt.h"
#include "train/evaluation.h"

#define LINE_INTERVAL 10 /* seconds between lines where there is no terminal for a bar */

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
    LT_MODEL_OPTION(eval_settings, "Which model"),
    LT_ADAPTER_OPTION(eval_settings, LT_OPTION_STRING),
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
     .help = "Ask in the model's chat template: as a user, with examples as turns before."},
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
    LT_THREADS_OPTION(eval_settings, NULL),
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

/* --- Progress --------------------------------------------------------------------------------- */

typedef struct console {
    bool terminal; /* a bar on its last line; else a line now and then */
    lt_bar bar;
    double shown; /* seconds of the last bar or line */
} console;

static void on_message(void *context, const char *text)
{
    console *c = context;
    lt_bar_clear(&c->bar);
    lt_cli_print_safely(stderr, text);
}

/* What an earlier run has done says nothing of this one's speed. */
static void describe(const lt_evaluation_progress *p, char *out, size_t size)
{
    double fresh = (double)(p->all_done - p->all_resumed),
           left = (double)(p->all_total - p->all_done);
    double speed = p->seconds > 0 ? fresh / p->seconds : 0;
    char remaining[32] = "?";
    if (speed > 0) lt_cli_format_duration(left / speed, remaining);
    snprintf(out, size, "%s  %lld/%lld  %.*f/s  ETA %s", p->task, (long long)p->done,
             (long long)p->total, speed < 10 ? 2 : 0, speed, remaining);
}

static void on_progress(void *context, const lt_evaluation_progress *p)
{
    console *c = context;
    char text[384];
    double share = p->all_total > 0 ? (double)p->all_done / (double)p->all_total : 0;
    if (p->seconds - c->shown < (c->terminal ? LT_BAR_INTERVAL : LINE_INTERVAL)) return;
    c->shown = p->seconds;
    describe(p, text, sizeof text);
    if (c->terminal)
        lt_bar_draw(&c->bar, share, text);
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

/* Tables of one model have the notes inside. */
static lt_status print_result(const lt_evaluation_result *result, bool json, bool compared,
                              lt_err *err)
{
    if (json)
        LT_TRY(print_json(result->json, err));
    else
        fputs(lt_buffer_text(&result->tables), stdout);
    FILE *out = json ? stderr : stdout;
    if (json || compared) {
        if (result->notes.size > 0) fputc('\n', out);
        lt_cli_print_lines(out, "", lt_buffer_text(&result->notes));
    }
    if (result->files.size > 0) fputc('\n', out);
    lt_cli_print_lines(out, "wrote ", lt_buffer_text(&result->files));
    if (fflush(stdout) == 0 && !ferror(stdout)) return LT_OK;
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
        .machine = LT_DEVICE_CHOICE(s),
        .cancelled = &lt_interrupted,
    };
}

static lt_status run(const void *context, lt_err *err)
{
    const eval_settings *s = context;
    console c = {.terminal = isatty(STDERR_FILENO) != 0, .bar = {.out = stderr}};
    const lt_evaluation_observer observer = {
        .context = &c, .message = on_message, .progress = on_progress};
    const lt_evaluation_settings settings = choose(s);
    lt_evaluation_result result;
    lt_interrupt_between_batches();
    lt_status status = lt_evaluation_run(&settings, &observer, &result, err);
    lt_bar_clear(&c.bar);
    if (status == LT_OK)
        status = print_result(&result, s->json, settings.baseline.model != NULL, err);
    if (status == LT_ERR_INTERRUPTED) explain_interruption(s, &result, err);
    lt_evaluation_result_free(&result);
    return status;
}

int lt_cmd_eval(int argc, char **argv)
{
    eval_settings settings = {0};
    return lt_cli_run(&table, argc, argv, &settings, run);
}
