#include "cli/answering.h"

#include "cli/interrupt.h"

lt_status lt_cli_choose_answering(const lt_option_table *table, const lt_option_result *given,
                                  const lt_cli_answering *options, lt_answer_settings *out,
                                  lt_err *err)
{
    static const char *const names[] = {"temperature", "top-k", "top-p", "min-p"};
    bool sampling = false;
    for (int i = 0; i < 4; i++)
        sampling = sampling || lt_option_was_set(table, given, names[i]);
    if (options->greedy && sampling)
        return lt_fail(err, LT_ERR_USAGE, "--greedy excludes the sampling options");
    bool has_temperature = lt_option_was_set(table, given, "temperature");
    *out = (lt_answer_settings){.max_new_tokens = options->max_new_tokens,
                                .sampling = {.temperature = has_temperature ? options->temperature
                                                            : sampling      ? 1
                                                                            : 0,
                                             .top_k = options->top_k,
                                             .top_p = options->top_p,
                                             .min_p = options->min_p,
                                             .repetition_penalty = options->repetition_penalty,
                                             .seed = (uint64_t)options->seed},
                                .stop_texts = (const char *const *)options->stop.items,
                                .stop_text_count = (int64_t)options->stop.count,
                                .cancelled = &lt_interrupted};
    return LT_OK;
}
