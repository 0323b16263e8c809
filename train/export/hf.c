/* A Hugging Face directory: what AutoModelForCausalLM, AutoTokenizer and vLLM load. */
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "model/formats/hf_save.h"
#include "train/export/internal.h"

/* --- Weights that no f16 can hold --------------------------------------------------------------
 */

enum { CHUNK = 1 << 16 };
#define LARGEST_F16 65504.0f /* what is below 65520 is rounded to it */

static lt_status check_param(const lt_model *model, const lt_param *param, float *values,
                             lt_err *err)
{
    const lt_backend *backend = model->backend;
    int64_t count = param->shape[0] * (param->ndim == 2 ? param->shape[1] : 1);
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t some = lt_min_i64(CHUNK, count - first);
        const float *from = (const float *)param->weight.data + first;
        LT_TRY(backend->download(backend, values, from, (size_t)some * sizeof *values, err));
        for (int64_t i = 0; i < some; i++)
            if (!(fabsf(values[i]) < LARGEST_F16 + 16))
                return lt_fail(err, LT_ERR_NUMERIC,
                               "%s has the value %g, and f16 ends at %g: choose --dtype bf16 or "
                               "f32; nothing was written",
                               param->name, (double)values[i], (double)LARGEST_F16);
    }
    return LT_OK;
}

/* Models are opened in f32. */
static lt_status check_range(const lt_model *model, lt_dtype dtype, lt_err *err)
{
    if (dtype != LT_F16 || model->matrix_dtype != LT_F32) return LT_OK;
    float *values = malloc(CHUNK * sizeof *values);
    lt_status status = values ? LT_OK : lt_fail_nomem(err, CHUNK * sizeof *values, "weights");
    for (int i = 0; i < model->own_param_count && status == LT_OK; i++)
        status = check_param(model, &model->params[i], values, err);
    free(values);
    return status;
}

/* --- The directory -----------------------------------------------------------------------------
 */

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
    LT_TRY(lt_model_save_sharded(job->opened->model, directory, s->dtype, s->max_shard_bytes, err));
    LT_TRY(lt_export_go_on(job, err));
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
    LT_TRY(check_range(job->opened->model, s->dtype, err));
    LT_TRY(lt_export_check_space(job, parameters * lt_dtype_size(s->dtype), err));
    LT_TRY_GOTO(status, lt_new_directory_begin(&directory, s->output, err), done);
    LT_TRY_GOTO(status, write_files(job, directory.temporary, err), done);
    status = lt_new_directory_commit(&directory, s->force, err);
done:
    if (status != LT_OK) lt_new_directory_abort(&directory);
    return status;
}
