/* Which rows of the table are trained, chosen by layer and by name, and the list of them for
 * people. */
#include <inttypes.h>
#include <string.h>

#include "base/regex.h"
#include "model/families/families.h"
#include "model/formats/layout.h"
#include "model/params.h"

/* Does the pattern occur in the row's own name or in one of its names in files? */
static lt_status row_matches(const lt_model *model, const lt_param *param, const lt_regex *regex,
                             bool *matches, lt_err *err)
{
    lt_param_layout layout = lt_param_layout_of(&model->config, param);
    LT_TRY(lt_regex_match(regex, param->name, matches, err));
    for (int part = 0; part < layout.parts && !*matches; part++) {
        char name[LT_FILE_NAME_SIZE];
        lt_layout_file_name(&layout, part, name);
        LT_TRY(lt_regex_match(regex, name, matches, err));
    }
    return LT_OK;
}

/* Rows that match become `trainable` or frozen; with `train` all others are frozen. */
static lt_status apply(lt_model *model, const char *pattern, const char *flag, bool train,
                       lt_err *err)
{
    lt_regex *regex = NULL;
    bool found = false;
    if (!pattern || !*pattern) return LT_OK;
    LT_TRY(lt_regex_compile(pattern, false, flag, &regex, err));
    lt_status status = LT_OK;
    for (int i = 0; i < model->param_count && status == LT_OK; i++) {
        lt_param *param = &model->params[i];
        bool matches = false;
        status = row_matches(model, param, regex, &matches, err);
        found = found || matches;
        param->trainable = param->trainable && matches == train;
    }
    lt_regex_free(regex);
    if (status != LT_OK || found) return status;
    return lt_fail(err, LT_ERR_USAGE,
                   "%s \"%.200s\" finds no parameter: names are like %s; lathe inspect lists them",
                   flag, pattern,
                   model->param_count > 2 ? model->params[2].name : model->params[0].name);
}

static lt_status choose(lt_model *model, const lt_trainable *what, lt_err *err)
{
    /* embeddings are layer -1: below every frozen block */
    for (int i = 0; i < model->param_count; i++)
        model->params[i].trainable =
            what->freeze_layers == 0 || model->params[i].layer >= what->freeze_layers;
    LT_TRY(apply(model, what->train, "--train", true, err));
    LT_TRY(apply(model, what->freeze, "--freeze", false, err));
    LT_TRY(lt_params_lay_out_gradients(model, err));
    if (model->gradient_count > 0) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "nothing is left to be trained: --train, --freeze and "
                   "--freeze-layers together freeze every parameter");
}

lt_status lt_model_set_trainable(lt_model *model, const lt_trainable *what, lt_err *err)
{
    int64_t layers = what->freeze_layers;
    if (model->gradients.base || model->adapter_count > 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "what is trained can only be chosen before adapters are added and memory "
                       "for gradients is allocated");
    if (layers < 0 || layers > model->config.num_hidden_layers)
        return lt_fail(err, LT_ERR_USAGE,
                       "%" PRId64 " layers can not be frozen: the model has %" PRId64 " of them",
                       layers, model->config.num_hidden_layers);
    lt_status status = choose(model, what, err);
    if (status == LT_OK) return LT_OK;
    for (int i = 0; i < model->param_count; i++) /* as the model was made */
        model->params[i].trainable = lt_model_is_trainable(model);
    (void)lt_params_lay_out_gradients(model, NULL);
    return status;
}

/* --- The inventory ---------------------------------------------------------------------------- */

/* A row's name is HEAD NUMBER TAIL, where the number is its block's. False: it stands for itself.
 */
static bool split_name(const lt_param *param, int64_t layers, int *head, const char **tail)
{
    char number[16];
    if (param->layer < 0 || param->layer >= layers) return false;
    snprintf(number, sizeof number, ".%d.", param->layer);
    const char *at = strstr(param->name, number);
    if (!at) return false;
    *head = (int)(at - param->name) + 1;
    *tail = at + strlen(number) - 1;
    return true;
}

static bool same_kind(const lt_param *a, const lt_param *b, int64_t layers)
{
    int head_a, head_b;
    const char *tail_a, *tail_b;
    return a->trainable == b->trainable && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof a->shape) == 0 &&
           split_name(a, layers, &head_a, &tail_a) && split_name(b, layers, &head_b, &tail_b) &&
           head_a == head_b && strncmp(a->name, b->name, (size_t)head_a) == 0 &&
           strcmp(tail_a, tail_b) == 0;
}

/* "0-3,7": blocks in which rows of the kind of params[first] are. Returns how many. */
static lt_status list_blocks(const lt_model *model, int first, int64_t *count, lt_buffer *out,
                             lt_err *err)
{
    int64_t layers = model->config.num_hidden_layers;
    int from = -1, last = -1;
    *count = 0;
    for (int i = first; i <= model->param_count; i++) {
        bool end = i == model->param_count;
        if (!end && !same_kind(&model->params[first], &model->params[i], layers)) continue;
        int layer = end ? -2 : model->params[i].layer;
        if (!end) ++*count;
        if (from >= 0 && layer != last + 1) {
            LT_TRY(lt_buffer_printf(out, err, out->size ? ",%d" : "%d", from));
            if (last > from) LT_TRY(lt_buffer_printf(out, err, "-%d", last));
            from = -1;
        }
        if (from < 0) from = layer;
        last = layer;
    }
    return LT_OK;
}

static bool is_first_of_kind(const lt_model *model, int index)
{
    for (int i = 0; i < index; i++)
        if (same_kind(&model->params[i], &model->params[index], model->config.num_hidden_layers))
            return false;
    return true;
}

static lt_status describe_kind(const lt_model *model, int first, lt_buffer *out, lt_err *err)
{
    const lt_param *p = &model->params[first];
    lt_buffer name = {0}, blocks = {0};
    int64_t count = 1;
    int head = 0;
    const char *tail = "";
    char shape[64];
    lt_status status = LT_OK;
    if (split_name(p, model->config.num_hidden_layers, &head, &tail)) {
        LT_TRY_GOTO(status, list_blocks(model, first, &count, &blocks, err), done);
        status = lt_buffer_printf(&name, err, "%.*s%s%s", head, p->name, blocks.data, tail);
    } else {
        status = lt_buffer_append_text(&name, p->name, err);
    }
    if (status != LT_OK) goto done;
    if (p->ndim == 2)
        snprintf(shape, sizeof shape, "[%" PRId64 ", %" PRId64 "]", p->shape[0], p->shape[1]);
    else
        snprintf(shape, sizeof shape, "[%" PRId64 "]", p->shape[0]);
    status = lt_buffer_printf(out, err, "%-52s %-16s %12" PRId64 "\n", name.data, shape,
                              count * p->shape[0] * (p->ndim == 2 ? p->shape[1] : 1));
done:
    lt_buffer_free(&name);
    lt_buffer_free(&blocks);
    return status;
}

lt_status lt_model_describe_trainable(const lt_model *model, lt_buffer *out, lt_err *err)
{
    for (int i = 0; i < model->param_count; i++) {
        if (!model->params[i].trainable || !is_first_of_kind(model, i)) continue;
        LT_TRY(describe_kind(model, i, out, err));
    }
    return LT_OK;
}
