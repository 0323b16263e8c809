/* Answers made comparable: lm-eval's filters and the options of its exact_match. */
#include <stdlib.h>
#include <string.h>

#include "base/regex.h"
#include "train/evaluation/engine_internal.h"
#include "train/evaluation/words.h"

enum { MAX_IGNORED = sizeof((lt_task *)0)->ignored_patterns / sizeof(char *) };

struct lt_answer_rules {
    const lt_task *task;
    lt_regex *filters[LT_TASK_MAX_FILTERS]; /* NULL: the whole answer */
    lt_regex *ignored[MAX_IGNORED];
    int ignored_count;
    lt_text_span *groups; /* scratch: for the pattern with the most */
};

static lt_status compile(const char *pattern, const char *what, lt_regex **out, int *most_groups,
                         lt_err *err)
{
    LT_TRY(lt_regex_compile(pattern, false, what, out, err));
    int groups = lt_regex_group_count(*out);
    if (groups > *most_groups) *most_groups = groups;
    return LT_OK;
}

static lt_status compile_all(lt_answer_rules *rules, lt_err *err)
{
    const lt_task *task = rules->task;
    int groups = 0;
    for (int i = 0; i < task->filter_count; i++)
        if (task->filters[i].pattern)
            LT_TRY(compile(task->filters[i].pattern, task->filters[i].name, &rules->filters[i],
                           &groups, err));
    for (int i = 0; i < MAX_IGNORED && task->ignored_patterns[i]; i++)
        LT_TRY(compile(task->ignored_patterns[i], "an ignored pattern",
                       &rules->ignored[rules->ignored_count++], &groups, err));
    rules->groups = calloc((size_t)groups + 1, sizeof *rules->groups);
    return rules->groups ? LT_OK : lt_fail_nomem(err, 64, "filters");
}

lt_status lt_answer_rules_create(const lt_task *task, lt_answer_rules **out, lt_err *err)
{
    lt_answer_rules *rules = calloc(1, sizeof *rules);
    *out = NULL;
    if (!rules) return lt_fail_nomem(err, sizeof *rules, "filters");
    rules->task = task;
    lt_status status = compile_all(rules, err);
    if (status == LT_OK) {
        *out = rules;
        return LT_OK;
    }
    lt_answer_rules_free(rules);
    return lt_fail_context(err, "%s", task->name);
}

void lt_answer_rules_free(lt_answer_rules *rules)
{
    if (!rules) return;
    for (int i = 0; i < LT_TASK_MAX_FILTERS; i++)
        lt_regex_free(rules->filters[i]);
    for (int i = 0; i < MAX_IGNORED; i++)
        lt_regex_free(rules->ignored[i]);
    free(rules->groups);
    free(rules);
}

/* --- Matches ---------------------------------------------------------------------------------- */

/* Walks over matches as Python's re.findall and re.sub do: after an empty one the next has to be
 * another. */
typedef struct match_walk {
    const lt_regex *regex;
    const char *text;
    size_t size, at;
    bool was_empty;
    lt_text_span *groups;
} match_walk;

static lt_status next_match(match_walk *walk, bool *found, lt_err *err)
{
    LT_TRY(lt_regex_search(walk->regex, walk->text, walk->size, walk->at, walk->was_empty,
                           walk->groups, found, err));
    if (!*found) return LT_OK;
    walk->at = walk->groups[0].end;
    walk->was_empty = walk->groups[0].end == walk->groups[0].begin;
    return LT_OK;
}

/* What findall gives of a match: all of it, its one group, or of several the first with text in it.
 */
static bool choose_group(const match_walk *walk, lt_text_span *out)
{
    int groups = lt_regex_group_count(walk->regex);
    *out = walk->groups[groups == 0 ? 0 : 1];
    for (int i = 1; groups > 1 && i <= groups; i++) {
        *out = walk->groups[i];
        if (out->end > out->begin) return true;
    }
    return groups < 2;
}

lt_status lt_answer_filter(const lt_answer_rules *rules, int filter, const char *answer,
                           lt_buffer *out, lt_err *err)
{
    const lt_regex *regex = rules->filters[filter];
    if (!regex) return lt_buffer_append_text(out, answer, err);
    match_walk walk = {
        .regex = regex, .text = answer, .size = strlen(answer), .groups = rules->groups};
    lt_text_span chosen = {0};
    bool any = false, valid = false;
    for (;;) {
        bool found;
        LT_TRY(next_match(&walk, &found, err));
        if (!found) break;
        any = true;
        valid = choose_group(&walk, &chosen);
        if (!rules->task->filters[filter].last) break;
    }
    if (!any || !valid) return lt_buffer_append_text(out, "[invalid]", err);
    const char *text = answer + chosen.begin;
    size_t size = lt_size_without_trailing_space(text, chosen.end - chosen.begin);
    size_t start = lt_leading_space(text, size);
    return lt_buffer_append(out, text + start, size - start, err);
}

/* --- Exact match ------------------------------------------------------------------------------ */

static lt_status remove_matches(const lt_answer_rules *rules, const lt_regex *regex,
                                lt_buffer *text, lt_err *err)
{
    lt_buffer kept = {0};
    match_walk walk = {
        .regex = regex, .text = lt_buffer_text(text), .size = text->size, .groups = rules->groups};
    size_t copied = 0;
    lt_status status;
    for (;;) {
        bool found;
        LT_TRY_GOTO(status, next_match(&walk, &found, err), done);
        size_t end = found ? walk.groups[0].begin : text->size;
        LT_TRY_GOTO(status, lt_buffer_append(&kept, walk.text + copied, end - copied, err), done);
        if (!found) break;
        copied = walk.groups[0].end;
    }
    lt_buffer old = *text;
    *text = kept;
    kept = old;
done:
    lt_buffer_free(&kept);
    return status;
}

static lt_status lower(lt_buffer *text, lt_err *err)
{
    lt_buffer small = {0};
    lt_status status = lt_append_lower(&small, lt_buffer_text(text), err);
    lt_buffer_free(text);
    *text = small;
    return status;
}

static lt_status prepare(const lt_answer_rules *rules, const char *text, lt_buffer *out,
                         lt_err *err)
{
    LT_TRY(lt_buffer_append_text(out, text, err));
    for (int i = 0; i < rules->ignored_count; i++)
        LT_TRY(remove_matches(rules, rules->ignored[i], out, err));
    if (rules->task->ignore_case) LT_TRY(lower(out, err));
    if (rules->task->ignore_punctuation) lt_remove_punctuation(out);
    return LT_OK;
}

lt_status lt_answer_matches(const lt_answer_rules *rules, const char *answer,
                            const char *const *references, size_t count, double *out, lt_err *err)
{
    lt_buffer given = {0}, wanted = {0};
    lt_status status = prepare(rules, answer, &given, err);
    *out = 0;
    for (size_t i = 0; status == LT_OK && *out == 0 && i < count; i++) {
        lt_buffer_clear(&wanted);
        LT_TRY_GOTO(status, prepare(rules, references[i], &wanted, err), done);
        const char *reference = lt_buffer_text(&wanted);
        status = lt_exact_match(lt_buffer_text(&given), &reference, 1, rules->task->squad_normalise,
                                out, err);
    }
done:
    lt_buffer_free(&given);
    lt_buffer_free(&wanted);
    return status;
}
