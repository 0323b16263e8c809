/* Another model's opinion of answers, as the probability of a verdict. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/evaluation/engine_internal.h"

/* What a placeholder stands for; NULL: it is none. *size: of the placeholder itself. */
static const char *value_of(const char *at, const lt_judged *answer, size_t *size)
{
    const struct {
        const char *name, *value;
    } places[] = {{"{instruction}", answer->instruction},
                  {"{context}", answer->context},
                  {"{answer}", answer->answer},
                  {"{reference}", answer->reference}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        *size = strlen(places[i].name);
        if (strncmp(at, places[i].name, *size) == 0) return places[i].value ? places[i].value : "";
    }
    return NULL;
}

/* What is put in is not looked through again. */
static lt_status fill_rubric(const char *rubric, const lt_judged *answer, lt_buffer *out,
                             lt_err *err)
{
    for (const char *at = rubric; *at;) {
        size_t size;
        const char *value = value_of(at, answer, &size);
        if (value) {
            LT_TRY(lt_buffer_append_text(out, value, err));
        } else {
            size = 1 + strcspn(at + 1, "{");
            LT_TRY(lt_buffer_append(out, at, size, err));
        }
        at += size;
    }
    return LT_OK;
}

static lt_status keep(void *context, int64_t index, const lt_score *score, lt_err *err)
{
    double *values = context;
    (void)err;
    values[index] = score->log_likelihood;
    return LT_OK;
}

lt_status lt_judge_answers(const lt_judge *judge, lt_scorer *scorer, const lt_judged *answers,
                           int64_t count, double *out, lt_err *err)
{
    size_t n = (size_t)count;
    lt_buffer *texts = calloc(n + 1, sizeof *texts);
    lt_score_request *requests = calloc(2 * n + 1, sizeof *requests);
    double *values = calloc(2 * n + 1, sizeof *values);
    lt_status status = LT_OK;
    if (!texts || !requests || !values) {
        status = lt_fail_nomem(err, n * 2 * sizeof *requests, "a judge's questions");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        LT_TRY_GOTO(status, fill_rubric(judge->rubric, &answers[i], &texts[i], err), done);
        const char *question = lt_buffer_text(&texts[i]);
        requests[2 * i] = (lt_score_request){
            .context = question, .continuation = judge->good, .where = answers[i].where};
        requests[2 * i + 1] = (lt_score_request){
            .context = question, .continuation = judge->bad, .where = answers[i].where};
    }
    status = lt_scorer_run(scorer, requests, 2 * count, keep, values, err);
    for (size_t i = 0; status == LT_OK && i < n; i++)
        out[i] = 1 / (1 + exp(values[2 * i + 1] - values[2 * i]));
    if (status != LT_OK && status != LT_ERR_INTERRUPTED) status = lt_fail_context(err, "the judge");
done:
    for (size_t i = 0; texts && i < n; i++)
        lt_buffer_free(&texts[i]);
    free(texts);
    free(requests);
    free(values);
    return status;
}
