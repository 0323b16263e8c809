/* A Hugging Face directory: what AutoModelForCausalLM, AutoTokenizer and vLLM load. */
#include "model/formats/hf_save.h"
#include "train/export/internal.h"

static lt_status verify(lt_export_job *job, const char *directory, lt_err *err)
{
    lt_model *model = NULL;
    lt_tokenizer *tokenizer = NULL;
    lt_status status;
    LT_TRY_GOTO(status, lt_model_load(directory, job->backend, &model, err), done);
    LT_TRY_GOTO(status, lt_export_compare(job, model, lt_logit_bound(job->settings->dtype), err),
                done);
    if (lt_has_tokenizer(directory))
        LT_TRY_GOTO(status, lt_tokenizer_load(directory, &tokenizer, err), done);
    status = lt_export_compare_tokenizer(job, tokenizer, err);
done:
    lt_model_free(model);
    return status;
}

static lt_status write_files(lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    LT_TRY(lt_model_save_sharded(job->opened->model, directory, s->dtype, s->max_shard_bytes, NULL,
                                 err));
    LT_TRY(lt_export_go_on(job, err));
    if (!job->opened->tokenizer)
        LT_TRY(lt_buffer_append_text(&job->report->notes,
                                     "the model has no tokenizer, so neither has the directory: "
                                     "programs can only give it ids\n",
                                     err));
    LT_TRY(lt_export_copy_files(job, directory, err));
    LT_TRY(lt_export_write_texts(job, directory, err));
    if (s->verify) LT_TRY(verify(job, directory, err));
    LT_TRY(lt_export_count(job, directory, err));
    return lt_export_go_on(job, err);
}

lt_status lt_export_hf(lt_export_job *job, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    uint64_t parameters = (uint64_t)lt_model_parameter_count(job->opened->model, false);
    lt_new_directory directory = {0};
    lt_status status;
    LT_TRY(lt_export_check_space(job, parameters * lt_dtype_size(s->dtype), err));
    LT_TRY_GOTO(status, lt_new_directory_begin(&directory, s->output, err), done);
    LT_TRY_GOTO(status, write_files(job, directory.temporary, err), done);
    status = lt_new_directory_commit(&directory, s->force, err);
done:
    if (status != LT_OK) lt_new_directory_abort(&directory);
    return status;
}
