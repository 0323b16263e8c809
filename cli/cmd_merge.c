/* lathe merge: a LoRA adapter into its model's weights, as a plain model directory. */
#include <stdio.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "train/export.h"

typedef struct merge_settings {
    char *model, *adapter, *output, *dtype, *device;
    bool verify;
    int64_t threads;
} merge_settings;

#define FIELD(name) offsetof(merge_settings, name)

static const lt_option options[] = {
    {.name = "model",
     .type = LT_OPTION_STRING,
     .offset = FIELD(model),
     .required = true,
     .metavar = "DIR",
     .help = "The adapter's base: a model directory, or org/name in the local Hugging Face cache."},
    {.name = "adapter",
     .type = LT_OPTION_STRING,
     .offset = FIELD(adapter),
     .required = true,
     .metavar = "DIR",
     .help = "PEFT directory of a LoRA (or DoRA) adapter."},
    {.name = "output",
     .type = LT_OPTION_STRING,
     .offset = FIELD(output),
     .required = true,
     .metavar = "DIR",
     .help = "Where the merged model goes; must not exist."},
    {.name = "dtype",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(dtype),
     .choices = LT_FILE_DTYPE_CHOICES,
     .help =
         "Number type of the merged weights; as the base's when adapter and base have the same."},
    {.name = "verify",
     .type = LT_OPTION_FLAG,
     .offset = FIELD(verify),
     .help = "Compare the logits of base and adapter with those of the merged model as it is read "
             "back."},
    LT_DEVICE_OPTION(merge_settings, "cpu"),
    LT_THREADS_OPTION(merge_settings, NULL),
};

static const lt_option_table table = {
    .command = "lathe merge",
    .synopsis = "lathe merge --model DIR --adapter DIR --output DIR [--dtype bf16] [--verify]",
    .description =
        "Adds a LoRA adapter to its model's weights: in f32, rounded once. The result is "
        "a plain Hugging Face directory for any server.\n\n"
        "  lathe merge --model gpt2 --adapter run/final --output merged --verify",
    .options = options,
    .count = sizeof options / sizeof *options,
};

/* --- Number types ----------------------------------------------------------------------------- */

static lt_status choose_dtype(const merge_settings *s, const lt_model *model,
                              const lt_adapter *adapter, lt_dtype *out, lt_err *err)
{
    lt_dtype base = lt_stored_dtype(&model->config), update = lt_adapter_file_dtype(adapter);
    *out = s->dtype ? lt_file_dtype(s->dtype) : base;
    if (s->dtype || base == update) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "the base is stored as %s and the adapter as %s: say what the merged weights "
                   "should be, --dtype f32 (nothing is lost) or --dtype %s (rounded once, as the "
                   "base)",
                   lt_dtype_name(base), lt_dtype_name(update), lt_dtype_name(base));
}

/* --- Verifying -------------------------------------------------------------------------------- */

static lt_status verify(const char *directory, const lt_backend *backend,
                        const lt_logit_probe *before, lt_dtype dtype, lt_err *err)
{
    lt_model *model = NULL;
    lt_logit_probe after = {0};
    lt_logit_difference difference;
    lt_status status;
    LT_TRY_GOTO(status, lt_model_load(directory, backend, &model, err), done);
    LT_TRY_GOTO(status, lt_probe_logits(model, &after, err), done);
    LT_TRY_GOTO(status,
                lt_compare_logits(before, &after, lt_logit_bound(dtype), "the merged model",
                                  &difference, err),
                done);
    printf(
        "verified      logits differ by at most %.2e (the largest is %.2f), %.2e of their size\n",
        difference.worst, difference.largest, difference.relative);
done:
    lt_logit_probe_free(&after);
    lt_model_free(model);
    return status;
}

/* --- The command ------------------------------------------------------------------------------ */

static lt_status write_model(const merge_settings *s, const lt_opened_model *opened,
                             const lt_backend *backend, lt_dtype dtype,
                             const lt_logit_probe *before, lt_err *err)
{
    lt_new_directory directory = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_make_parent_directories(s->output, err), done);
    LT_TRY_GOTO(status, lt_new_directory_begin(&directory, s->output, err), done);
    LT_TRY_GOTO(status, lt_model_save(opened->model, directory.temporary, dtype, err), done);
    if (opened->tokenizer)
        LT_TRY_GOTO(status, lt_tokenizer_save(opened->tokenizer, directory.temporary, err), done);
    if (opened->notes.has_template)
        LT_TRY_GOTO(status, lt_model_notes_save(&opened->notes, directory.temporary, err), done);
    if (s->verify)
        LT_TRY_GOTO(status, verify(directory.temporary, backend, before, dtype, err), done);
    status = lt_new_directory_commit(&directory, false, err);
done:
    if (status != LT_OK) lt_new_directory_abort(&directory);
    return status;
}

static lt_status merge(const merge_settings *s, const lt_backend *backend, lt_opened_model *opened,
                       lt_err *err)
{
    lt_adapter *adapter = opened->model->adapters[0];
    lt_dtype dtype;
    lt_logit_probe before = {0};
    lt_status status;
    /* what can not be merged is refused before anything is asked or computed */
    if (lt_adapter_virtual_tokens(adapter) > 0)
        return lt_adapter_merge(opened->model, adapter, err);
    LT_TRY(choose_dtype(s, opened->model, adapter, &dtype, err));
    if (s->verify) LT_TRY_GOTO(status, lt_probe_logits(opened->model, &before, err), done);
    LT_TRY_GOTO(status, lt_adapter_merge(opened->model, adapter, err), done);
    lt_take_stop_token(opened);
    LT_TRY_GOTO(status, write_model(s, opened, backend, dtype, &before, err), done);
    printf("merged model  %s (%s)\n", s->output, lt_dtype_name(dtype));
done:
    lt_logit_probe_free(&before);
    return status;
}

static lt_status run(const void *context, lt_err *err)
{
    const merge_settings *s = context;
    const lt_adapter_source source = {.name = "merged", .directory = s->adapter};
    /* what is merged is rounded once, when it is saved */
    const lt_device_choice machine = {
        .device = s->device, .dtype = "float32", .threads = (int)s->threads};
    lt_buffer directory = {0};
    lt_device_opened device = {0};
    lt_opened_model opened = {0};
    lt_status status;
    if (!*s->adapter) return lt_fail(err, LT_ERR_USAGE, "--adapter \"\" names no directory");
    LT_TRY_GOTO(status, lt_require_new_directory(s->output, err), done);
    LT_TRY_GOTO(status, lt_model_resolve(s->model, &directory, err), done);
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    LT_TRY_GOTO(
        status,
        lt_open_model(lt_buffer_text(&directory), &source, 1, false, device.backend, &opened, err),
        done);
    status = merge(s, device.backend, &opened, err);
done:
    lt_close_model(&opened);
    lt_backend_free(device.backend);
    lt_buffer_free(&directory);
    return status;
}

int lt_cmd_merge(int argc, char **argv)
{
    merge_settings settings = {0};
    return lt_cli_run(&table, argc, argv, &settings, run);
}
