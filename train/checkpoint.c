#include "train/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "train/state.h"
#include "train/train.h"

/* --- Finding and pruning -----------------------------------------------------------------------
 */

/* The step of a name "checkpoint-STEP", or -1. */
static int64_t step_of_name(const char *name)
{
    static const char prefix[] = "checkpoint-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t length = strspn(digits, "0123456789");
    bool plain = length > 0 && length < 19 && !digits[length] && (digits[0] != '0' || length == 1);
    return plain ? strtoll(digits, NULL, 10) : -1;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

lt_status lt_checkpoint_steps(const char *output, int64_t **steps, size_t *count, lt_err *err)
{
    lt_name_list names = {0};
    *steps = NULL;
    *count = 0;
    LT_TRY(lt_list_directory(output, &names, err));
    *steps = calloc(names.count + 1, sizeof **steps);
    for (size_t i = 0; i < names.count && *steps; i++) {
        int64_t step = step_of_name(names.names[i]);
        if (step >= 0) (*steps)[(*count)++] = step;
    }
    lt_name_list_free(&names);
    if (!*steps) return lt_fail_nomem(err, names.count * sizeof **steps, "a list of checkpoints");
    qsort(*steps, *count, sizeof **steps, descending);
    return LT_OK;
}

lt_status lt_checkpoint_path(const char *output, int64_t step, lt_buffer *path, lt_err *err)
{
    char name[40];
    snprintf(name, sizeof name, "checkpoint-%" PRId64, step);
    return lt_path_join(path, output, name, err);
}

/* Rank 0's `step`, or -1: there is no other, as a path for all; empty then. */
static lt_status share_path(const char *output, int64_t step, lt_status mine,
                            const lt_readers *readers, lt_buffer *path, lt_err *err)
{
    lt_buffer_clear(path);
    lt_status status = mine;
    if (status == LT_OK && step >= 0) status = lt_checkpoint_path(output, step, path, err);
    LT_TRY(lt_readers_agree(readers, status, err));
    return lt_readers_share(readers, path, err);
}

lt_status lt_checkpoint_latest(const char *output, const lt_readers *readers, lt_buffer *path,
                               lt_buffer *problems, lt_err *err)
{
    int64_t *steps = NULL;
    size_t count = 0;
    lt_manifest manifest;
    lt_status status = LT_OK;
    if (lt_readers_lead(readers) && lt_path_exists(output))
        status = lt_checkpoint_steps(output, &steps, &count, err);
    for (size_t i = 0;; i++) {
        lt_err why = {0};
        int64_t step = i < count ? steps[i] : -1;
        LT_TRY_GOTO(status, share_path(output, step, status, readers, path, err), done);
        if (path->size == 0) break;
        if (lt_checkpoint_verify(path->data, readers, &manifest, &why) == LT_OK) break;
        status = lt_buffer_printf(problems, err, "%s\n", why.message);
    }
done:
    free(steps);
    return status;
}

/* Under a temporary name first, so that a process killed half-way leaves no damaged checkpoint but
 * something that the next run clears away. */
static lt_status remove_checkpoint(const char *path, lt_err *err)
{
    lt_buffer temporary = {0};
    lt_status status = lt_buffer_printf(&temporary, err, "%s.tmp-%ld-0", path, (long)getpid());
    if (status == LT_OK)
        status = rename(path, temporary.data) == 0
                     ? lt_remove_tree(temporary.data, err)
                     : lt_fail(err, LT_ERR_IO, "%s can not be removed: %s", path, strerror(errno));
    lt_buffer_free(&temporary);
    return status;
}

lt_status lt_checkpoint_prune(const char *output, int64_t newest, int64_t best, int64_t limit,
                              lt_err *err)
{
    int64_t *steps, kept = 0;
    size_t count;
    lt_buffer path = {0};
    lt_status status = lt_checkpoint_steps(output, &steps, &count, err);
    for (size_t i = 0; i < count && status == LT_OK && limit > 0; i++) {
        /* those beyond `newest` are of a run that was taken back to an earlier step: it will come
         * by them again */
        if (steps[i] > newest || ++kept <= limit || steps[i] == best) continue;
        LT_TRY_GOTO(status, lt_checkpoint_path(output, steps[i], &path, err), done);
        if (lt_is_checkpoint(path.data)) status = remove_checkpoint(path.data, err);
    }
done:
    lt_buffer_free(&path);
    free(steps);
    return status;
}

/* --- lathe inspect -----------------------------------------------------------------------------
 */

static void print_state(const char *path, const lt_train_state *s, const lt_manifest *m, FILE *out)
{
    fprintf(out, "checkpoint   %s\n", path);
    fprintf(out, "step         %" PRId64 " of %" PRId64 "\n", s->step, s->total_steps);
    fprintf(out, "train loss   %.4f\n", s->train_loss);
    fprintf(out, "eval loss    %.4f (best %.4f at step %" PRId64 ")\n", s->eval_loss, s->best_loss,
            s->best_step);
    fprintf(out, "tokens       %" PRId64 " read, %" PRId64 " trained on\n", s->input_tokens,
            s->trained_tokens);
    fprintf(out, "skipped      %" PRId64 " steps whose loss or gradient was not finite\n",
            s->skipped_steps);
    fprintf(out, "written by   lathe %s, %s, %" PRId64 " threads, %" PRId64 " process(es)\n",
            m->lathe_version, m->backend, m->threads, m->world_size);
}

lt_status lt_inspect_checkpoint(const char *path, FILE *out, lt_err *err)
{
    lt_buffer file = {0};
    json_t *document = NULL;
    lt_train_state state;
    lt_manifest manifest;
    const lt_readers readers = {.threads = omp_get_max_threads()};
    lt_status status;
    LT_TRY_GOTO(status, lt_manifest_read(path, &manifest, err), done);
    LT_TRY_GOTO(status, lt_path_join(&file, path, LT_TRAINER_STATE_FILE, err), done);
    LT_TRY_GOTO(status, lt_json_load(file.data, &document, err), done);
    LT_TRY_GOTO(
        status,
        lt_train_state_from_json(json_object_get(document, "lathe"), file.data, &state, err), done);
    print_state(path, &state, &manifest, out);
    status = lt_checkpoint_report(path, &readers, &manifest, out, err);
done:
    json_decref(document);
    lt_buffer_free(&file);
    return status;
}
