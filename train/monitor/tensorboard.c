/* TensorBoard events: a new file for each run in the output directory, never rewritten.
 *
 * TensorBoard merges the files of a directory. A resumed run's file opens with a session mark that
 * makes it forget what the dead run wrote after the checkpoint, so its curves have no doubles
 * either. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/fsio.h"
#include "train/monitor/append_file.h"
#include "train/monitor/tensorboard_format.h"
#include "train/train.h"

typedef struct tensorboard {
    lt_append_file file;
    lt_buffer records; /* of one event, written together */
} tensorboard;

static double wall_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void scalar(tensorboard *board, int64_t step, const char *tag, double value)
{
    lt_events_append_scalar(&board->records, wall_time(), step, tag, value, NULL);
}

static void flush(tensorboard *board)
{
    if (board->records.size > 0)
        lt_append_file_write(&board->file, board->records.data, board->records.size);
    lt_buffer_clear(&board->records);
}

static void on_start(void *context, const lt_run_info *info)
{
    tensorboard *board = context;
    if (info->first_step == 0) return;
    lt_events_append_session_start(&board->records, wall_time(), info->first_step + 1, NULL);
    flush(board);
}

static void on_step(void *context, const lt_step_info *info)
{
    tensorboard *board = context;
    if (!info->logging && info->taken) return;
    double tokens_per_second = info->seconds > 0 ? (double)info->input_tokens / info->seconds : 0;
    scalar(board, info->step, "train/loss", info->loss);
    scalar(board, info->step, "train/learning_rate", info->learning_rate);
    scalar(board, info->step, "train/grad_norm", info->gradient_norm);
    scalar(board, info->step, "train/epoch", info->epoch);
    scalar(board, info->step, "train/tokens_per_second", tokens_per_second);
    flush(board);
}

static void on_evaluation(void *context, const lt_eval_info *info)
{
    tensorboard *board = context;
    scalar(board, info->step, "eval/loss", info->loss);
    scalar(board, info->step, "eval/accuracy", info->accuracy);
    flush(board);
}

/* "events.out.tfevents.SECONDS.HOST.PID.NUMBER": TensorBoard reads a directory's files in the order
 * of their names, which the seconds make the order of time. NUMBER tells apart runs that one
 * process begins within a second. */
static lt_status open_new_file(const char *directory, lt_append_file *file, lt_err *err)
{
    char host[128] = "localhost", name[256];
    if (gethostname(host, sizeof host) != 0) snprintf(host, sizeof host, "localhost");
    host[sizeof host - 1] = '\0';
    lt_buffer path = {0};
    lt_status status = LT_OK;
    for (int number = 0;; number++) {
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.%s.%ld.%d", (long long)time(NULL),
                 host, (long)getpid(), number);
        LT_TRY_GOTO(status, lt_path_join(&path, directory, name, err), done);
        if (!lt_path_exists(lt_buffer_text(&path))) break;
    }
    status = lt_append_file_open(file, lt_buffer_text(&path), false, err);
done:
    lt_buffer_free(&path);
    return status;
}

lt_status lt_tensorboard_open(const char *directory, lt_train_observer *out, lt_err *err)
{
    *out = (lt_train_observer){0};
    tensorboard *board = calloc(1, sizeof *board);
    if (!board) return lt_fail_nomem(err, sizeof *board, "the TensorBoard writer");
    board->file.fd = -1;
    lt_status status;
    LT_TRY_GOTO(status, open_new_file(directory, &board->file, err), done);
    LT_TRY_GOTO(status, lt_events_append_version(&board->records, wall_time(), err), done);
    flush(board);
    *out = (lt_train_observer){
        .context = board, .start = on_start, .step = on_step, .evaluation = on_evaluation};
done:
    if (status != LT_OK) {
        lt_append_file_close(&board->file, NULL);
        lt_buffer_free(&board->records);
        free(board);
    }
    return status;
}

void lt_tensorboard_close(lt_train_observer *observer)
{
    tensorboard *board = observer->context;
    if (!board) return;
    lt_append_file_close(&board->file, NULL);
    lt_buffer_free(&board->records);
    free(board);
    *observer = (lt_train_observer){0};
}
