/* Normalisers: NFC, Prepend and Replace, in the order of the file. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/checked.h"
#include "data_pipeline/tokenizer_internal.h"

void lt_normalizer_free(lt_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        free(normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    free(normalizer->steps);
    *normalizer = (lt_normalizer){0};
}

size_t lt_normalizer_prepended(const lt_normalizer *normalizer)
{
    size_t bytes = 0;
    for (size_t i = 0; i < normalizer->count; i++) {
        if (normalizer->steps[i].kind == LT_NORMALIZER_PREPEND)
            bytes += normalizer->steps[i].content_size;
    }
    return bytes;
}

/* --- NFC --------------------------------------------------------------------------------------
 * Only runs of "active" characters are touched, with the character before them when it can take one
 * up. Every other character is a starter that stays as it is. This is fast, and leaves characters
 * that are newer than the reference library's Unicode version as that library leaves them, whatever
 * the version of utf8proc.
 */

/* Code points of one run. */
typedef struct code_points {
    int32_t *data;
    size_t count, capacity;
} code_points;

static lt_status code_points_reserve(code_points *points, size_t needed, lt_err *err)
{
    if (needed <= points->capacity) return LT_OK;
    size_t capacity = points->capacity ? points->capacity : 64, bytes;
    while (capacity < needed)
        capacity *= 2;
    if (!lt_mul_size(capacity, sizeof *points->data, &bytes))
        return lt_fail_nomem(err, needed, "normalisation");
    int32_t *data = realloc(points->data, bytes);
    if (!data) return lt_fail_nomem(err, bytes, "normalisation");
    points->data = data;
    points->capacity = capacity;
    return LT_OK;
}

static lt_status append_decomposed(code_points *points, uint32_t code_point, lt_err *err)
{
    enum { LONGEST = 8 }; /* canonical decompositions have at most 4 code points */
    LT_TRY(code_points_reserve(points, points->count + LONGEST, err));
    utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)code_point, points->data + points->count, LONGEST,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, NULL);
    if (count < 0 || count > LONGEST)
        return lt_fail(err, LT_ERR_FORMAT, "U+%04X has no usable decomposition", code_point);
    points->count += (size_t)count;
    return LT_OK;
}

static unsigned combining_class(int32_t code_point)
{
    return (unsigned)utf8proc_get_property(code_point)->combining_class;
}

/* Stable sort of marks[0..count) by combining class: by insertion when short, else by counting, so
 * that a text of nothing but marks takes linear time. */
static lt_status sort_marks(int32_t *marks, size_t count, lt_err *err)
{
    if (count <= 16) {
        for (size_t i = 1; i < count; i++) {
            int32_t mark = marks[i];
            size_t j = i;
            for (; j > 0 && combining_class(marks[j - 1]) > combining_class(mark); j--)
                marks[j] = marks[j - 1];
            marks[j] = mark;
        }
        return LT_OK;
    }
    size_t begin[257] = {0};
    for (size_t i = 0; i < count; i++)
        begin[(combining_class(marks[i]) & 0xFF) + 1]++;
    for (size_t i = 1; i < 257; i++)
        begin[i] += begin[i - 1];
    int32_t *sorted = malloc(count * sizeof *sorted);
    if (!sorted) return lt_fail_nomem(err, count * sizeof *sorted, "normalisation");
    for (size_t i = 0; i < count; i++)
        sorted[begin[combining_class(marks[i]) & 0xFF]++] = marks[i];
    memcpy(marks, sorted, count * sizeof *sorted);
    free(sorted);
    return LT_OK;
}

static lt_status reorder(code_points *points, lt_err *err)
{
    for (size_t i = 0; i < points->count;) {
        if (combining_class(points->data[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < points->count && combining_class(points->data[end]) != 0)
            end++;
        LT_TRY(sort_marks(points->data + i, end - i, err));
        i = end;
    }
    return LT_OK;
}

static lt_status append_run(code_points *points, const unsigned char *run, size_t size,
                            lt_buffer *out, lt_err *err)
{
    points->count = 0;
    for (size_t i = 0, length; i < size; i += length)
        LT_TRY(append_decomposed(points, lt_utf8_decode(run + i, &length), err));
    LT_TRY(reorder(points, err));
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(
        points->data, (utf8proc_ssize_t)points->count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (composed < 0) return lt_fail(err, LT_ERR_FORMAT, "a text can not be normalised");
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char bytes[4];
        size_t length = lt_utf8_encode((uint32_t)points->data[i], bytes);
        LT_TRY(lt_buffer_append(out, bytes, length, err));
    }
    return LT_OK;
}

/* Where the next active character is, at or after `i`. */
static size_t next_active(const unsigned char *p, size_t i, size_t size)
{
    while (i < size) {
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        size_t length;
        if (lt_class_at(p + i, &length) & LT_CLASS_NFC_ACTIVE) break;
        i += length;
    }
    return i;
}

static lt_status nfc(const char *text, size_t size, lt_buffer *out, lt_err *err)
{
    const unsigned char *p = (const unsigned char *)text;
    code_points points = {0};
    lt_status status = LT_OK;
    size_t done = 0; /* bytes already in `out` */
    for (size_t active = next_active(p, 0, size); active < size;
         active = next_active(p, done, size)) {
        size_t begin = active, end = active, length;
        if (begin > done) {
            const unsigned char *previous = lt_utf8_previous(p, p + begin);
            if (lt_class_at(previous, &length) & LT_CLASS_NFC_FIRST) begin = (size_t)(previous - p);
        }
        while (end < size && lt_class_at(p + end, &length) & LT_CLASS_NFC_ACTIVE)
            end += length;
        LT_TRY_GOTO(status, lt_buffer_append(out, text + done, begin - done, err), done);
        LT_TRY_GOTO(status, append_run(&points, p + begin, end - begin, out, err), done);
        done = end;
    }
    status = lt_buffer_append(out, text + done, size - done, err);
done:
    free(points.data);
    return status;
}

/* --- Replace ----------------------------------------------------------------------------------
 */

lt_status lt_replace_all(const char *text, size_t size, const char *pattern, size_t pattern_size,
                         const char *content, size_t content_size, lt_buffer *out, lt_err *err)
{
    const char *end = text + size;
    while (text < end) {
        const char *match = memmem(text, (size_t)(end - text), pattern, pattern_size);
        if (!match) break;
        LT_TRY(lt_buffer_append(out, text, (size_t)(match - text), err));
        LT_TRY(lt_buffer_append(out, content, content_size, err));
        text = match + pattern_size;
    }
    return lt_buffer_append(out, text, (size_t)(end - text), err);
}

/* --- All steps --------------------------------------------------------------------------------
 */

static lt_status apply(const lt_normalizer_step *step, const char *text, size_t size,
                       lt_buffer *out, lt_err *err)
{
    switch (step->kind) {
    case LT_NORMALIZER_NFC:
        return nfc(text, size, out, err);
    case LT_NORMALIZER_PREPEND:
        if (size > 0) LT_TRY(lt_buffer_append(out, step->content, step->content_size, err));
        return lt_buffer_append(out, text, size, err);
    case LT_NORMALIZER_REPLACE:
        return lt_replace_all(text, size, step->pattern, step->pattern_size, step->content,
                              step->content_size, out, err);
    }
    return LT_OK;
}

lt_status lt_normalize(const lt_normalizer *normalizer, const char *text, size_t size,
                       lt_buffer buffers[2], const char **out, size_t *out_size, lt_err *err)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        const lt_normalizer_step *step = &normalizer->steps[i];
        if (step->kind == LT_NORMALIZER_NFC &&
            next_active((const unsigned char *)text, 0, size) == size)
            continue; /* the usual case: nothing to do, and nothing copied */
        lt_buffer *target = &buffers[i & 1];
        if (target->data == text) target = &buffers[!(i & 1)];
        lt_buffer_clear(target);
        LT_TRY(apply(step, text, size, target, err));
        text = lt_buffer_text(target);
        size = target->size;
    }
    *out = text;
    *out_size = size;
    return LT_OK;
}
