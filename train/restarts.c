#include "train/restarts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/checkpoint.h"

#define LONGEST_DELAY 60.0 /* seconds */

static lt_status find_newest(const char *output, lt_newest_checkpoint *out, lt_err *err)
{
    int64_t *steps = NULL;
    size_t count = 0;
    lt_buffer path = {0};
    struct stat info;
    *out = (lt_newest_checkpoint){.step = -1};
    if (!output || !lt_is_directory(output)) return LT_OK;
    lt_status status = lt_checkpoint_steps(output, &steps, &count, err);
    if (status == LT_OK && count > 0) status = lt_checkpoint_path(output, steps[0], &path, err);
    if (path.data && stat(path.data, &info) == 0)
        *out = (lt_newest_checkpoint){steps[0], info.st_ino, info.st_mtim};
    lt_buffer_free(&path);
    free(steps);
    return status;
}

static bool is_same(const lt_newest_checkpoint *a, const lt_newest_checkpoint *b)
{
    return a->step == b->step && a->inode == b->inode && a->made.tv_sec == b->made.tv_sec &&
           a->made.tv_nsec == b->made.tv_nsec;
}

lt_status lt_restarts_begin(lt_restarts *restarts, const lt_train_settings *settings,
                            double backoff, lt_err *err)
{
    *restarts = (lt_restarts){.settings = settings, .backoff = backoff};
    LT_TRY(find_newest(settings->output, &restarts->at_start, err));
    restarts->at_failure = restarts->at_start;
    return LT_OK;
}

/* --force and --resume never are about what was there before the run. Once it has a checkpoint of
 * its own they would throw that away; before, what it left is only in the way. */
static void choose_options(const lt_restarts *r, lt_restart *out)
{
    const lt_train_settings *s = r->settings;
    bool has_own = !is_same(&r->at_failure, &r->at_start) && r->at_failure.step >= 0;
    bool anew = strcmp(s->resume, "never") == 0 && !s->force;
    out->resume = has_own || anew ? "auto" : NULL;
    out->no_force = has_own;
    out->step = has_own || strcmp(s->resume, "auto") == 0 ? r->at_failure.step : -1;
}

lt_status lt_restarts_next(lt_restarts *restarts, lt_restart *out, lt_err *err)
{
    lt_newest_checkpoint newest;
    *out = (lt_restart){.step = -1};
    LT_TRY(find_newest(restarts->settings->output, &newest, err));
    if (!is_same(&newest, &restarts->at_failure)) restarts->count = 0;
    restarts->at_failure = newest;
    if (restarts->count >= restarts->settings->max_restarts) return LT_OK;
    out->wanted = true;
    out->delay = fmin(restarts->backoff * exp2((double)restarts->count), LONGEST_DELAY);
    choose_options(restarts, out);
    restarts->count++;
    restarts->total++;
    return LT_OK;
}
