/* Is what was written what was meant? Logits before and after, on ids drawn at random. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/export/internal.h"

enum { PROBE_ROWS = 2, PROBE_LENGTH = 32 };

static void fill_probe(const lt_model *model, int64_t length, int32_t *ids, int32_t *positions)
{
    for (int64_t i = 0; i < PROBE_ROWS * length; i++) {
        ids[i] = (int32_t)lt_random_below(1, 1, (uint64_t)i, (uint64_t)model->config.vocab_size);
        positions[i] = (int32_t)(i % length);
    }
}

lt_status lt_probe_logits(const lt_model *model, lt_logit_probe *out, lt_err *err)
{
    int32_t ids[PROBE_ROWS * PROBE_LENGTH], positions[PROBE_ROWS * PROBE_LENGTH];
    int32_t first_key[PROBE_ROWS * PROBE_LENGTH] = {0};
    int64_t length =
        model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    if (length > PROBE_LENGTH) length = PROBE_LENGTH;
    fill_probe(model, length, ids, positions);
    const lt_batch batch = {.rows = PROBE_ROWS,
                            .length = length,
                            .input_ids = ids,
                            .positions = positions,
                            .first_key = first_key};
    const lt_workspace_settings room = {.rows = PROBE_ROWS, .length = length};
    lt_workspace *workspace = NULL;
    out->count = PROBE_ROWS * length * model->config.vocab_size;
    out->logits = malloc((size_t)out->count * sizeof *out->logits);
    if (!out->logits)
        return lt_fail_nomem(err, (size_t)out->count * sizeof *out->logits, "the logits");
    lt_status status = lt_workspace_create(model, &room, &workspace, err);
    if (status == LT_OK) status = lt_model_logits(model, workspace, &batch, out->logits, err);
    lt_workspace_free(workspace);
    return status;
}

void lt_logit_probe_free(lt_logit_probe *probe)
{
    free(probe->logits);
    *probe = (lt_logit_probe){0};
}

double lt_logit_bound(lt_dtype dtype)
{
    return dtype == LT_F32 ? 1e-4 : 5e-2;
}

static lt_logit_difference measure(const lt_logit_probe *before, const lt_logit_probe *after)
{
    lt_logit_difference out = {0};
    double squares = 0, difference = 0;
    for (int64_t i = 0; i < before->count; i++) {
        double value = (double)before->logits[i], d = fabs(value - (double)after->logits[i]);
        if (!(d <= out.worst)) out.worst = d; /* NaN stays */
        out.largest = fmax(out.largest, fabs(value));
        squares += value * value;
        difference += d * d;
    }
    out.relative = squares > 0 ? sqrt(difference / squares) : sqrt(difference);
    return out;
}

lt_status lt_compare_logits(const lt_logit_probe *before, const lt_logit_probe *after, double bound,
                            const char *what, lt_logit_difference *out, lt_err *err)
{
    if (before->count != after->count)
        return lt_fail(err, LT_ERR_FORMAT, "%s has other sizes; nothing was written", what);
    *out = measure(before, after);
    if (out->relative <= bound) return LT_OK;
    return lt_fail(err, LT_ERR_NUMERIC,
                   "%s does not compute what its source does: the logits differ by %.2e of their "
                   "size, and at most %.0e was expected; nothing was written",
                   what, out->relative, bound);
}

lt_status lt_export_compare(lt_export_job *job, const lt_model *model, double bound, lt_err *err)
{
    lt_logit_probe after = {0};
    lt_logit_difference difference;
    lt_status status = lt_probe_logits(model, &after, err);
    if (status == LT_OK)
        status = lt_compare_logits(&job->before, &after, bound, "the export", &difference, err);
    lt_logit_probe_free(&after);
    LT_TRY(status);
    job->report->verified = true;
    job->report->logits_worst = difference.worst;
    job->report->logits_largest = difference.largest;
    job->report->logits_relative = difference.relative;
    job->report->bound = bound;
    return LT_OK;
}

lt_status lt_export_compare_tokenizer(const lt_export_job *job, lt_tokenizer *again, lt_err *err)
{
    const lt_tokenizer *own = job->opened->tokenizer;
    bool same =
        own && again ? strcmp(lt_tokenizer_hash(own), lt_tokenizer_hash(again)) == 0 : own == again;
    lt_tokenizer_free(again);
    return same ? LT_OK
                : lt_fail(err, LT_ERR_FORMAT,
                          "the tokenizer that was read back is not the one that was written; "
                          "nothing was written");
}
