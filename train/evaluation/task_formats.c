/* The formats of task files. A further one is a row here and a reader. */
#include <string.h>

#include "train/evaluation/task_format.h"

/* clang-format off */
#define METRICS(...)                                                            \
    .metrics = {__VA_ARGS__},                                                   \
    .metric_count = (int)(sizeof(lt_metric[]){__VA_ARGS__} / sizeof(lt_metric))
/* clang-format on */

static const lt_task_answers plain_answers = {.filters = {{.name = "none"}}};

static const lt_task_answers gsm8k_answers = {
    .stops = {"Question:", "</s>", "<|im_end|>"},
    .filters = {{.name = "strict-match", .pattern = "#### (\\-?[0-9\\.\\,]+)"},
                {.name = "flexible-extract",
                 .pattern = "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                 .last = true}},
    .ignore_case = true,
    .ignored_patterns = {",", "\\$", "(?s).*#### ", "\\.$"},
};

static const lt_task_answers triviaqa_answers = {
    .stops = {"\n", ".", ","},
    .filters = {{.name = "remove_whitespace", .pattern = "(?s)^\\s*(.*?)\\s*$"}},
    .ignore_case = true,
    .ignore_punctuation = true,
};

#define ARC_KEYS "question choices.text choices.label answerKey"

const lt_task_format lt_task_formats[] = {
    {.name = "multiple_choice",
     .keys = "query choices gold",
     .named_by_file = true,
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_multiple_choice,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM, LT_METRIC_ACC_BYTES, LT_METRIC_ACC_MUTUAL_INFO)},
    {.name = "loglikelihood",
     .keys = "context continuation",
     .named_by_file = true,
     .output = LT_TASK_LOGLIKELIHOOD,
     .read = lt_read_loglikelihood,
     METRICS(LT_METRIC_PERPLEXITY, LT_METRIC_ACC),
     .delimiter = ""},
    {.name = "generation",
     .keys = "prompt|messages references|reference",
     .named_by_file = true,
     .output = LT_TASK_GENERATE,
     .read = lt_read_generation,
     METRICS(LT_METRIC_EXACT_MATCH, LT_METRIC_F1, LT_METRIC_ROUGE1, LT_METRIC_ROUGE2,
             LT_METRIC_ROUGEL, LT_METRIC_ROUGELSUM, LT_METRIC_BLEU, LT_METRIC_REPETITION,
             LT_METRIC_LENGTH, LT_METRIC_STOPPED, LT_METRIC_GROUNDED),
     .answers = &plain_answers,
     .settle = lt_settle_generation},
    {.name = "perplexity",
     .keys = "text",
     .named_by_file = true,
     .output = LT_TASK_ROLLING,
     .read = lt_read_perplexity,
     METRICS(LT_METRIC_WORD_PERPLEXITY, LT_METRIC_BYTE_PERPLEXITY, LT_METRIC_BITS_PER_BYTE),
     .fixed_prompt = true},

    {.name = "hellaswag",
     .keys = "activity_label ctx_a ctx_b endings label",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_hellaswag,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM),
     .fewshot_spare = true},
    {.name = "arc",
     .keys = ARC_KEYS,
     .named_by_file = true,
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_arc,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM)},
    {.name = "arc_easy",
     .keys = ARC_KEYS,
     .named_only = true,
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_arc,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM)},
    {.name = "arc_challenge",
     .keys = ARC_KEYS,
     .named_only = true,
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_arc,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM)},
    {.name = "piqa",
     .keys = "goal sol1 sol2 label",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_piqa,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM),
     .fewshot_spare = true},
    {.name = "openbookqa",
     .keys = "question_stem choices.text choices.label answerKey",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_openbookqa,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM)},
    {.name = "sciq",
     .keys = "support question distractor1 distractor2 distractor3 correct_answer",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_sciq,
     METRICS(LT_METRIC_ACC, LT_METRIC_ACC_NORM)},
    {.name = "boolq",
     .keys = "passage question label|answer",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_boolq,
     METRICS(LT_METRIC_ACC),
     .fewshot_spare = true},
    {.name = "winogrande",
     .keys = "sentence option1 option2 answer",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_winogrande,
     METRICS(LT_METRIC_ACC),
     .fewshot_spare = true},
    {.name = "mmlu",
     .keys = "question choices answer subject",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_mmlu,
     METRICS(LT_METRIC_ACC),
     .fewshot_first = true},
    {.name = "truthfulqa_mc1",
     .keys = "question mc1_targets.choices mc1_targets.labels",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_truthfulqa_mc1,
     METRICS(LT_METRIC_ACC),
     .fixed_prompt = true},
    {.name = "truthfulqa_mc2",
     .keys = "question mc2_targets.choices mc2_targets.labels",
     .output = LT_TASK_MULTIPLE_CHOICE,
     .read = lt_read_truthfulqa_mc2,
     METRICS(LT_METRIC_MC2),
     .fixed_prompt = true},

    {.name = "lambada_openai",
     .keys = "text",
     .named_only = true,
     .output = LT_TASK_LOGLIKELIHOOD,
     .read = lt_read_lambada,
     METRICS(LT_METRIC_PERPLEXITY, LT_METRIC_ACC)},
    {.name = "gsm8k",
     .keys = "question answer",
     .output = LT_TASK_GENERATE,
     .read = lt_read_gsm8k,
     METRICS(LT_METRIC_EXACT_MATCH),
     .num_fewshot = 5,
     .answers = &gsm8k_answers},
    {.name = "triviaqa",
     .keys = "question answer answer.aliases",
     .output = LT_TASK_GENERATE,
     .read = lt_read_triviaqa,
     METRICS(LT_METRIC_EXACT_MATCH),
     .fewshot_spare = true,
     .answers = &triviaqa_answers},
    {.name = "wikitext",
     .keys = "page",
     .output = LT_TASK_ROLLING,
     .read = lt_read_wikitext,
     METRICS(LT_METRIC_WORD_PERPLEXITY, LT_METRIC_BYTE_PERPLEXITY, LT_METRIC_BITS_PER_BYTE),
     .fixed_prompt = true},
};
const int lt_task_format_count = sizeof lt_task_formats / sizeof *lt_task_formats;

const lt_task_format *lt_task_format_by_name(const char *name)
{
    for (int i = 0; i < lt_task_format_count; i++)
        if (strcmp(lt_task_formats[i].name, name) == 0) return &lt_task_formats[i];
    return NULL;
}

lt_status lt_task_format_names(lt_buffer *out, lt_err *err)
{
    for (int i = 0; i < lt_task_format_count; i++)
        LT_TRY(lt_buffer_printf(out, err, "%s%s", i ? ", " : "", lt_task_formats[i].name));
    return LT_OK;
}

/* --- By keys ---------------------------------------------------------------------------------- */

/* One word of `keys`: "label|answer". */
static bool has_any(const json_t *record, const char *word, size_t size)
{
    char path[64];
    for (const char *end = word + size; word < end;) {
        size_t length = strcspn(word, "| ");
        memcpy(path, word, length);
        path[length] = '\0';
        if (lt_task_find(record, path)) return true;
        word += length + 1;
    }
    return false;
}

/* How many words of `keys` the record has, when it has all; else 0. */
static int fit(const json_t *record, const char *keys)
{
    int count = 0;
    for (const char *word = keys; *word; count++) {
        size_t size = strcspn(word, " ");
        if (!has_any(record, word, size)) return 0;
        word += size + (word[size] == ' ');
    }
    return count;
}

static lt_status list_keys(const json_t *record, lt_buffer *out, lt_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)record, key, value)
    {
        if (out->size > 200) return lt_buffer_append_text(out, ", ...", err);
        LT_TRY(lt_buffer_printf(out, err, "%s%s", out->size ? ", " : "", key));
    }
    return LT_OK;
}

static lt_status fits_none(const json_t *record, const char *path, lt_err *err)
{
    lt_buffer keys = {0}, names = {0};
    lt_status status = list_keys(record, &keys, err);
    if (status == LT_OK) status = lt_task_format_names(&names, err);
    if (status == LT_OK)
        status =
            lt_fail(err, LT_ERR_USAGE,
                    "%s: no format of task files has the keys %s; name one, as FORMAT=FILE: %s",
                    path, lt_buffer_text(&keys), names.data);
    lt_buffer_free(&keys);
    lt_buffer_free(&names);
    return status;
}

/* A format whose keys are some of another one's gives way to it: GSM8K has "question" and "answer",
 * and so have others. */
lt_status lt_task_format_of(const json_t *record, const char *path, const lt_task_format **out,
                            lt_err *err)
{
    const lt_task_format *best = NULL, *other = NULL;
    int most = 0;
    for (int i = 0; i < lt_task_format_count; i++) {
        const lt_task_format *format = &lt_task_formats[i];
        int count = format->named_only ? 0 : fit(record, format->keys);
        if (count == 0 || count < most) continue;
        other = count == most ? format : NULL;
        if (count > most) best = format;
        most = count;
    }
    if (!best) return fits_none(record, path, err);
    if (other)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s: its keys are those of %s and of %s: name one, as %s=%s", path,
                       best->name, other->name, best->name, path);
    *out = best;
    return LT_OK;
}
