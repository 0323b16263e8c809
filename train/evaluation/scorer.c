/* Many log-likelihoods in few passes: requests become items, a sequence of tokens each of which
 * some are scored. */
#include "train/evaluation/scorer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/scorer_internal.h"

/* --- Creating --------------------------------------------------------------------------------- */

static lt_status set_max_length(lt_scorer *scorer, lt_err *err)
{
    const lt_model *model = scorer->assistant->model;
    int64_t limit =
        model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    int64_t *wanted = &scorer->settings.max_length;
    if (*wanted == 0) *wanted = limit;
    if (*wanted >= 1 && *wanted <= limit) return LT_OK;
    return lt_fail(
        err, LT_ERR_USAGE, "a length of %lld tokens is not possible: the model sees %lld%s",
        (long long)*wanted, (long long)limit,
        lt_adapter_virtual_tokens(model->active) > 0 ? " behind the adapter's virtual tokens" : "");
}

lt_status lt_scorer_create(const lt_assistant *assistant, const lt_scorer_settings *settings,
                           lt_scorer **out, lt_err *err)
{
    const lt_model *model = assistant->model;
    lt_scorer *scorer = calloc(1, sizeof *scorer);
    lt_status status;
    *out = NULL;
    if (!scorer) return lt_fail_nomem(err, sizeof *scorer, "a scorer");
    scorer->assistant = assistant;
    scorer->settings = *settings;
    LT_TRY_GOTO(status, set_max_length(scorer, err), done);
    scorer->memory = model->backend->available_memory(model->backend) / 2;
    LT_TRY_GOTO(status, lt_text_reader_init(&scorer->reader, assistant, err), done);
    *out = scorer;
    return LT_OK;
done:
    lt_scorer_free(scorer);
    return status;
}

void lt_scorer_free(lt_scorer *scorer)
{
    if (!scorer) return;
    lt_batch_room_free(&scorer->room);
    lt_text_reader_free(&scorer->reader);
    free(scorer);
}

/* --- Items ------------------------------------------------------------------------------------ */

static lt_status name_request(const lt_score_run *r, int64_t request, lt_err *err)
{
    if (r->where[request]) return lt_fail_context(err, "%s", r->where[request]);
    return lt_fail_context(err, "request %lld", (long long)request + 1);
}

static lt_status begin_run(lt_score_run *r, int64_t count)
{
    size_t n = (size_t)count;
    r->first_item = calloc(n + 1, sizeof *r->first_item);
    r->left = calloc(n + 1, sizeof *r->left);
    r->cut = calloc(n + 1, sizeof *r->cut);
    r->where = calloc(n + 1, sizeof *r->where);
    if (r->first_item && r->left && r->cut && r->where) return LT_OK;
    return lt_fail_nomem(r->err, (n + 1) * 3 * sizeof *r->left, "requests");
}

static void end_run(lt_score_run *r)
{
    lt_ids_free(&r->ids);
    free(r->items);
    free(r->first_item);
    free(r->left);
    free(r->cut);
    free((void *)r->where);
    free(r->order);
    free(r->sequences);
    free(r->rows);
}

/* Items of one request follow each other. Too long a sequence loses its beginning. */
static lt_status add_item(lt_score_run *r, lt_score_item new_item)
{
    int64_t longest = r->scorer->settings.max_length + 1;
    int64_t cut = lt_max_i64(new_item.count - longest, 0);
    new_item.offset += (size_t)cut;
    new_item.count -= cut;
    if (new_item.mask) {
        new_item.mask += cut;
        new_item.scored = 0;
        for (int64_t i = 1; i < new_item.count; i++)
            new_item.scored += new_item.mask[i] != 0;
    }
    if (new_item.tokens) new_item.tokens += cut;
    new_item.scored = lt_min_i64(new_item.scored, new_item.count - 1);
    r->cut[new_item.request] += cut;
    if (new_item.scored < 1) return LT_OK;
    if (r->item_count == r->item_capacity) {
        int64_t capacity = r->item_capacity ? r->item_capacity * 2 : 256;
        lt_score_item *grown = realloc(r->items, (size_t)capacity * sizeof *grown);
        if (!grown) return lt_fail_nomem(r->err, (size_t)capacity * sizeof *grown, "requests");
        r->items = grown;
        r->item_capacity = capacity;
    }
    r->items[r->item_count++] = new_item;
    r->left[new_item.request]++;
    return LT_OK;
}

static lt_status add_windows(lt_score_run *r, int64_t request, const char *text)
{
    lt_text_reader *reader = &r->scorer->reader;
    int64_t longest = r->scorer->settings.max_length;
    size_t first = r->ids.count;
    if (reader->prefix < 0)
        return lt_fail(r->err, LT_ERR_USAGE,
                       "a text needs a token to stand in front, and the tokenizer names neither "
                       "bos_token nor eos_token");
    LT_TRY(lt_ids_push(&r->ids, reader->prefix, r->err));
    LT_TRY(lt_read_text(reader, text, strlen(text), &r->ids, r->err));
    int64_t count = (int64_t)(r->ids.count - first) - 1;
    for (int64_t i = 0; i < lt_rolling_window_count(count, longest); i++) {
        lt_rolling_window window = lt_rolling_window_at(count, longest, i);
        LT_TRY(add_item(r, (lt_score_item){.offset = first + (size_t)(window.begin + 1),
                                           .count = window.end - window.begin,
                                           .scored = window.predicted,
                                           .request = request}));
    }
    return LT_OK;
}

static lt_status add_pair(lt_score_run *r, int64_t request, const lt_score_request *pair)
{
    size_t first = r->ids.count;
    int64_t scored;
    LT_TRY(lt_read_pair(&r->scorer->reader, pair->context, pair->continuation, &r->ids, &scored,
                        r->err));
    if (scored < 1)
        return lt_fail(r->err, LT_ERR_FORMAT,
                       "the continuation \"%.60s\" adds no token to its context: the tokenizer "
                       "joins it with the end of the context, or it is empty",
                       pair->continuation);
    return add_item(r, (lt_score_item){.offset = first,
                                       .count = (int64_t)(r->ids.count - first),
                                       .scored = scored,
                                       .request = request});
}

/* A request's score, summed over its windows in their order. */
lt_status lt_hand_out_score(const lt_score_run *r, int64_t request)
{
    lt_score score = {.cut = r->cut[request]};
    for (int64_t i = r->first_item[request]; i < r->first_item[request + 1]; i++) {
        score.log_likelihood += r->items[i].log_likelihood;
        score.tokens += r->items[i].scored;
        score.correct += r->items[i].correct;
    }
    if (!isfinite(score.log_likelihood)) {
        lt_fail(r->err, LT_ERR_NUMERIC,
                "the log-likelihood is not finite: the model's weights or "
                "activations are broken");
        return name_request(r, request, r->err);
    }
    return r->on_score(r->context, request, &score, r->err);
}

static lt_status run_items(lt_score_run *r, int64_t requests)
{
    for (int64_t i = 0; i < requests; i++)
        if (r->left[i] == 0) LT_TRY(lt_hand_out_score(r, i));
    if (r->item_count == 0) return LT_OK;
    for (int64_t i = 0; i < r->item_count; i++) {
        lt_score_item *it = &r->items[i];
        if (!it->tokens) it->tokens = r->ids.data + it->offset;
    }
    LT_TRY(lt_choose_batch_limits(r));
    LT_TRY(lt_make_score_rows(r));
    return lt_run_score_rows(r);
}

/* --- Running ---------------------------------------------------------------------------------- */

lt_status lt_scorer_run(lt_scorer *scorer, const lt_score_request *requests, int64_t count,
                        lt_on_score on_score, void *context, lt_err *err)
{
    lt_score_run r = {.scorer = scorer, .on_score = on_score, .context = context, .err = err};
    lt_status status;
    LT_TRY_GOTO(status, begin_run(&r, count), done);
    for (int64_t i = 0; i < count; i++) {
        r.first_item[i] = r.item_count;
        r.where[i] = requests[i].where;
        status = requests[i].rolling ? add_windows(&r, i, requests[i].continuation)
                                     : add_pair(&r, i, &requests[i]);
        if (status != LT_OK) {
            status = name_request(&r, i, err);
            goto done;
        }
    }
    r.first_item[count] = r.item_count;
    status = run_items(&r, count);
done:
    end_run(&r);
    return status;
}

lt_status lt_scorer_run_ids(lt_scorer *scorer, const lt_score_ids *requests, int64_t count,
                            lt_on_score on_score, void *context, lt_err *err)
{
    lt_score_run r = {.scorer = scorer, .on_score = on_score, .context = context, .err = err};
    lt_status status;
    LT_TRY_GOTO(status, begin_run(&r, count), done);
    for (int64_t i = 0; i < count; i++) {
        r.first_item[i] = r.item_count;
        r.where[i] = requests[i].where;
        LT_TRY_GOTO(status,
                    add_item(&r, (lt_score_item){.tokens = requests[i].tokens,
                                                 .mask = requests[i].mask,
                                                 .count = requests[i].count,
                                                 .scored = requests[i].count - 1,
                                                 .request = i}),
                    done);
    }
    r.first_item[count] = r.item_count;
    status = run_items(&r, count);
done:
    end_run(&r);
    return status;
}
