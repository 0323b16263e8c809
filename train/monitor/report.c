/* report.html: made again from log.jsonl when something worth looking at has happened, written
 * aside and renamed, so that whoever has it open never sees half a page. */
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "train/monitor/report_data.h"
#include "train/monitor/report_page.h"
#include "train/train.h"

typedef struct report {
    lt_buffer log_path, page_path;
} report;

static lt_status render(const report *r, lt_err *err)
{
    lt_report_data data = {0};
    lt_buffer page = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_report_data_load(lt_buffer_text(&r->log_path), &data, err), done);
    LT_TRY_GOTO(status, lt_report_render(&data, &page, err), done);
    status = lt_write_file(lt_buffer_text(&r->page_path), page.data, page.size, err);
done:
    lt_report_data_free(&data);
    lt_buffer_free(&page);
    return status;
}

/* A report that can not be written now (no space, say) is tried again at the next event; the run
 * goes on. */
static void on_start(void *context, const lt_run_info *info)
{
    (void)info;
    render(context, NULL);
}

static void on_evaluation(void *context, const lt_eval_info *info)
{
    (void)info;
    render(context, NULL);
}

static void on_end(void *context, const lt_train_result *result)
{
    (void)result;
    render(context, NULL);
}

lt_status lt_report_open(const char *directory, lt_train_observer *out, lt_err *err)
{
    *out = (lt_train_observer){0};
    report *r = calloc(1, sizeof *r);
    if (!r) return lt_fail_nomem(err, sizeof *r, "the report");
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&r->log_path, directory, "log.jsonl", err), done);
    LT_TRY_GOTO(status, lt_path_join(&r->page_path, directory, "report.html", err), done);
    *out = (lt_train_observer){
        .context = r, .start = on_start, .evaluation = on_evaluation, .end = on_end};
done:
    if (status != LT_OK) {
        lt_train_observer broken = {.context = r};
        lt_report_close(&broken);
    }
    return status;
}

void lt_report_close(lt_train_observer *observer)
{
    report *r = observer->context;
    if (!r) return;
    lt_buffer_free(&r->log_path);
    lt_buffer_free(&r->page_path);
    free(r);
    *observer = (lt_train_observer){0};
}
