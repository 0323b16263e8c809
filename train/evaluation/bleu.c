/* The counts of BLEU (Papineni et al., 2002) for one answer, and the score of summed counts, as
 * sacrebleu 2.6.0 has them: tokenizer 13a, exponential smoothing. */
#include "train/evaluation/bleu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/words.h"

enum { MAX_ORDER = 4 };

/* --- Tokenizer 13a ---------------------------------------------------------------------------- */

/* sacrebleu's regular expressions speak of single ASCII characters and of what is not one of them,
 * so going byte by byte through UTF-8 gives what they give. */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Stands alone everywhere: ASCII punctuation but ' , - . */
static bool is_symbol(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
           (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

static bool is_stop(char c)
{
    return c == '.' || c == ',';
}

static lt_status append_char(lt_buffer *out, char c, lt_err *err)
{
    return lt_buffer_append(out, &c, 1, err);
}

/* Appends the text with every `from` replaced. */
static lt_status replace_all(lt_buffer *text, const char *from, const char *to, lt_err *err)
{
    lt_buffer out = {0};
    lt_status status = LT_OK;
    const char *at = lt_buffer_text(text), *found;
    while (status == LT_OK && (found = strstr(at, from))) {
        status = lt_buffer_append(&out, at, (size_t)(found - at), err);
        if (status == LT_OK) status = lt_buffer_append_text(&out, to, err);
        at = found + strlen(from);
    }
    if (status == LT_OK) status = lt_buffer_append_text(&out, at, err);
    lt_buffer_free(text);
    *text = out;
    return status;
}

/* ([symbol]) -> " \1 " */
static lt_status part_symbols(const char *in, lt_buffer *out, lt_err *err)
{
    for (; *in; in++) {
        if (is_symbol(*in))
            LT_TRY(lt_buffer_printf(out, err, " %c ", *in));
        else
            LT_TRY(append_char(out, *in, err));
    }
    return LT_OK;
}

/* ([^0-9])([.,]) -> "\1 \2 " */
static lt_status part_stops_after_words(const char *in, lt_buffer *out, lt_err *err)
{
    for (; *in; in++) {
        LT_TRY(append_char(out, *in, err));
        if (is_digit(*in) || !is_stop(in[1])) continue;
        LT_TRY(lt_buffer_printf(out, err, " %c ", in[1]));
        in++;
    }
    return LT_OK;
}

/* ([.,])([^0-9]) -> " \1 \2" */
static lt_status part_stops_before_words(const char *in, lt_buffer *out, lt_err *err)
{
    for (; *in; in++) {
        bool parted = is_stop(*in) && in[1] && !is_digit(in[1]);
        if (!parted) {
            LT_TRY(append_char(out, *in, err));
            continue;
        }
        LT_TRY(lt_buffer_printf(out, err, " %c %c", in[0], in[1]));
        in++;
    }
    return LT_OK;
}

/* ([0-9])(-) -> "\1 \2 " */
static lt_status part_dashes(const char *in, lt_buffer *out, lt_err *err)
{
    for (; *in; in++) {
        LT_TRY(append_char(out, *in, err));
        if (!is_digit(*in) || in[1] != '-') continue;
        LT_TRY(lt_buffer_append_text(out, " - ", err));
        in++;
    }
    return LT_OK;
}

/* str.rstrip() */
static void trim_end(lt_buffer *text)
{
    size_t end = 0, size;
    for (const char *at = lt_buffer_text(text); *at; at += size) {
        bool space = lt_is_space(lt_character_at(at, &size));
        if (!space) end = (size_t)(at - text->data) + size;
    }
    if (text->data) text->data[text->size = end] = '\0';
}

static lt_status unescape(lt_buffer *text, lt_err *err)
{
    static const char *const replacements[][2] = {
        {"<skipped>", ""}, {"-\n", ""},   {"\n", " "},   {"&quot;", "\""},
        {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"},
    };
    for (size_t i = 0; i < sizeof replacements / sizeof *replacements; i++)
        LT_TRY(replace_all(text, replacements[i][0], replacements[i][1], err));
    return LT_OK;
}

lt_status lt_bleu_tokenize(const char *text, lt_buffer *out, lt_err *err)
{
    static lt_status (*const passes[])(const char *, lt_buffer *, lt_err *) = {
        part_symbols, part_stops_after_words, part_stops_before_words, part_dashes};
    lt_buffer line = {0}, next = {0};
    lt_status status;
    LT_TRY_GOTO(status, lt_buffer_append_text(&line, text, err), done);
    trim_end(&line);
    LT_TRY_GOTO(status, unescape(&line, err), done);
    LT_TRY_GOTO(status, lt_buffer_printf(&next, err, " %s ", lt_buffer_text(&line)), done);
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        lt_buffer swap = line;
        line = next;
        next = swap;
        lt_buffer_clear(&next);
        LT_TRY_GOTO(status, passes[i](lt_buffer_text(&line), &next, err), done);
    }
    status = lt_buffer_append_text(out, lt_buffer_text(&next), err);
done:
    lt_buffer_free(&line);
    lt_buffer_free(&next);
    return status;
}

/* --- Counts ----------------------------------------------------------------------------------- */

static lt_status number_tokens(lt_word_table *table, const char *text, lt_ids *out, lt_err *err)
{
    lt_buffer tokens = {0};
    lt_status status = lt_bleu_tokenize(text, &tokens, err);
    out->count = 0;
    if (status == LT_OK) status = lt_number_words(table, lt_buffer_text(&tokens), out, err);
    lt_buffer_free(&tokens);
    return status;
}

/* Counts of an n-gram in the answer against the most that any one reference has. */
static lt_status count_order(const lt_ids *answer, const lt_ids *references, size_t count, size_t n,
                             double *matches, double *total, lt_err *err)
{
    lt_word_table table = {0};
    lt_ids grams = {0}, other = {0};
    int64_t *said = NULL, *allowed = NULL, *here = NULL;
    lt_status status;
    LT_TRY_GOTO(status, lt_number_ngrams(&table, answer, n, &grams, err), done);
    size_t distinct = table.count; /* what only references have is of no account */
    LT_TRY_GOTO(status, lt_count_numbers(&grams, distinct, &said, err), done);
    allowed = calloc(distinct + 1, sizeof *allowed);
    if (!allowed) {
        status = lt_fail_nomem(err, (distinct + 1) * sizeof *allowed, "BLEU");
        goto done;
    }
    for (size_t r = 0; r < count; r++) {
        other.count = 0;
        LT_TRY_GOTO(status, lt_number_ngrams(&table, &references[r], n, &other, err), done);
        LT_TRY_GOTO(status, lt_count_numbers(&other, table.count, &here, err), done);
        for (size_t g = 0; g < distinct; g++)
            allowed[g] = lt_max_i64(allowed[g], here[g]);
        free(here);
        here = NULL;
    }
    *total = (double)grams.count;
    *matches = 0;
    for (size_t g = 0; g < distinct; g++)
        *matches += (double)lt_min_i64(said[g], allowed[g]);
done:
    free(here);
    free(said);
    free(allowed);
    lt_word_table_free(&table);
    lt_ids_free(&grams);
    lt_ids_free(&other);
    return status;
}

/* Of two as close the shorter one. */
static double closest_length(const lt_ids *answer, const lt_ids *references, size_t count)
{
    double length = (double)answer->count, best = (double)references[0].count;
    for (size_t r = 1; r < count; r++) {
        double other = (double)references[r].count;
        double gap = fabs(other - length), best_gap = fabs(best - length);
        if (gap < best_gap || (gap == best_gap && other < best)) best = other;
    }
    return best;
}

lt_status lt_bleu_counts(const char *answer, const char *const *references, size_t count,
                         double out[LT_METRIC_MAX_WIDTH], lt_err *err)
{
    lt_word_table table = {0};
    lt_ids said = {0};
    lt_status status;
    if (count == 0)
        return lt_fail(err, LT_ERR_FORMAT, "there is no reference to compare the answer with");
    lt_ids *wanted = calloc(count, sizeof *wanted);
    if (!wanted) return lt_fail_nomem(err, count * sizeof *wanted, "BLEU");
    LT_TRY_GOTO(status, number_tokens(&table, answer, &said, err), done);
    for (size_t r = 0; r < count; r++)
        LT_TRY_GOTO(status, number_tokens(&table, references[r], &wanted[r], err), done);
    for (size_t n = 1; n <= MAX_ORDER; n++)
        LT_TRY_GOTO(status,
                    count_order(&said, wanted, count, n, &out[n - 1], &out[MAX_ORDER + n - 1], err),
                    done);
    out[2 * MAX_ORDER] = (double)said.count;
    out[2 * MAX_ORDER + 1] = closest_length(&said, wanted, count);
done:
    for (size_t r = 0; r < count; r++)
        lt_ids_free(&wanted[r]);
    free(wanted);
    lt_ids_free(&said);
    lt_word_table_free(&table);
    return status;
}

/* --- Score ------------------------------------------------------------------------------------ */

/* Too short an answer costs; one without words is worth nothing. */
static double brevity_penalty(double length, double wanted)
{
    if (length >= wanted) return 1;
    return length > 0 ? exp(1 - wanted / length) : 0;
}

double lt_bleu_score(const double counts[LT_METRIC_MAX_WIDTH])
{
    const double *matches = counts, *totals = counts + MAX_ORDER;
    double logarithms = 0, smoothing = 1;
    if (matches[0] + matches[1] + matches[2] + matches[3] == 0) return 0;
    for (int n = 0; n < MAX_ORDER; n++) {
        if (totals[n] == 0) return 0; /* no answer has so many words */
        double precision = 100 * matches[n] / totals[n];
        if (matches[n] == 0) {
            smoothing *= 2;
            precision = 100 / (smoothing * totals[n]);
        }
        logarithms += log(precision);
    }
    double penalty = brevity_penalty(counts[2 * MAX_ORDER], counts[2 * MAX_ORDER + 1]);
    return penalty * exp(logarithms / MAX_ORDER);
}
