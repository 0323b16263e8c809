#include "train/answer_text.h"

#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t without_end_space(const char *text, size_t size)
{
    while (size > 0 && is_space(text[size - 1]))
        size--;
    return size;
}

/* Bytes before the first stop text, or -1. */
static int64_t find_stop(const lt_stop_scanner *scanner)
{
    int64_t first = -1;
    for (int64_t i = 0; i < scanner->stop_text_count; i++) {
        const char *stop = scanner->stop_texts[i];
        const char *found = memmem(scanner->held.data, scanner->held.size, stop, strlen(stop));
        int64_t at = found ? found - scanner->held.data : -1;
        if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    return first;
}

/* How many of the last bytes could be the beginning of a stop text. */
static size_t possible_stop(const lt_stop_scanner *scanner)
{
    size_t most = 0, size = scanner->held.size;
    for (int64_t i = 0; i < scanner->stop_text_count; i++) {
        const char *stop = scanner->stop_texts[i];
        size_t length = strlen(stop) - 1 < size ? strlen(stop) - 1 : size;
        for (; length > most; length--) {
            if (memcmp(scanner->held.data + size - length, stop, length) == 0) most = length;
        }
    }
    return most;
}

/* Moves the first `size` bytes of what is held to `out`. */
static lt_status release(lt_stop_scanner *scanner, size_t size, lt_buffer *out, lt_err *err)
{
    if (size == 0) return LT_OK;
    LT_TRY(lt_buffer_append(out, scanner->held.data, size, err));
    scanner->held.size -= size;
    memmove(scanner->held.data, scanner->held.data + size, scanner->held.size + 1);
    return LT_OK;
}

lt_status lt_stop_scanner_feed(lt_stop_scanner *scanner, const char *text, size_t size,
                               lt_buffer *out, lt_err *err)
{
    if (scanner->stopped || size == 0) return LT_OK;
    LT_TRY(lt_buffer_append(&scanner->held, text, size, err));
    int64_t stop = find_stop(scanner);
    scanner->stopped = stop >= 0;
    size_t sure = scanner->stopped ? (size_t)stop : scanner->held.size - possible_stop(scanner);
    if (scanner->trim_end) sure = without_end_space(scanner->held.data, sure);
    LT_TRY(release(scanner, sure, out, err));
    if (scanner->stopped) lt_buffer_clear(&scanner->held);
    return LT_OK;
}

lt_status lt_stop_scanner_finish(lt_stop_scanner *scanner, lt_buffer *out, lt_err *err)
{
    size_t size = scanner->held.size;
    if (scanner->trim_end) size = without_end_space(scanner->held.data, size);
    LT_TRY(release(scanner, size, out, err));
    lt_buffer_clear(&scanner->held);
    scanner->stopped = true;
    return LT_OK;
}

void lt_stop_scanner_free(lt_stop_scanner *scanner)
{
    lt_buffer_free(&scanner->held);
}

bool lt_same_answer(const char *a, const char *b)
{
    while (is_space(*a))
        a++;
    while (is_space(*b))
        b++;
    size_t size = without_end_space(a, strlen(a));
    return size == without_end_space(b, strlen(b)) && memcmp(a, b, size) == 0;
}
