/* Character classes and UTF-8. The classes live in one byte per code point, filled at first use
 * from committed ranges; text touches only a few pages of it. */
#include <pthread.h>
#include <string.h>

#include "data_pipeline/tokenizer_internal.h"
#include "data_pipeline/unicode_ranges.h"

unsigned char lt_unicode_class[LT_CODE_POINTS];

static void mark(const lt_code_range *ranges, size_t count, unsigned char flag)
{
    for (size_t i = 0; i < count; i++) {
        for (uint32_t c = ranges[i].first; c <= ranges[i].last; c++)
            lt_unicode_class[c] |= flag;
    }
}

#define MARK(ranges, flag) mark(ranges, sizeof(ranges) / sizeof *(ranges), flag)

static void fill_classes(void)
{
    MARK(lt_letter_ranges, LT_CLASS_LETTER);
    MARK(lt_number_ranges, LT_CLASS_NUMBER);
    MARK(lt_space_ranges, LT_CLASS_SPACE);
    MARK(lt_word_ranges, LT_CLASS_WORD);
    MARK(lt_nfc_active_ranges, LT_CLASS_NFC_ACTIVE);
    MARK(lt_nfc_first_ranges, LT_CLASS_NFC_FIRST);
}

void lt_unicode_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_classes);
}

/* Bytes that a lead byte asks for; 0 when it can not begin a character. */
static size_t sequence_length(unsigned char lead)
{
    if (lead < 0x80) return 1;
    if (lead < 0xC2) return 0; /* continuation bytes; C0 and C1 would be overlong */
    if (lead < 0xE0) return 2;
    if (lead < 0xF0) return 3;
    return lead < 0xF5 ? 4 : 0;
}

/* The second byte's range keeps out overlong forms, surrogates and what lies above U+10FFFF. */
static bool second_byte_fits(unsigned char lead, unsigned char second)
{
    unsigned char low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    return second >= low && second <= high;
}

/* How many of the bytes at `p` fit together as one character; *wanted: how many there should be. */
static size_t fitting_bytes(const unsigned char *p, size_t size, size_t *wanted)
{
    *wanted = sequence_length(p[0]);
    if (*wanted == 0) return 0;
    size_t fit = 1;
    while (fit < *wanted && fit < size &&
           (fit == 1 ? second_byte_fits(p[0], p[1]) : (p[fit] & 0xC0) == 0x80))
        fit++;
    return fit;
}

size_t lt_utf8_valid_prefix(const char *text, size_t size)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < size) {
        uint64_t word;
        while (i + sizeof word <= size) { /* eight ASCII bytes at a time */
            memcpy(&word, p + i, sizeof word);
            if (word & 0x8080808080808080u) break;
            i += sizeof word;
        }
        if (i == size) break;
        size_t wanted;
        if (fitting_bytes(p + i, size - i, &wanted) != wanted || wanted == 0) return i;
        i += wanted;
    }
    return size;
}

size_t lt_utf8_bad_length(const char *text, size_t size)
{
    size_t wanted;
    size_t fit = fitting_bytes((const unsigned char *)text, size, &wanted);
    if (wanted == 0) return 1;
    return fit == size && fit < wanted ? 0 : fit;
}

size_t lt_utf8_encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}
