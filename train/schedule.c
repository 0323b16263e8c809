/* The learning rate as a pure function of the step: nothing to save, nothing to go wrong at a
 * resume. */
#include <math.h>

#include "train/train.h"

static double warm_up(const lt_schedule *s, int64_t step)
{
    return s->learning_rate * (double)(step + 1) / (double)s->warmup_steps;
}

/* From the peak to its floor as `share` goes from 1 to 0. */
static double between(const lt_schedule *s, double share)
{
    double floor = s->learning_rate * s->min_lr_ratio;
    return floor + (s->learning_rate - floor) * share;
}

/* How far `step` is on the way from `first` to `end`, in [0, 1]. */
static double progress(int64_t step, int64_t first, int64_t end)
{
    if (step <= first) return 0;
    if (step >= end) return 1;
    return (double)(step - first) / (double)(end - first);
}

double lt_schedule_learning_rate(const lt_schedule *s, int64_t step)
{
    if (step < s->warmup_steps) return warm_up(s, step);
    int64_t first = s->warmup_steps, end = s->total_steps;
    switch (s->kind) {
    case LT_SCHEDULER_CONSTANT:
        return s->learning_rate;
    case LT_SCHEDULER_LINEAR:
        return between(s, 1 - progress(step, first, end));
    case LT_SCHEDULER_COSINE:
        return between(s, 0.5 * (1 + cos(M_PI * progress(step, first, end))));
    case LT_SCHEDULER_WSD: {
        int64_t decay = llround(s->decay_ratio * (double)end);
        if (end - decay > first) first = end - decay;
        return between(s, 1 - progress(step, first, end));
    }
    }
    return s->learning_rate;
}
