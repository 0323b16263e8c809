/* Hand-written matchers for the regular expressions that the supported models cut their text with.
 * Each takes the first word of a text. The alternatives of an expression are tried in its order,
 * and a greedy repetition gives back what its look-ahead asks for, so the words are those of the
 * expression. */
#include <string.h>

#include "data_pipeline/tokenizer_internal.h"

#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_PATTERN                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2_PATTERN                                                    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *pattern;
    lt_pretokenizer_kind kind;
} known[] = {
    {GPT2_PATTERN, LT_SPLIT_GPT2},
    {LLAMA3_PATTERN, LT_SPLIT_LLAMA3},
    {QWEN2_PATTERN, LT_SPLIT_QWEN2},
};

bool lt_split_kind_of_regex(const char *pattern, lt_pretokenizer_kind *out)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(pattern, known[i].pattern) == 0) {
            *out = known[i].kind;
            return true;
        }
    }
    return false;
}

const char *lt_split_regex(lt_pretokenizer_kind kind)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].kind == kind) return known[i].pattern;
    return NULL;
}

typedef const unsigned char *cursor;

enum { NOT_OTHER = LT_CLASS_LETTER | LT_CLASS_NUMBER | LT_CLASS_SPACE };

/* Past all characters that have one of the classes. */
static cursor skip_class(cursor p, cursor end, unsigned classes)
{
    size_t length;
    while (p < end && lt_class_at(p, &length) & classes)
        p += length;
    return p;
}

/* Past all characters that are neither letter, number nor space. */
static cursor skip_other(cursor p, cursor end)
{
    size_t length;
    while (p < end && !(lt_class_at(p, &length) & NOT_OTHER))
        p += length;
    return p;
}

/* `\s+(?!\S)|\s+`: all spaces but the last, which belongs to the word after it; all of them at the
 * end of the text; one when there is just one. */
static cursor skip_spaces(cursor p, cursor end)
{
    cursor begin = p, last = p;
    size_t length;
    while (p < end && lt_class_at(p, &length) & LT_CLASS_SPACE) {
        last = p;
        p += length;
    }
    return p == end || last == begin ? p : last;
}

/* Length of what follows an apostrophe in 's 't 're 've 'm 'll 'd, or 0. */
static size_t contraction(cursor p, cursor end, bool any_case)
{
    if (p == end) return 0;
    unsigned fold = any_case ? 0x20 : 0;
    unsigned first = p[0] | fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 1;
    if (end - p < 2) return 0;
    /* U+017F, the long s, is an s in lower case */
    if (any_case && p[0] == 0xC5 && p[1] == 0xBF) return 2;
    unsigned second = p[1] | fold;
    if ((first == 'r' || first == 'v') && second == 'e') return 2;
    return first == 'l' && second == 'l' ? 2 : 0;
}

static cursor next_gpt2(cursor p, cursor end)
{
    if (*p == '\'') {
        size_t length = contraction(p + 1, end, false);
        if (length) return p + 1 + length;
    }
    cursor word = p + (*p == ' ');
    if (word < end) {
        size_t length;
        unsigned class = lt_class_at(word, &length);
        if (class & LT_CLASS_LETTER) return skip_class(word + length, end, LT_CLASS_LETTER);
        if (class & LT_CLASS_NUMBER) return skip_class(word + length, end, LT_CLASS_NUMBER);
        if (!(class & LT_CLASS_SPACE)) return skip_other(word + length, end);
    }
    return skip_spaces(p, end);
}

static bool is_line_end(unsigned char byte)
{
    return byte == '\r' || byte == '\n';
}

/* `\s*[\r\n]+`: the spaces up to and with the last line end among them; NULL when there is none. */
static cursor skip_lines(cursor p, cursor end)
{
    cursor found = NULL;
    size_t length;
    while (p < end && lt_class_at(p, &length) & LT_CLASS_SPACE) {
        bool line_end = is_line_end(*p);
        p += length;
        if (line_end) found = p;
    }
    return found;
}

static cursor skip_digits(cursor p, cursor end, int limit)
{
    size_t length;
    for (int i = 0; i < limit && p < end && lt_class_at(p, &length) & LT_CLASS_NUMBER; i++)
        p += length;
    return p;
}

static cursor next_llama3(cursor p, cursor end, int digits)
{
    if (*p == '\'') {
        size_t length = contraction(p + 1, end, true);
        if (length) return p + 1 + length;
    }
    size_t length, next;
    unsigned class = lt_class_at(p, &length);
    if (class & LT_CLASS_LETTER) return skip_class(p + length, end, LT_CLASS_LETTER);
    if (class & LT_CLASS_NUMBER) return skip_digits(p, end, digits);
    cursor word = p + length; /* any one character may lead a word, but a line end */
    if (!is_line_end(*p) && word < end && lt_class_at(word, &next) & LT_CLASS_LETTER)
        return skip_class(word + next, end, LT_CLASS_LETTER);
    word = p + (*p == ' ');
    cursor other = skip_other(word, end);
    if (other > word) {
        while (other < end && is_line_end(*other))
            other++;
        return other;
    }
    cursor lines = skip_lines(p, end);
    return lines ? lines : skip_spaces(p, end);
}

size_t lt_split_next(lt_pretokenizer_kind kind, const char *text, size_t size)
{
    cursor p = (cursor)text, end = p + size;
    switch (kind) {
    case LT_SPLIT_GPT2:
        return (size_t)(next_gpt2(p, end) - p);
    case LT_SPLIT_LLAMA3:
        return (size_t)(next_llama3(p, end, 3) - p);
    case LT_SPLIT_QWEN2:
        return (size_t)(next_llama3(p, end, 1) - p);
    case LT_PRETOKENIZER_PREFIX_SPACE:
    case LT_PRETOKENIZER_METASPACE:
        break;
    }
    return size;
}
