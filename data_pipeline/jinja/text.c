/* Strings and the pad that they are put together on. */
#include <string.h>

#include "data_pipeline/jinja/values.h"
#include "data_pipeline/tokenizer_internal.h"

enum { BYTES_PER_STEP = 64 };

jinja_pad lt_jinja_begin(jinja_render *r)
{
    jinja_pad pad = {.start = r->text.size, .outer = r->string_start};
    r->string_start = pad.start;
    return pad;
}

/* Room for `size` more bytes, within the limits. */
static lt_status reserve(jinja_render *r, size_t size)
{
    size_t limit = (size_t)r->limits.output, used = r->text.size - r->string_start;
    if (used > limit || size > limit - used)
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a text would be longer than %zu bytes", limit);
    LT_TRY(lt_jinja_spend(r, size / BYTES_PER_STEP));
    LT_TRY(lt_buffer_reserve(&r->text, size, r->err));
    return lt_buffer_reserve(&r->origin, size, r->err);
}

lt_status lt_jinja_put(jinja_render *r, const jinja_string *string)
{
    if (string->size == 0) return LT_OK;
    if (!string->origin) return lt_jinja_put_bytes(r, string->bytes, string->size, string->uniform);
    LT_TRY(reserve(r, string->size));
    LT_TRY(lt_buffer_append(&r->text, string->bytes, string->size, r->err));
    return lt_buffer_append(&r->origin, string->origin, string->size, r->err);
}

lt_status lt_jinja_put_bytes(jinja_render *r, const char *bytes, size_t size, uint8_t origin)
{
    if (size == 0) return LT_OK;
    LT_TRY(reserve(r, size));
    LT_TRY(lt_buffer_append(&r->text, bytes, size, r->err));
    memset(r->origin.data + r->origin.size, origin, size);
    r->origin.size += size;
    return LT_OK;
}

/* Whether all of `size` bytes are the same. */
static bool is_uniform(const char *bytes, size_t size)
{
    return size == 0 || memcmp(bytes, bytes + 1, size - 1) == 0;
}

static lt_status copy(jinja_render *r, const void *bytes, size_t size, void *out)
{
    char *copied;
    LT_TRY(lt_jinja_alloc(r, size, 1, &copied));
    if (size) memcpy(copied, bytes, size);
    memcpy(out, &copied, sizeof copied);
    return LT_OK;
}

lt_status lt_jinja_end(jinja_render *r, jinja_pad pad, jinja_value *out)
{
    jinja_string *string;
    size_t size = r->text.size - pad.start;
    const char *text = size ? r->text.data + pad.start : "";
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *string, &string));
    LT_TRY(copy(r, text, size, &string->bytes));
    string->size = size;
    string->length = lt_jinja_length(text, size);
    if (size) {
        const char *origin = r->origin.data + pad.start;
        string->uniform = (uint8_t)origin[0];
        if (!is_uniform(origin, size)) LT_TRY(copy(r, origin, size, &string->origin));
    }
    r->text.size = r->origin.size = pad.start;
    r->string_start = pad.outer;
    *out = lt_jinja_string(string);
    return LT_OK;
}

lt_status lt_jinja_new_string(jinja_render *r, const char *bytes, size_t size, jinja_value *out)
{
    jinja_string *string;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *string, &string));
    LT_TRY(copy(r, bytes, size, &string->bytes));
    string->size = size;
    string->length = lt_jinja_length(bytes, size);
    *out = lt_jinja_string(string);
    return LT_OK;
}

lt_status lt_jinja_cut(jinja_render *r, const jinja_string *string, size_t from, size_t to,
                       jinja_value *out)
{
    jinja_string *part;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *part, &part));
    *part = *string;
    part->bytes += from;
    if (part->origin) part->origin += from;
    part->size = to - from;
    bool ascii = string->length == string->size;
    if (!ascii) LT_TRY(lt_jinja_spend(r, part->size / BYTES_PER_STEP));
    part->length = ascii ? part->size : lt_jinja_length(part->bytes, part->size);
    *out = lt_jinja_string(part);
    return LT_OK;
}

size_t lt_jinja_length(const char *bytes, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return count;
}

size_t lt_jinja_offset(const jinja_string *string, size_t index)
{
    if (string->length == string->size) return index;
    size_t at = 0;
    for (; at < string->size; at++) {
        if (((unsigned char)string->bytes[at] & 0xC0) == 0x80) continue;
        if (index-- == 0) break;
    }
    return at;
}

uint32_t lt_jinja_character(const jinja_string *string, size_t at, size_t *size)
{
    return lt_utf8_decode((const unsigned char *)string->bytes + at, size);
}

uint8_t lt_jinja_origin(const jinja_string *string, size_t at)
{
    return string->origin ? string->origin[at] : string->uniform;
}

bool lt_jinja_same(const jinja_string *a, const jinja_string *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

bool lt_jinja_is(const jinja_string *string, const char *text)
{
    return string->size == strlen(text) && memcmp(string->bytes, text, string->size) == 0;
}

/* Python's str.isspace, which is a little more than Unicode's White_Space. */
bool lt_jinja_is_space(uint32_t c)
{
    if (c < 128) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t lt_jinja_find(const jinja_string *string, const jinja_string *needle, size_t from, size_t to,
                     bool last)
{
    if (to - from < needle->size) return SIZE_MAX;
    const char *text = string->bytes;
    if (!last) {
        const char *found = needle->size
                                ? memmem(text + from, to - from, needle->bytes, needle->size)
                                : text + from;
        return found ? (size_t)(found - text) : SIZE_MAX;
    }
    for (size_t at = to - needle->size + 1; at-- > from;) {
        if (memcmp(text + at, needle->bytes, needle->size) == 0) return at;
    }
    return SIZE_MAX;
}

lt_status lt_jinja_escape(jinja_render *r, const jinja_string *string, jinja_value *out)
{
    static const char special[] = "&<>'\"";
    static const char *const escapes[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t i = 0; i < string->size; i++) {
        uint8_t origin = lt_jinja_origin(string, i);
        const char *found = string->bytes[i] ? strchr(special, string->bytes[i]) : NULL;
        const char *text = found && !string->safe ? escapes[found - special] : &string->bytes[i];
        LT_TRY(lt_jinja_put_bytes(r, text, text == &string->bytes[i] ? 1 : strlen(text), origin));
    }
    LT_TRY(lt_jinja_end(r, pad, out));
    jinja_string *escaped;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *escaped, &escaped));
    *escaped = *out->string;
    escaped->safe = true;
    *out = lt_jinja_string(escaped);
    return LT_OK;
}
