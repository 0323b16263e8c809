/* One GGUF file: a model with its tokenizer, or a LoRA adapter. */
#include <stdlib.h>
#include <string.h>

#include "train/export/internal.h"

#define FILE_NAME "export.gguf" /* until it is in place */

static lt_gguf_format format_of(const lt_export_settings *s)
{
    if (s->quantised) return s->quantisation;
    if (s->dtype == LT_BF16) return LT_GGUF_FILE_BF16;
    return s->dtype == LT_F16 ? LT_GGUF_FILE_F16 : LT_GGUF_FILE_F32;
}

/* --- Key-values ------------------------------------------------------------------------------- */

/* general.name: the model's, without the directories in front. Caller frees. */
static lt_status name_of(const lt_export_settings *s, char **out, lt_err *err)
{
    const char *name = s->model_name ? s->model_name : s->model_directory;
    *out = lt_path_last_name(name);
    return *out ? LT_OK : lt_fail_nomem(err, strlen(name), "the model's name");
}

/* What ends an answer; the tokenizer may know another end of text. */
static int32_t stop_id_of(const lt_model *model)
{
    return model->config.eos_token_count > 0 ? model->config.eos_token_ids[0] : -1;
}

static lt_status add_tokenizer(lt_export_job *job, lt_gguf_keys *keys, lt_err *err)
{
    const lt_opened_model *opened = job->opened;
    lt_buffer *notes = &job->report->notes, chat = {0};
    if (opened->tokenizer) {
        lt_status status = lt_export_chat_template(opened, &chat, err);
        if (status == LT_OK)
            status = lt_tokenizer_to_gguf(opened->tokenizer, opened->model->config.vocab_size,
                                          chat.data, stop_id_of(opened->model), keys, notes, err);
        lt_buffer_free(&chat);
        return status == LT_OK ? lt_model_notes_to_gguf(&opened->notes, keys, err) : status;
    }
    LT_TRY(lt_buffer_append_text(notes,
                                 "the model has no tokenizer, so neither has the file: programs "
                                 "can only give it ids\n",
                                 err));
    return lt_gguf_add_string(keys, "tokenizer.ggml.model", "none", 4, err);
}

/* --- Reading it back -------------------------------------------------------------------------- */

static lt_status verify_tokenizer(const lt_export_job *job, const char *path, lt_err *err)
{
    lt_gguf file;
    lt_tokenizer *tokenizer = NULL;
    LT_TRY(lt_gguf_open(path, &file, err));
    lt_status status = lt_tokenizer_from_gguf(&file, &tokenizer, err);
    lt_gguf_close(&file);
    return status == LT_OK ? lt_export_compare_tokenizer(job, tokenizer, err) : status;
}

static lt_status verify_model(lt_export_job *job, const char *path, lt_err *err)
{
    lt_model *model = NULL;
    lt_status status = lt_model_load(path, job->backend, &model, err);
    if (status == LT_OK)
        status = lt_export_compare(job, model, lt_gguf_logit_bound(format_of(job->settings)), err);
    lt_model_free(model);
    return status == LT_OK ? verify_tokenizer(job, path, err) : status;
}

static lt_status verify_adapter(lt_export_job *job, const char *path, lt_err *err)
{
    const lt_model *model = job->opened->model;
    LT_TRY(lt_adapter_check_gguf(model, model->adapters[0], path, err));
    job->report->verified = true;
    return LT_OK;
}

/* --- The file --------------------------------------------------------------------------------- */

static lt_status write_model(lt_export_job *job, const char *path, lt_err *err)
{
    lt_gguf_keys keys = {0};
    char *name = NULL;
    lt_status status = name_of(job->settings, &name, err);
    if (status == LT_OK) status = add_tokenizer(job, &keys, err);
    const lt_gguf_export what = {.format = format_of(job->settings),
                                 .name = name,
                                 .more = &keys,
                                 .notes = &job->report->notes};
    if (status == LT_OK) status = lt_model_save_gguf(job->opened->model, path, &what, err);
    lt_gguf_keys_free(&keys);
    free(name);
    return status;
}

static lt_status write_adapter(lt_export_job *job, const char *path, lt_err *err)
{
    const lt_model *model = job->opened->model;
    char *name = NULL;
    LT_TRY(name_of(job->settings, &name, err));
    const lt_gguf_export what = {
        .format = format_of(job->settings), .name = name, .notes = &job->report->notes};
    lt_status status = lt_adapter_save_gguf(model, model->adapters[0], path, &what, err);
    free(name);
    return status;
}

static lt_status write_file(lt_export_job *job, bool adapter, const char *path, lt_err *err)
{
    LT_TRY(adapter ? write_adapter(job, path, err) : write_model(job, path, err));
    LT_TRY(lt_export_go_on(job, err));
    if (job->settings->verify)
        LT_TRY(adapter ? verify_adapter(job, path, err) : verify_model(job, path, err));
    LT_TRY(lt_export_count(job, path, err));
    return lt_export_go_on(job, err);
}

/* Bits of a weight, blocks' scales included. What falls back to a larger type is not in it. */
static double bits_of(lt_gguf_format format)
{
    switch (format) {
    case LT_GGUF_FILE_F32:
        return 32;
    case LT_GGUF_FILE_Q8_0:
        return 8.5;
    case LT_GGUF_FILE_Q6_K:
        return 6.5625;
    case LT_GGUF_FILE_Q5_0:
        return 5.5;
    case LT_GGUF_FILE_Q4_0:
        return 4.5;
    case LT_GGUF_FILE_Q4_K_M:
        return 5;
    default:
        return 16;
    }
}

lt_status lt_export_gguf(lt_export_job *job, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    double parameters = (double)lt_model_parameter_count(job->opened->model, false);
    bool adapter = job->opened->model->adapter_count > 0;
    lt_new_directory directory = {0};
    lt_buffer path = {0};
    lt_status status;
    if (!adapter)
        LT_TRY(lt_export_check_space(job, (uint64_t)(parameters * bits_of(format_of(s)) / 8), err));
    LT_TRY_GOTO(status, lt_new_directory_begin(&directory, s->output, err), done);
    LT_TRY_GOTO(status, lt_path_join(&path, directory.temporary, FILE_NAME, err), done);
    LT_TRY_GOTO(status, write_file(job, adapter, path.data, err), done);
    status = lt_new_directory_commit_file(&directory, FILE_NAME, s->force, err);
done:
    if (status != LT_OK) lt_new_directory_abort(&directory);
    lt_buffer_free(&path);
    return status;
}
