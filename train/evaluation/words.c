/* Characters and words as Python has them (3.11, Unicode 14), and numbers of words. */
#include "train/evaluation/words.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#include "base/checked.h"

enum { CAPITAL_SIGMA = 0x3A3, FINAL_SIGMA = 0x3C2, CAPITAL_I_WITH_DOT = 0x130 };

/* --- Characters ------------------------------------------------------------------------------- */

uint32_t lt_character_at(const char *text, size_t *size)
{
    utf8proc_int32_t code = -1;
    /* a character has at most four bytes, and the text's NUL ends a broken one */
    utf8proc_ssize_t length =
        utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)strnlen(text, 4), &code);
    *size = length > 0 ? (size_t)length : 1;
    return length > 0 ? (uint32_t)code : UINT32_MAX;
}

bool lt_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return c == UINT32_MAX ? UTF8PROC_CATEGORY_CN : utf8proc_category((utf8proc_int32_t)c);
}

bool lt_is_alphanumeric(uint32_t c)
{
    utf8proc_category_t of = category(c);
    return (of >= UTF8PROC_CATEGORY_LU && of <= UTF8PROC_CATEGORY_LO) ||
           (of >= UTF8PROC_CATEGORY_ND && of <= UTF8PROC_CATEGORY_NO);
}

bool lt_next_word(const char **at, const char **word, size_t *size)
{
    const char *p = *at;
    size_t step;
    while (*p && lt_is_space(lt_character_at(p, &step)))
        p += step;
    *word = p;
    while (*p && !lt_is_space(lt_character_at(p, &step)))
        p += step;
    *size = (size_t)(p - *word);
    *at = p;
    return *size > 0;
}

size_t lt_leading_space(const char *text, size_t size)
{
    size_t at = 0, step;
    while (at < size && lt_is_space(lt_character_at(text + at, &step)))
        at += step;
    return at < size ? at : size;
}

size_t lt_size_without_trailing_space(const char *text, size_t size)
{
    while (size > 0) {
        size_t start = size - 1, step;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        if (!lt_is_space(lt_character_at(text + start, &step))) return size;
        size = start;
    }
    return 0;
}

static bool is_punctuation(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

void lt_remove_punctuation(lt_buffer *text)
{
    size_t kept = 0;
    for (size_t i = 0; i < text->size; i++)
        if (!is_punctuation(text->data[i])) text->data[kept++] = text->data[i];
    text->size = kept;
    if (text->data) text->data[kept] = '\0';
}

/* --- Lower case ------------------------------------------------------------------------------- */

/* Unicode's Cased, as far as it has to do with a sigma's neighbours. */
static bool is_cased(uint32_t c)
{
    utf8proc_category_t of = category(c);
    utf8proc_int32_t code = (utf8proc_int32_t)c;
    return of == UTF8PROC_CATEGORY_LU || of == UTF8PROC_CATEGORY_LL || of == UTF8PROC_CATEGORY_LT ||
           (c != UINT32_MAX && (utf8proc_tolower(code) != code || utf8proc_toupper(code) != code));
}

/* Unicode's Case_Ignorable: marks and the punctuation that stands within words. */
static bool is_case_ignorable(uint32_t c)
{
    static const uint32_t within_words[] = {'\'',   '.',    ':',    0xB7,   0x387,  0x55F,
                                            0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
                                            0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < sizeof within_words / sizeof *within_words; i++)
        if (c == within_words[i]) return true;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return false;
    }
}

/* A capital sigma at the end of a word has a small letter of its own. `before`: whether the last
 * character that is not ignorable is cased. */
static uint32_t lower_sigma(bool before, const char *rest)
{
    size_t size;
    while (*rest && is_case_ignorable(lt_character_at(rest, &size)))
        rest += size;
    bool after = *rest && is_cased(lt_character_at(rest, &size));
    return before && !after ? FINAL_SIGMA : CAPITAL_SIGMA + 0x20;
}

/* `c` ends before `rest`. */
static lt_status append_lower(lt_buffer *out, uint32_t c, bool after_cased, const char *rest,
                              lt_err *err)
{
    char bytes[8];
    if (c == CAPITAL_I_WITH_DOT) return lt_buffer_append_text(out, "i\xCC\x87", err);
    uint32_t lower = c == CAPITAL_SIGMA ? lower_sigma(after_cased, rest)
                                        : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    utf8proc_ssize_t length =
        utf8proc_encode_char((utf8proc_int32_t)lower, (utf8proc_uint8_t *)bytes);
    return lt_buffer_append(out, bytes, (size_t)length, err);
}

lt_status lt_append_lower_behind(lt_buffer *out, const char *text, size_t first, lt_err *err)
{
    bool after_cased = false;
    size_t size;
    for (const char *at = text; *at; at += size) {
        uint32_t c = lt_character_at(at, &size);
        if (at >= text + first)
            LT_TRY(c == UINT32_MAX ? lt_buffer_append(out, at, size, err)
                                   : append_lower(out, c, after_cased, at + size, err));
        if (!is_case_ignorable(c)) after_cased = is_cased(c);
    }
    return LT_OK;
}

lt_status lt_append_lower(lt_buffer *out, const char *text, lt_err *err)
{
    return lt_append_lower_behind(out, text, 0, err);
}

/* --- Numbers ---------------------------------------------------------------------------------- */

void lt_word_table_free(lt_word_table *table)
{
    lt_buffer_free(&table->bytes);
    free(table->ends);
    free(table->slots);
    *table = (lt_word_table){0};
}

static size_t begin_of(const lt_word_table *table, size_t number)
{
    return number ? table->ends[number - 1] : 0;
}

/* The slot that has the word, or the free one where it belongs. */
static int32_t *find_slot(const lt_word_table *table, const void *word, size_t size)
{
    size_t mask = table->slot_count - 1;
    for (size_t at = (size_t)XXH3_64bits(word, size) & mask;; at = (at + 1) & mask) {
        int32_t number = table->slots[at];
        if (number < 0) return &table->slots[at];
        size_t begin = begin_of(table, (size_t)number);
        if (table->ends[number] - begin == size &&
            memcmp(table->bytes.data + begin, word, size) == 0)
            return &table->slots[at];
    }
}

static lt_status grow(lt_word_table *table, lt_err *err)
{
    size_t slot_count = table->slot_count ? 2 * table->slot_count : 64;
    if (slot_count > INT32_MAX)
        return lt_fail(err, LT_ERR_LIMIT, "a text has too many different words to compare");
    size_t *ends = realloc(table->ends, slot_count / 2 * sizeof *ends);
    if (!ends) return lt_fail_nomem(err, slot_count / 2 * sizeof *ends, "the words of a text");
    table->ends = ends;
    int32_t *slots = malloc(slot_count * sizeof *slots);
    if (!slots) return lt_fail_nomem(err, slot_count * sizeof *slots, "the words of a text");
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    memset(slots, 0xFF, slot_count * sizeof *slots);
    for (size_t i = 0; i < table->count; i++) {
        size_t begin = begin_of(table, i);
        *find_slot(table, table->bytes.data + begin, ends[i] - begin) = (int32_t)i;
    }
    return LT_OK;
}

lt_status lt_word_number(lt_word_table *table, const void *word, size_t size, int32_t *out,
                         lt_err *err)
{
    if (2 * table->count >= table->slot_count) LT_TRY(grow(table, err));
    int32_t *slot = find_slot(table, word, size);
    if (*slot < 0) {
        LT_TRY(lt_buffer_append(&table->bytes, word, size, err));
        table->ends[table->count] = table->bytes.size;
        *slot = (int32_t)table->count++;
    }
    *out = *slot;
    return LT_OK;
}

lt_status lt_number_words(lt_word_table *table, const char *text, lt_ids *out, lt_err *err)
{
    const char *word;
    size_t size;
    int32_t number;
    while (lt_next_word(&text, &word, &size)) {
        LT_TRY(lt_word_number(table, word, size, &number, err));
        LT_TRY(lt_ids_push(out, number, err));
    }
    return LT_OK;
}

lt_status lt_number_ngrams(lt_word_table *table, const lt_ids *words, size_t n, lt_ids *out,
                           lt_err *err)
{
    int32_t number;
    for (size_t i = 0; i + n <= words->count; i++) {
        LT_TRY(lt_word_number(table, words->data + i, n * sizeof *words->data, &number, err));
        LT_TRY(lt_ids_push(out, number, err));
    }
    return LT_OK;
}

lt_status lt_count_numbers(const lt_ids *numbers, size_t limit, int64_t **out, lt_err *err)
{
    *out = calloc(limit + 1, sizeof **out);
    if (!*out) return lt_fail_nomem(err, (limit + 1) * sizeof **out, "counting words");
    for (size_t i = 0; i < numbers->count; i++)
        (*out)[numbers->data[i]]++;
    return LT_OK;
}

lt_status lt_count_common(const lt_ids *a, const lt_ids *b, size_t limit, int64_t *out, lt_err *err)
{
    int64_t *count_a = NULL, *count_b = NULL;
    lt_status status;
    *out = 0;
    LT_TRY_GOTO(status, lt_count_numbers(a, limit, &count_a, err), done);
    LT_TRY_GOTO(status, lt_count_numbers(b, limit, &count_b, err), done);
    for (size_t i = 0; i < limit; i++)
        *out += lt_min_i64(count_a[i], count_b[i]);
done:
    free(count_a);
    free(count_b);
    return status;
}
