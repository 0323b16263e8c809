#include "base/checked.h"
#include "train/evaluation/scorer.h"

int64_t lt_rolling_window_count(int64_t count, int64_t max_length)
{
    return (count + max_length - 1) / max_length;
}

/* The first window is what fits; each further one predicts the next max_length tokens, of which
 * the last window has fewer and so sees more of what was before them. */
lt_rolling_window lt_rolling_window_at(int64_t count, int64_t max_length, int64_t index)
{
    int64_t predicted = index * max_length;
    int64_t end = lt_min_i64(count, predicted + max_length);
    return (lt_rolling_window){
        .begin = index == 0 ? -1 : end - max_length - 1, .end = end, .predicted = end - predicted};
}
