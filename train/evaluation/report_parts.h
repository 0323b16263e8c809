/* The parts of the evaluation report that have a file of their own. */
#ifndef LT_TRAIN_EVALUATION_REPORT_PARTS_H
#define LT_TRAIN_EVALUATION_REPORT_PARTS_H

#include "train/evaluation/results.h"
#include "train/monitor/page.h"

/* Answers side by side, or choices with their log-likelihoods: of a task, and when it was compared
 * of both models, what became worse first. Tasks that score whole texts have none. */
void lt_report_samples(lt_page *page, const lt_task_results *results,
                       const lt_task_comparison *comparison);

/* Values by category as bars. Nothing when there are no categories. */
void lt_report_bars(lt_page *page, const lt_task_results *results,
                    const lt_task_comparison *comparison);

/* The rows of a comparison, with their intervals drawn. */
void lt_report_comparison(lt_page *page, const lt_task_comparison *comparisons, int64_t count);

extern const char lt_evaluation_css[];

#endif
