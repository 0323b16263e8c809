/* What report.html shows, read back from log.jsonl: so a resumed run's report shows all of its
 * history. */
#ifndef LT_TRAIN_MONITOR_REPORT_DATA_H
#define LT_TRAIN_MONITOR_REPORT_DATA_H

#include <jansson.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/status.h"

typedef struct lt_point {
    double x, y; /* y may be NaN: a step whose value was not finite */
} lt_point;

/* Owns `points`; a zeroed one is empty. */
typedef struct lt_series {
    lt_point *points;
    size_t count, capacity;
} lt_series;

lt_status lt_series_push(lt_series *series, double x, double y, lt_err *err);
void lt_series_free(lt_series *series);

typedef struct lt_report_data {
    lt_series loss, grad_norm, learning_rate, tokens_per_second, accuracy; /* by step */
    lt_series eval_loss, eval_accuracy;
    lt_series resumes;                /* x: steps at which a later run took over; y: 0 */
    double seconds;                   /* of all runs together */
    double step_tokens, step_seconds; /* of the logged steps */
    json_t *start;                    /* events as logged: the last run's start, */
    json_t *end;                      /* its end or NULL while it goes on, */
    json_t *last_step;                /* NULL before the first logged step, */
    json_t *best_eval, *last_eval;
    json_t *messages, *saves, *samples; /* and arrays in order */
} lt_report_data;

/* Lines that are not events are passed over: the last one may be half-written. */
lt_status lt_report_data_load(const char *log_path, lt_report_data *out, lt_err *err);
void lt_report_data_free(lt_report_data *data);

/* A logged number: "NaN" and "Infinity" come back as such, a missing key as NaN. */
double lt_logged_number(const json_t *event, const char *key);
/* "" when missing. */
const char *lt_logged_text(const json_t *event, const char *key);

#endif
