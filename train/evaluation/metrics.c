/* What the metrics are called and how their samples become one number. */
#include "train/evaluation/metrics.h"

static const lt_metric_facts facts[LT_METRIC_COUNT] = {
    [LT_METRIC_ACC] = {"acc", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ACC_NORM] = {"acc_norm", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ACC_BYTES] = {"acc_bytes", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ACC_MUTUAL_INFO] = {"acc_mutual_info", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_MC2] = {"acc", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_EXACT_MATCH] = {"exact_match", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_F1] = {"f1", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ROUGE1] = {"rouge1", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ROUGE2] = {"rouge2", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ROUGEL] = {"rougeL", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_ROUGELSUM] = {"rougeLsum", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_BLEU] = {"bleu", LT_AGGREGATE_BLEU, 10, true, false, false},
    [LT_METRIC_PERPLEXITY] = {"perplexity", LT_AGGREGATE_EXP_MINUS_MEAN, 1, false, false, false},
    [LT_METRIC_WORD_PERPLEXITY] = {"word_perplexity", LT_AGGREGATE_EXP_MINUS_RATIO, 2, false, false,
                                   false},
    [LT_METRIC_BYTE_PERPLEXITY] = {"byte_perplexity", LT_AGGREGATE_EXP_MINUS_RATIO, 2, false, false,
                                   false},
    [LT_METRIC_BITS_PER_BYTE] = {"bits_per_byte", LT_AGGREGATE_BITS, 2, false, false, false},
    [LT_METRIC_LOSS] = {"loss", LT_AGGREGATE_RATIO, 2, false, false, false},
    [LT_METRIC_TOKEN_PERPLEXITY] = {"token_perplexity", LT_AGGREGATE_EXP_RATIO, 2, false, false,
                                    false},
    [LT_METRIC_TOKEN_ACCURACY] = {"token_accuracy", LT_AGGREGATE_RATIO, 2, true, true, false},
    [LT_METRIC_REPETITION] = {"repetition", LT_AGGREGATE_MEAN, 1, false, true, false},
    [LT_METRIC_LENGTH] = {"length", LT_AGGREGATE_MEAN, 1, true, false, true},
    [LT_METRIC_STOPPED] = {"stopped", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_GROUNDED] = {"grounded", LT_AGGREGATE_MEAN, 1, true, true, false},
    [LT_METRIC_JUDGE] = {"judge", LT_AGGREGATE_MEAN, 1, true, true, false},
};

const lt_metric_facts *lt_metric_of(lt_metric metric)
{
    return &facts[metric];
}
