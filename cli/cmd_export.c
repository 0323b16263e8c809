/* lathe export: a model, with its adapter, as what others serve. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/common_options.h"
#include "cli/interrupt.h"
#include "train/export.h"

typedef struct export_settings {
    char *model, *adapter, *format, *output, *dtype, *quantize, *max_shard_size, *evaluation;
    char *device;
    bool merge, verify, force;
    int64_t threads;
} export_settings;

#define FIELD(name) offsetof(export_settings, name)

static const lt_option options[] = {
    {.name = "model",
     .type = LT_OPTION_STRING,
     .offset = FIELD(model),
     .required = true,
     .metavar = "DIR",
     .help = "Model directory, GGUF file, or org/name in the local Hugging Face cache."},
    LT_ADAPTER_OPTION(export_settings, LT_OPTION_STRING),
    {.name = "format",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(format),
     .required = true,
     .choices = "hf|peft|gguf",
     .help = "hf: a directory for transformers and vLLM; peft: the adapter alone, for both; gguf: "
             "one file for llama.cpp."},
    {.name = "output",
     .type = LT_OPTION_STRING,
     .offset = FIELD(output),
     .required = true,
     .metavar = "PATH",
     .help = "Where it goes: a directory, or a name that ends in .gguf."},
    {.name = "dtype",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(dtype),
     .choices = LT_FILE_DTYPE_CHOICES,
     .help = "Number type of the weights; as they are stored when it is not given."},
    {.name = "quantize",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(quantize),
     .choices = "q8_0|q6_k|q5_0|q4_k_m|q4_0",
     .help = "gguf: weights in blocks of few bits, best first."},
    {.name = "merge",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(merge),
     .default_text = "true",
     .help = "hf, gguf: put the adapter into the weights. --no-merge writes it as a GGUF adapter "
             "file."},
    {.name = "max-shard-size",
     .type = LT_OPTION_STRING,
     .offset = FIELD(max_shard_size),
     .default_text = "5GB",
     .metavar = "SIZE",
     .help = "hf: bytes of one weight file at most: 5GB, 500MB, 2GiB."},
    {.name = "evaluation",
     .type = LT_OPTION_STRING,
     .offset = FIELD(evaluation),
     .metavar = "FILE",
     .help = "hf, peft: results_*.json of lathe eval for the model card; the newest beside the "
             "model when it is not given."},
    {.name = "verify",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(verify),
     .help = "Read back what was written and compare logits with those of the source."},
    {.name = "force",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(force),
     .help = "Replace what is at --output."},
    LT_DEVICE_OPTION(export_settings, "cpu"),
    LT_THREADS_OPTION(export_settings, NULL),
};

static const lt_option_table table = {
    .command = "lathe export",
    .synopsis = "lathe export --model DIR [--adapter DIR] --format hf|peft|gguf --output PATH",
    .description =
        "Writes a model for other programs: tokenizer, chat template and model card included. It "
        "is written aside and renamed, so that it is there whole or not at all.\n\n"
        "  lathe export --model run/final --format hf --output my-model --dtype bf16 --verify\n"
        "  lathe export --model gpt2 --adapter lora/final --format gguf --output my-model.gguf "
        "--quantize q4_k_m",
    .options = options,
    .count = sizeof options / sizeof *options,
};

/* --- Settings --------------------------------------------------------------------------------- */

static lt_export_format format_by_name(const char *name)
{
    if (strcmp(name, "gguf") == 0) return LT_EXPORT_GGUF;
    return strcmp(name, "peft") == 0 ? LT_EXPORT_PEFT : LT_EXPORT_HF;
}

static lt_status translate(const export_settings *s, lt_export_settings *out, lt_err *err)
{
    *out = (lt_export_settings){.format = format_by_name(s->format),
                                .output = s->output,
                                .quantised = s->quantize != NULL,
                                .merge = s->merge,
                                .verify = s->verify,
                                .force = s->force,
                                .adapter_directory = s->adapter,
                                .model_name = s->model,
                                .evaluation = s->evaluation,
                                .cancelled = &lt_interrupted};
    if (s->dtype && s->quantize)
        return lt_fail(err, LT_ERR_USAGE,
                       "--dtype and --quantize are two answers to one question: give one of them");
    if (s->adapter && !*s->adapter)
        return lt_fail(err, LT_ERR_USAGE, "--adapter \"\" names no directory");
    if (s->evaluation && out->format == LT_EXPORT_GGUF)
        return lt_fail(err, LT_ERR_USAGE, "--evaluation is for the model card of hf and peft");
    LT_TRY(lt_parse_shard_size(s->max_shard_size, &out->max_shard_bytes, err));
    if (s->quantize) LT_TRY(lt_gguf_format_parse(s->quantize, &out->quantisation, err));
    return lt_export_check(out, err);
}

/* As it is stored, where nothing was asked for. */
static void choose_dtype(const export_settings *s, const lt_model *model, lt_export_settings *out)
{
    bool adapter_alone = out->format == LT_EXPORT_PEFT || !out->merge;
    if (s->dtype)
        out->dtype = lt_file_dtype(s->dtype);
    else
        out->dtype = adapter_alone ? lt_adapter_file_dtype(model->adapters[0])
                                   : lt_stored_dtype(&model->config);
    if (out->dtype != LT_BF16 && out->dtype != LT_F16) out->dtype = LT_F32;
}

/* --- The command ------------------------------------------------------------------------------ */

static void print_report(const lt_export_settings *s, const lt_export_report *report)
{
    lt_cli_print_lines(stdout, "note          ", lt_buffer_text(&report->notes));
    if (report->verified && report->bound > 0)
        printf("verified      logits differ by at most %.2e (the largest is %.2f), %.2e of their "
               "size (%.0e is expected)\n",
               report->logits_worst, report->logits_largest, report->logits_relative,
               report->bound);
    else if (report->verified)
        printf("verified      every tensor was read back as it was written\n");
    printf("exported      %s (%s, %.1f MB in %lld file%s)\n", s->output,
           s->quantised ? lt_gguf_format_name(s->quantisation) : lt_dtype_name(s->dtype),
           (double)report->bytes / 1e6, (long long)report->files, report->files == 1 ? "" : "s");
}

static lt_status export_opened(const export_settings *s, lt_export_settings *what,
                               lt_opened_model *opened, const lt_backend *backend, lt_err *err)
{
    lt_export_report report;
    choose_dtype(s, opened->model, what);
    LT_TRY(lt_export(opened, backend, what, &report, err));
    print_report(what, &report);
    lt_export_report_free(&report);
    return LT_OK;
}

static lt_status run(const void *context, lt_err *err)
{
    const export_settings *s = context;
    const lt_adapter_source source = {.name = "exported", .directory = s->adapter};
    /* everything is rounded once, when it is written */
    const lt_device_choice machine = {
        .device = s->device, .dtype = "float32", .threads = (int)s->threads};
    lt_export_settings what;
    lt_buffer directory = {0};
    lt_device_opened device = {0};
    lt_opened_model opened = {0};
    lt_status status;
    LT_TRY_GOTO(status, translate(s, &what, err), done);
    LT_TRY_GOTO(status, lt_model_resolve(s->model, &directory, err), done);
    what.model_directory = lt_buffer_text(&directory);
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    LT_TRY_GOTO(status,
                lt_open_model(what.model_directory, &source, s->adapter ? 1 : 0, false,
                              device.backend, &opened, err),
                done);
    status = export_opened(s, &what, &opened, device.backend, err);
done:
    lt_close_model(&opened);
    lt_backend_free(device.backend);
    lt_buffer_free(&directory);
    return status;
}

int lt_cmd_export(int argc, char **argv)
{
    export_settings settings = {0};
    lt_interrupt_once();
    return lt_cli_run(&table, argc, argv, &settings, run);
}
