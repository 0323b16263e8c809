/* The parts of BLEU that others need besides a sample's counts. */
#ifndef LT_TRAIN_EVALUATION_BLEU_H
#define LT_TRAIN_EVALUATION_BLEU_H

#include "base/buffer.h"
#include "base/status.h"
#include "train/evaluation/metrics.h"

/* Appends the text with white space between the tokens of 13a. */
lt_status lt_bleu_tokenize(const char *text, lt_buffer *out, lt_err *err);
/* Summed rows of lt_bleu_counts: in [0, 100]. */
double lt_bleu_score(const double counts[LT_METRIC_MAX_WIDTH]);

#endif
