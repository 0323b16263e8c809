/* What every export goes through: checks, merging, what is measured before; then the format. */
#include "train/export.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "train/export/internal.h"

#define SPACE_FOR_SMALL_FILES ((uint64_t)4 << 20)

/* --- Facts of a model ------------------------------------------------------------------------- */

lt_dtype lt_stored_dtype(const lt_model_config *config)
{
    const char *name = json_string_value(json_object_get(config->source, "dtype"));
    if (!name) name = json_string_value(json_object_get(config->source, "torch_dtype"));
    return lt_file_dtype(name);
}

void lt_take_stop_token(lt_opened_model *opened)
{
    lt_model_config *config = &opened->model->config;
    if (!opened->notes.has_template || !opened->tokenizer) return;
    int32_t id = lt_template_stop_id(opened->notes.template_, opened->tokenizer);
    for (int i = 0; i < config->eos_token_count; i++)
        if (config->eos_token_ids[i] == id) return;
    if (id < 0) return;
    config->eos_token_ids[0] = id;
    config->eos_token_count = 1;
}

lt_status lt_export_chat_template(const lt_opened_model *opened, lt_buffer *out, lt_err *err)
{
    const lt_model_notes *notes = &opened->notes;
    bool own = opened->tokenizer && lt_tokenizer_chat_template(opened->tokenizer);
    bool trained = notes->has_template && notes->template_ != LT_TEMPLATE_CHAT &&
                   (notes->template_ != LT_TEMPLATE_PLAIN || !own);
    if (!opened->tokenizer || (!own && !trained)) return LT_OK;
    return lt_template_to_jinja(trained ? notes->template_ : LT_TEMPLATE_CHAT, opened->tokenizer,
                                out, err);
}

/* --- Settings --------------------------------------------------------------------------------- */

lt_status lt_parse_shard_size(const char *text, uint64_t *bytes, lt_err *err)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {{"", 1},
                 {"B", 1},
                 {"KB", 1000},
                 {"MB", 1000000},
                 {"GB", 1000000000},
                 {"TB", 1000000000000},
                 {"KiB", 1u << 10},
                 {"MiB", 1u << 20},
                 {"GiB", 1u << 30},
                 {"TiB", (uint64_t)1 << 40}};
    size_t digits = strspn(text, "0123456789");
    uint64_t number = digits > 0 && digits < 19 ? strtoull(text, NULL, 10) : 0;
    for (size_t i = 0; i < sizeof units / sizeof *units && number > 0; i++)
        if (strcasecmp(text + digits, units[i].name) == 0 &&
            !__builtin_mul_overflow(number, units[i].bytes, bytes))
            return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "--max-shard-size %.40s: give a whole number of bytes, as in 5GB, 500MB or 2GiB",
                   text);
}

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size > end_size && strcasecmp(text + size - end_size, end) == 0;
}

/* --force replaces a model or an adapter, of which the files lie side by side. A run's directory,
 * say, holds more than can be meant. */
static lt_status check_replaced(const char *path, lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer at = {0};
    bool model = false;
    lt_status status = lt_list_directory(path, &names, err);
    for (size_t i = 0; i < names.count && status == LT_OK; i++) {
        const char *name = names.names[i];
        model =
            model || strcmp(name, "config.json") == 0 || strcmp(name, "adapter_config.json") == 0;
        status = lt_path_join(&at, path, name, err);
        if (status == LT_OK && lt_is_directory(at.data))
            status = lt_fail(err, LT_ERR_USAGE,
                             "--output %s holds the directory %s, which --force would remove, too: "
                             "choose another name, or remove it yourself",
                             path, name);
    }
    if (status == LT_OK && names.count > 0 && !model)
        status = lt_fail(err, LT_ERR_USAGE,
                         "--output %s holds files, but no model and no adapter that --force could "
                         "replace: choose another name, or remove it yourself",
                         path);
    lt_name_list_free(&names);
    lt_buffer_free(&at);
    return status;
}

static lt_status check_target(const lt_export_settings *s, lt_err *err)
{
    bool file = s->format == LT_EXPORT_GGUF;
    if (!*s->output) return lt_fail(err, LT_ERR_USAGE, "--output \"\" is no name");
    if (file && !ends_with(s->output, ".gguf"))
        return lt_fail(err, LT_ERR_USAGE,
                       "--output %s: a GGUF file's name ends in .gguf; --format hf and peft write "
                       "directories",
                       s->output);
    if (!lt_path_exists(s->output)) return LT_OK;
    if (lt_is_directory(s->output) == file)
        return lt_fail(err, LT_ERR_USAGE, "--output %s is a %s, and --format %s writes a %s",
                       s->output, file ? "directory" : "file",
                       file                        ? "gguf"
                       : s->format == LT_EXPORT_HF ? "hf"
                                                   : "peft",
                       file ? "file" : "directory");
    if (s->force) return file ? LT_OK : check_replaced(s->output, err);
    if (!file && lt_require_new_directory(s->output, NULL) == LT_OK) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "--output %s exists; choose another name, or replace it with --force",
                   s->output);
}

lt_status lt_export_check(const lt_export_settings *s, lt_err *err)
{
    if (s->quantised && s->format != LT_EXPORT_GGUF)
        return lt_fail(err, LT_ERR_USAGE, "--quantize is for --format gguf");
    if (!s->merge && s->format != LT_EXPORT_GGUF)
        return lt_fail(err, LT_ERR_USAGE,
                       "--no-merge is for --format gguf; --format peft writes an adapter for "
                       "transformers and vLLM");
    if (!s->merge && !s->adapter_directory)
        return lt_fail(err, LT_ERR_USAGE,
                       "--no-merge writes the adapter alone: give it with --adapter DIR");
    if (!s->merge && s->quantised)
        return lt_fail(err, LT_ERR_USAGE,
                       "an adapter is not quantised: leave out --quantize (--dtype f32, f16 or "
                       "bf16), or --no-merge");
    if (s->format == LT_EXPORT_PEFT && !s->adapter_directory)
        return lt_fail(err, LT_ERR_USAGE,
                       "--format peft writes an adapter: give it with --adapter DIR, and its base "
                       "with --model");
    return check_target(s, err);
}

/* --- On the way ------------------------------------------------------------------------------- */

lt_status lt_export_go_on(const lt_export_job *job, lt_err *err)
{
    const volatile sig_atomic_t *cancelled = job->settings->cancelled;
    if (!cancelled || !*cancelled) return LT_OK;
    return lt_fail(err, LT_ERR_INTERRUPTED, "interrupted; nothing was written");
}

/* The directory that holds the target. */
static lt_status parent_of(const char *path, lt_buffer *out, lt_err *err)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size > 0 && path[size - 1] != '/')
        size--;
    return size > 0 ? lt_buffer_append(out, path, size, err) : lt_buffer_append_text(out, ".", err);
}

lt_status lt_export_check_space(const lt_export_job *job, uint64_t weights, lt_err *err)
{
    uint64_t needed = weights + SPACE_FOR_SMALL_FILES, free_bytes;
    lt_buffer parent = {0};
    lt_status status = parent_of(job->settings->output, &parent, err);
    bool known = status == LT_OK && lt_free_space(parent.data, &free_bytes, NULL) == LT_OK;
    if (known && free_bytes < needed)
        status = lt_fail(err, LT_ERR_IO,
                         "no room in %s: the export takes up to %.1f MB, and %.1f MB are free",
                         parent.data, (double)needed / 1e6, (double)free_bytes / 1e6);
    lt_buffer_free(&parent);
    return status;
}

/* What killed exports left is cleared away; that it can not be is no reason to stop. */
static lt_status prepare_parent(const lt_export_job *job, lt_err *err)
{
    lt_buffer parent = {0};
    lt_status status = lt_make_parent_directories(job->settings->output, err);
    if (status == LT_OK) status = parent_of(job->settings->output, &parent, err);
    if (status == LT_OK) lt_remove_stale_temporaries(parent.data, NULL);
    lt_buffer_free(&parent);
    return status;
}

static lt_status refuse_virtual_tokens(const lt_export_job *job, lt_err *err)
{
    const lt_adapter *adapter = job->opened->model->adapters[0];
    const char *kind = lt_adapter_kind_name(lt_adapter_config_of(adapter)->kind);
    if (lt_adapter_virtual_tokens(adapter) == 0) return LT_OK;
    return lt_fail(
        err, LT_ERR_UNSUPPORTED,
        "a %s adapter adds virtual tokens, which no weight and no %s can hold: export it "
        "with --format peft, and serve it with transformers and PEFT or lathe generate "
        "--adapter",
        kind, job->settings->format == LT_EXPORT_GGUF ? "GGUF file" : "model directory");
}

/* Numbers are taken before the adapter is gone. */
static lt_status take_adapter(lt_export_job *job, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    lt_model *model = job->opened->model;
    bool adapted = model->adapter_count > 0;
    if (adapted && s->format != LT_EXPORT_PEFT) LT_TRY(refuse_virtual_tokens(job, err));
    if (s->verify && (s->merge || s->format != LT_EXPORT_GGUF))
        LT_TRY(lt_probe_logits(model, &job->before, err));
    if (!adapted || !s->merge || s->format == LT_EXPORT_PEFT) return LT_OK;
    LT_TRY(lt_adapter_merge(model, model->adapters[0], err));
    lt_take_stop_token(job->opened);
    return LT_OK;
}

static lt_status run(lt_export_job *job, lt_err *err)
{
    LT_TRY(lt_export_check(job->settings, err));
    LT_TRY(take_adapter(job, err));
    LT_TRY(lt_export_go_on(job, err));
    LT_TRY(prepare_parent(job, err));
    if (job->settings->format == LT_EXPORT_HF) return lt_export_hf(job, err);
    return job->settings->format == LT_EXPORT_PEFT ? lt_export_peft(job, err)
                                                   : lt_export_gguf(job, err);
}

lt_status lt_export(lt_opened_model *opened, const lt_backend *backend,
                    const lt_export_settings *settings, lt_export_report *report, lt_err *err)
{
    lt_export_job job = {
        .opened = opened, .backend = backend, .settings = settings, .report = report};
    *report = (lt_export_report){0};
    lt_status status = run(&job, err);
    lt_logit_probe_free(&job.before);
    if (status != LT_OK) lt_export_report_free(report);
    return status;
}

void lt_export_report_free(lt_export_report *report)
{
    lt_buffer_free(&report->notes);
    *report = (lt_export_report){0};
}
