/* ROUGE-1, -2, -L and -Lsum (Lin, 2004) as google-research's rouge_score 0.1.2 computes them,
 * without stemmer. */
#include "train/evaluation/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/words.h"

static double f_measure(double precision, double recall)
{
    return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

/* 0 without words on either side. */
static double f_of_hits(int64_t hits, size_t answer, size_t reference)
{
    if (answer == 0 || reference == 0) return 0;
    return f_measure((double)hits / (double)answer, (double)hits / (double)reference);
}

/* --- Words ------------------------------------------------------------------------------------ */

/* A text, cut in sentences at its line breaks. */
typedef struct sentences {
    lt_ids words;
    lt_ids ends; /* of each sentence in `words` */
} sentences;

static void free_sentences(sentences *text)
{
    lt_ids_free(&text->words);
    lt_ids_free(&text->ends);
}

/* The words are runs of a-z and 0-9 in the text as str.lower() makes it. */
static lt_status number_line(lt_word_table *table, const char *line, lt_ids *out, lt_err *err)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    for (const char *at = line; *(at += strcspn(at, alphabet));) {
        int32_t number;
        size_t size = strspn(at, alphabet);
        LT_TRY(lt_word_number(table, at, size, &number, err));
        LT_TRY(lt_ids_push(out, number, err));
        at += size;
    }
    return LT_OK;
}

static lt_status read_sentences(lt_word_table *table, const char *text, sentences *out, lt_err *err)
{
    lt_buffer lower = {0};
    lt_status status;
    out->words.count = out->ends.count = 0;
    LT_TRY_GOTO(status, lt_append_lower(&lower, text, err), done);
    char *line = lower.data;
    while (line) {
        char *end = strchr(line, '\n');
        if (end) *end = '\0';
        LT_TRY_GOTO(status, number_line(table, line, &out->words, err), done);
        LT_TRY_GOTO(status, lt_ids_push(&out->ends, (int32_t)out->words.count, err), done);
        line = end ? end + 1 : NULL;
    }
done:
    lt_buffer_free(&lower);
    return status;
}

static lt_ids sentence(const sentences *text, size_t index)
{
    size_t begin = index ? (size_t)text->ends.data[index - 1] : 0;
    lt_ids part = {.count = (size_t)text->ends.data[index] - begin};
    if (part.count) part.data = text->words.data + begin;
    return part;
}

/* --- Scores ----------------------------------------------------------------------------------- */

static lt_status score_ngrams(const lt_ids *answer, const lt_ids *reference, size_t n, double *out,
                              lt_err *err)
{
    lt_word_table table = {0};
    lt_ids a = {0}, b = {0};
    int64_t common;
    lt_status status;
    LT_TRY_GOTO(status, lt_number_ngrams(&table, answer, n, &a, err), done);
    LT_TRY_GOTO(status, lt_number_ngrams(&table, reference, n, &b, err), done);
    LT_TRY_GOTO(status, lt_count_common(&a, &b, table.count, &common, err), done);
    *out = f_of_hits(common, a.count, b.count);
done:
    lt_word_table_free(&table);
    lt_ids_free(&a);
    lt_ids_free(&b);
    return status;
}

/* The table of longest common subsequences, of which only two rows are kept, and for the way back
 * one bit of each cell: whether its left neighbour has more than the one above. */
typedef struct lcs_table {
    int32_t *rows;       /* [2, columns + 1] */
    unsigned char *left; /* [reference, columns] bits; NULL when no way back is wanted */
} lcs_table;

static lt_status allocate_lcs(lcs_table *table, size_t reference, size_t columns, bool way_back,
                              lt_err *err)
{
    size_t cells = 0, bytes = 2 * (columns + 1) * sizeof *table->rows;
    *table = (lcs_table){.rows = calloc(1, bytes)};
    if (!table->rows) return lt_fail_nomem(err, bytes, "ROUGE-L");
    if (!way_back) return LT_OK;
    if (lt_mul_size(reference, columns, &cells)) table->left = calloc(1, cells / 8 + 1);
    if (table->left) return LT_OK;
    free(table->rows);
    return lt_fail_nomem(err, cells / 8 + 1, "ROUGE-Lsum");
}

static void free_lcs(lcs_table *table)
{
    free(table->rows);
    free(table->left);
}

/* Fills the table; returns the length. */
static int32_t fill_lcs(lcs_table *table, const lt_ids *reference, const lt_ids *answer)
{
    size_t columns = answer->count;
    int32_t *above = table->rows, *row = table->rows + columns + 1;
    for (size_t i = 0; i < reference->count; i++) {
        for (size_t j = 0; j < columns; j++) {
            if (reference->data[i] == answer->data[j])
                row[j + 1] = above[j] + 1;
            else
                row[j + 1] = row[j] > above[j + 1] ? row[j] : above[j + 1];
            size_t cell = i * columns + j;
            if (table->left && row[j] > above[j + 1])
                table->left[cell / 8] |= (unsigned char)(1 << cell % 8);
        }
        int32_t *swap = above;
        above = row;
        row = swap;
    }
    return above[columns];
}

static lt_status score_lcs(const lt_ids *answer, const lt_ids *reference, double *out, lt_err *err)
{
    lcs_table table;
    LT_TRY(allocate_lcs(&table, reference->count, answer->count, false, err));
    *out = f_of_hits(fill_lcs(&table, reference, answer), answer->count, reference->count);
    free_lcs(&table);
    return LT_OK;
}

/* Marks the reference's words that are in one longest common subsequence with the answer. Which
 * one: the way back goes left only where that has more. */
static lt_status mark_lcs(const lt_ids *reference, const lt_ids *answer, bool *marks, lt_err *err)
{
    lcs_table table;
    LT_TRY(allocate_lcs(&table, reference->count, answer->count, true, err));
    fill_lcs(&table, reference, answer);
    size_t i = reference->count, j = answer->count;
    while (i > 0 && j > 0) {
        size_t cell = (i - 1) * answer->count + j - 1;
        if (reference->data[i - 1] == answer->data[j - 1]) {
            marks[--i] = true;
            j--;
        } else if (table.left[cell / 8] >> cell % 8 & 1) {
            j--;
        } else {
            i--;
        }
    }
    free_lcs(&table);
    return LT_OK;
}

/* What one sentence of the reference has in common with any sentence of the answer. A word counts
 * no more often than the answer has it: what is counted is taken from `left`. */
static lt_status count_union(const lt_ids *reference, const sentences *answer, int64_t *left,
                             int64_t *hits, lt_err *err)
{
    bool *marks = calloc(reference->count + 1, sizeof *marks);
    lt_status status = LT_OK;
    if (!marks) return lt_fail_nomem(err, reference->count + 1, "ROUGE-Lsum");
    for (size_t s = 0; s < answer->ends.count && status == LT_OK; s++) {
        lt_ids part = sentence(answer, s);
        status = mark_lcs(reference, &part, marks, err);
    }
    for (size_t i = 0; i < reference->count; i++) {
        int32_t word = reference->data[i];
        if (!marks[i] || left[word] == 0) continue;
        left[word]--;
        *hits += 1;
    }
    free(marks);
    return status;
}

static lt_status score_summary(const sentences *answer, const sentences *reference, size_t words,
                               double *out, lt_err *err)
{
    int64_t *left = NULL, hits = 0;
    lt_status status;
    LT_TRY_GOTO(status, lt_count_numbers(&answer->words, words, &left, err), done);
    for (size_t s = 0; s < reference->ends.count; s++) {
        lt_ids part = sentence(reference, s);
        LT_TRY_GOTO(status, count_union(&part, answer, left, &hits, err), done);
    }
    *out = f_of_hits(hits, answer->words.count, reference->words.count);
done:
    free(left);
    return status;
}

static lt_status score_one(const sentences *answer, const sentences *reference, size_t words,
                           lt_rouge *out, lt_err *err)
{
    LT_TRY(score_ngrams(&answer->words, &reference->words, 1, &out->rouge1, err));
    LT_TRY(score_ngrams(&answer->words, &reference->words, 2, &out->rouge2, err));
    LT_TRY(score_lcs(&answer->words, &reference->words, &out->rougeL, err));
    return score_summary(answer, reference, words, &out->rougeLsum, err);
}

lt_status lt_rouge_scores(const char *answer, const char *const *references, size_t count,
                          lt_rouge *out, lt_err *err)
{
    lt_word_table table = {0};
    sentences said = {0}, wanted = {0};
    lt_status status;
    *out = (lt_rouge){0};
    if (count == 0)
        return lt_fail(err, LT_ERR_FORMAT, "there is no reference to compare the answer with");
    LT_TRY_GOTO(status, read_sentences(&table, answer, &said, err), done);
    for (size_t i = 0; i < count; i++) {
        lt_rouge one;
        LT_TRY_GOTO(status, read_sentences(&table, references[i], &wanted, err), done);
        LT_TRY_GOTO(status, score_one(&said, &wanted, table.count, &one, err), done);
        out->rouge1 = fmax(out->rouge1, one.rouge1);
        out->rouge2 = fmax(out->rouge2, one.rouge2);
        out->rougeL = fmax(out->rougeL, one.rougeL);
        out->rougeLsum = fmax(out->rougeLsum, one.rougeLsum);
    }
done:
    lt_word_table_free(&table);
    free_sentences(&said);
    free_sentences(&wanted);
    return status;
}
