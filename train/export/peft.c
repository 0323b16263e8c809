/* An adapter as a PEFT directory of its own. */
#include "train/export/internal.h"

static lt_status verify(lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    const lt_adapter_source source = {.name = "exported", .directory = directory};
    lt_opened_model again;
    LT_TRY(lt_open_model(s->model_directory, &source, 1, false, job->backend, &again, err));
    lt_status status = lt_export_compare(job, again.model, lt_logit_bound(s->dtype), err);
    lt_tokenizer *tokenizer = again.tokenizer;
    again.tokenizer = NULL;
    if (status == LT_OK)
        status = lt_export_compare_tokenizer(job, tokenizer, err);
    else
        lt_tokenizer_free(tokenizer);
    lt_close_model(&again);
    return status;
}

static lt_status write_files(lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    const lt_model *model = job->opened->model;
    const lt_adapter *adapter = model->adapters[0];
    LT_TRY(lt_adapter_save(model, adapter, directory, s->dtype, false, err));
    LT_TRY(lt_export_write_texts(job, directory, err));
    LT_TRY(lt_adapter_serving_notes(lt_adapter_config_of(adapter), &job->report->notes, err));
    if (s->verify) LT_TRY(verify(job, directory, err));
    LT_TRY(lt_export_count(job, directory, err));
    return lt_export_go_on(job, err);
}

/* Elements of the adapter's rows. */
static uint64_t size_of_adapter(const lt_model *model)
{
    uint64_t count = 0;
    for (int i = model->own_param_count; i < model->param_count; i++) {
        const lt_param *row = &model->params[i];
        count += (uint64_t)(row->shape[0] * (row->ndim == 2 ? row->shape[1] : 1));
    }
    return count;
}

lt_status lt_export_peft(lt_export_job *job, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    uint64_t bytes = size_of_adapter(job->opened->model) * lt_dtype_size(s->dtype);
    lt_new_directory directory = {0};
    lt_status status;
    LT_TRY(lt_export_check_space(job, bytes, err));
    LT_TRY_GOTO(status, lt_new_directory_begin(&directory, s->output, err), done);
    LT_TRY_GOTO(status, write_files(job, directory.temporary, err), done);
    status = lt_new_directory_commit(&directory, s->force, err);
done:
    if (status != LT_OK) lt_new_directory_abort(&directory);
    return status;
}
