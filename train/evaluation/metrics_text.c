/* Metrics of one answer: SQuAD's F1 and exact match, and the checks that need no reference. */
#include "train/evaluation/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/answer_text.h"
#include "train/evaluation/words.h"

enum { REPEATED_WORDS = 4 }; /* a sequence this long is not repeated by accident */

static lt_status no_reference(lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "there is no reference to compare the answer with");
}

/* --- SQuAD ------------------------------------------------------------------------------------ */

/* Bytes of an article that stands here alone: \b(a|an|the)\b, the first \b given. The '_' that
 * also belongs to words is gone with the punctuation. */
static size_t article_at(const char *text)
{
    static const char *const articles[] = {"a", "an", "the"};
    for (size_t i = 0; i < sizeof articles / sizeof *articles; i++) {
        size_t length = strlen(articles[i]), size;
        if (strncmp(text, articles[i], length) == 0 &&
            !lt_is_alphanumeric(lt_character_at(text + length, &size)))
            return length;
    }
    return 0;
}

/* A space in place of each article. */
static lt_status append_without_articles(lt_buffer *out, const char *text, lt_err *err)
{
    bool in_word = false;
    for (size_t size; *text; text += size) {
        size_t article = in_word ? 0 : article_at(text);
        in_word = lt_is_alphanumeric(lt_character_at(text, &size));
        if (article > 0) {
            size = article;
            LT_TRY(lt_buffer_append_text(out, " ", err));
        } else {
            LT_TRY(lt_buffer_append(out, text, size, err));
        }
    }
    return LT_OK;
}

/* The words that are left when case, punctuation and articles do not count. */
static lt_status squad_words(lt_word_table *table, const char *text, lt_ids *out, lt_err *err)
{
    lt_buffer lower = {0}, bare = {0};
    lt_status status;
    out->count = 0;
    LT_TRY_GOTO(status, lt_append_lower(&lower, text, err), done);
    lt_remove_punctuation(&lower);
    LT_TRY_GOTO(status, append_without_articles(&bare, lt_buffer_text(&lower), err), done);
    status = lt_number_words(table, lt_buffer_text(&bare), out, err);
done:
    lt_buffer_free(&lower);
    lt_buffer_free(&bare);
    return status;
}

static double f1_of(int64_t common, size_t answer, size_t reference)
{
    if (common == 0) return 0;
    double precision = (double)common / (double)answer;
    double recall = (double)common / (double)reference;
    return 2 * precision * recall / (precision + recall);
}

static bool same_words(const lt_ids *a, const lt_ids *b)
{
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->data, b->data, a->count * sizeof *a->data) == 0);
}

/* Both of SQuAD's metrics, best over the references. */
static lt_status squad_scores(const char *answer, const char *const *references, size_t count,
                              double *f1, double *exact, lt_err *err)
{
    lt_word_table table = {0};
    lt_ids words = {0}, wanted = {0};
    lt_status status;
    *f1 = *exact = 0;
    if (count == 0) return no_reference(err);
    LT_TRY_GOTO(status, squad_words(&table, answer, &words, err), done);
    for (size_t i = 0; i < count; i++) {
        int64_t common;
        LT_TRY_GOTO(status, squad_words(&table, references[i], &wanted, err), done);
        LT_TRY_GOTO(status, lt_count_common(&words, &wanted, table.count, &common, err), done);
        *f1 = fmax(*f1, f1_of(common, words.count, wanted.count));
        if (same_words(&words, &wanted)) *exact = 1;
    }
done:
    lt_word_table_free(&table);
    lt_ids_free(&words);
    lt_ids_free(&wanted);
    return status;
}

lt_status lt_f1(const char *answer, const char *const *references, size_t count, double *out,
                lt_err *err)
{
    double exact;
    return squad_scores(answer, references, count, out, &exact, err);
}

lt_status lt_exact_match(const char *answer, const char *const *references, size_t count,
                         bool squad, double *out, lt_err *err)
{
    double f1;
    if (squad) return squad_scores(answer, references, count, &f1, out, err);
    *out = 0;
    if (count == 0) return no_reference(err);
    for (size_t i = 0; i < count; i++)
        if (lt_same_answer(answer, references[i])) *out = 1;
    return LT_OK;
}

/* --- Without a reference ---------------------------------------------------------------------- */

double lt_word_count(const char *text)
{
    const char *word;
    size_t size;
    double count = 0;
    while (lt_next_word(&text, &word, &size))
        count++;
    return count;
}

lt_status lt_repetition(const char *answer, double *out, lt_err *err)
{
    lt_word_table words = {0}, sequences = {0};
    lt_ids numbers = {0}, found = {0};
    lt_status status;
    *out = 0;
    LT_TRY_GOTO(status, lt_number_words(&words, answer, &numbers, err), done);
    LT_TRY_GOTO(status, lt_number_ngrams(&sequences, &numbers, REPEATED_WORDS, &found, err), done);
    if (found.count > 0) *out = (double)(found.count - sequences.count) / (double)found.count;
done:
    lt_word_table_free(&words);
    lt_word_table_free(&sequences);
    lt_ids_free(&numbers);
    lt_ids_free(&found);
    return status;
}

/* Words that say how a sentence is built, not what it is about. */
static const char *const function_words[] = {
    "a",       "about",  "above",   "after", "again", "against", "all",   "also",   "although",
    "am",      "among",  "an",      "and",   "any",   "are",     "as",    "at",     "be",
    "because", "been",   "before",  "being", "below", "between", "both",  "but",    "by",
    "can",     "could",  "did",     "do",    "does",  "doing",   "down",  "during", "each",
    "either",  "else",   "ever",    "every", "few",   "for",     "from",  "had",    "has",
    "have",    "having", "he",      "her",   "here",  "hers",    "him",   "his",    "how",
    "however", "i",      "if",      "in",    "into",  "is",      "it",    "its",    "just",
    "may",     "me",     "might",   "mine",  "more",  "most",    "much",  "must",   "my",
    "neither", "no",     "nor",     "not",   "of",    "off",     "on",    "once",   "only",
    "or",      "other",  "our",     "ours",  "out",   "over",    "own",   "s",      "shall",
    "she",     "should", "since",   "so",    "some",  "such",    "t",     "than",   "that",
    "the",     "their",  "theirs",  "them",  "then",  "there",   "these", "they",   "this",
    "those",   "though", "through", "to",    "too",   "under",   "until", "up",     "upon",
    "us",      "very",   "was",     "we",    "were",  "what",    "when",  "where",  "whether",
    "which",   "while",  "who",     "whom",  "whose", "why",     "will",  "with",   "within",
    "without", "would",  "yes",     "yet",   "you",   "your",    "yours",
};

/* Numbers of the words of letters and digits, in small letters. */
static lt_status number_bare_words(lt_word_table *table, const char *text, lt_ids *out, lt_err *err)
{
    lt_buffer lower = {0};
    int32_t number;
    size_t size;
    lt_status status;
    LT_TRY_GOTO(status, lt_append_lower(&lower, text, err), done);
    for (const char *at = lt_buffer_text(&lower); *at;) {
        const char *word = at;
        while (*at && lt_is_alphanumeric(lt_character_at(at, &size)))
            at += size;
        if (at > word) {
            size_t length = (size_t)(at - word);
            LT_TRY_GOTO(status, lt_word_number(table, word, length, &number, err), done);
            LT_TRY_GOTO(status, lt_ids_push(out, number, err), done);
        }
        lt_character_at(at, &size);
        if (*at) at += size;
    }
done:
    lt_buffer_free(&lower);
    return status;
}

/* Numbers of the function words, which so come first in the table. */
static lt_status number_function_words(lt_word_table *table, lt_err *err)
{
    int32_t number;
    for (size_t i = 0; i < sizeof function_words / sizeof *function_words; i++)
        LT_TRY(lt_word_number(table, function_words[i], strlen(function_words[i]), &number, err));
    return LT_OK;
}

lt_status lt_groundedness(const char *answer, const char *context, double *out, lt_err *err)
{
    lt_word_table table = {0};
    lt_ids words = {0}, known = {0};
    int64_t *in_context = NULL, content = 0, grounded = 0;
    lt_status status;
    *out = 1;
    LT_TRY_GOTO(status, number_function_words(&table, err), done);
    int32_t first_content = (int32_t)table.count;
    LT_TRY_GOTO(status, number_bare_words(&table, context, &known, err), done);
    LT_TRY_GOTO(status, number_bare_words(&table, answer, &words, err), done);
    LT_TRY_GOTO(status, lt_count_numbers(&known, table.count, &in_context, err), done);
    for (size_t i = 0; i < words.count; i++) {
        if (words.data[i] < first_content) continue;
        content++;
        grounded += in_context[words.data[i]] > 0;
    }
    if (content > 0) *out = (double)grounded / (double)content;
done:
    free(in_context);
    lt_word_table_free(&table);
    lt_ids_free(&words);
    lt_ids_free(&known);
    return status;
}
