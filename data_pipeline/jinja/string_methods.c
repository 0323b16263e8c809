/* The methods of str, by characters. What keeps characters keeps their origin. */
#include <string.h>

#include "data_pipeline/jinja/string_methods.h"

#define METHOD(name)                                                                         \
    static lt_status name(jinja_render *r, jinja_value self, const jinja_value *const *args, \
                          jinja_value *out)

/* What a text searched from its end costs: each place may be compared with the whole needle. */
static lt_status spend_on_search(jinja_render *r, size_t size, size_t needle)
{
    size_t product;
    if (__builtin_mul_overflow(size, needle, &product)) product = SIZE_MAX;
    return lt_jinja_spend(r, size / 256 + product / 4096);
}

/* --- strip --- */

static bool among(const jinja_string *chars, const char *character, size_t size)
{
    return memmem(chars->bytes, chars->size, character, size) != NULL;
}

static bool strips(const jinja_string *text, size_t at, size_t size, const jinja_string *chars)
{
    size_t unused;
    return chars ? among(chars, text->bytes + at, size)
                 : lt_jinja_is_space(lt_jinja_character(text, at, &unused));
}

static size_t character_before(const jinja_string *text, size_t at)
{
    do {
        at--;
    } while (((unsigned char)text->bytes[at] & 0xC0) == 0x80);
    return at;
}

lt_status lt_jinja_strip(jinja_render *r, const jinja_string *text, const jinja_string *chars,
                         bool left, bool right, jinja_value *out)
{
    size_t from = 0, to = text->size, size;
    size_t cost = chars ? chars->size / 64 : 0;
    while (left && from < to) {
        lt_jinja_character(text, from, &size);
        if (!strips(text, from, size, chars)) break;
        LT_TRY(lt_jinja_spend(r, cost));
        from += size;
    }
    while (right && to > from) {
        size_t before = character_before(text, to);
        if (!strips(text, before, to - before, chars)) break;
        LT_TRY(lt_jinja_spend(r, cost));
        to = before;
    }
    LT_TRY(lt_jinja_spend(r, (text->size - (to - from)) / 64));
    return lt_jinja_cut(r, text, from, to, out);
}

static lt_status strip(jinja_render *r, jinja_value self, const jinja_value *chars, bool left,
                       bool right, jinja_value *out)
{
    const jinja_string *set = NULL;
    if (chars && chars->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_string(r, chars, &set));
    return lt_jinja_strip(r, self.string, set, left, right, out);
}

METHOD(strip_)
{
    return strip(r, self, args[0], true, true, out);
}

METHOD(lstrip_)
{
    return strip(r, self, args[0], true, false, out);
}

METHOD(rstrip_)
{
    return strip(r, self, args[0], false, true, out);
}

METHOD(removeprefix_)
{
    const jinja_string *text = self.string, *prefix = NULL;
    LT_TRY(lt_jinja_arg_string(r, args[0], &prefix));
    bool has = prefix->size <= text->size && memcmp(text->bytes, prefix->bytes, prefix->size) == 0;
    return lt_jinja_cut(r, text, has ? prefix->size : 0, text->size, out);
}

METHOD(removesuffix_)
{
    const jinja_string *text = self.string, *suffix = NULL;
    LT_TRY(lt_jinja_arg_string(r, args[0], &suffix));
    bool has = suffix->size <= text->size &&
               memcmp(text->bytes + text->size - suffix->size, suffix->bytes, suffix->size) == 0;
    return lt_jinja_cut(r, text, 0, text->size - (has ? suffix->size : 0), out);
}

/* --- split --- */

static lt_status push_cut(jinja_render *r, jinja_growing *list, const jinja_string *text,
                          size_t from, size_t to)
{
    jinja_value part;
    LT_TRY(lt_jinja_spend(r, 1));
    LT_TRY(lt_jinja_cut(r, text, from, to, &part));
    return lt_jinja_push(r, list, part);
}

static size_t skip_space(const jinja_string *text, size_t at, bool space)
{
    size_t size;
    for (; at < text->size; at += size) {
        if (lt_jinja_is_space(lt_jinja_character(text, at, &size)) != space) break;
    }
    return at;
}

static lt_status split_words(jinja_render *r, const jinja_string *text, int64_t most,
                             jinja_growing *list)
{
    size_t at = skip_space(text, 0, true);
    while (at < text->size) {
        size_t end = skip_space(text, at, false);
        if (most-- == 0) return push_cut(r, list, text, at, text->size);
        LT_TRY(push_cut(r, list, text, at, end));
        at = skip_space(text, end, true);
    }
    return LT_OK;
}

/* Where the white space (or what is none) that ends at `at` begins. */
static size_t skip_space_back(const jinja_string *text, size_t at, bool space)
{
    while (at > 0) {
        size_t size, before = character_before(text, at);
        if (lt_jinja_is_space(lt_jinja_character(text, before, &size)) != space) break;
        at = before;
    }
    return at;
}

static lt_status split_words_back(jinja_render *r, const jinja_string *text, int64_t most,
                                  jinja_growing *list)
{
    size_t at = skip_space_back(text, text->size, true);
    while (at > 0) {
        size_t start = skip_space_back(text, at, false);
        if (most-- == 0) return push_cut(r, list, text, 0, at);
        LT_TRY(push_cut(r, list, text, start, at));
        at = skip_space_back(text, start, true);
    }
    return LT_OK;
}

static lt_status split_at(jinja_render *r, const jinja_string *text, const jinja_string *separator,
                          int64_t most, jinja_growing *list)
{
    size_t from = 0, at;
    LT_TRY(lt_jinja_spend(r, text->size / 256));
    while (most-- != 0 &&
           (at = lt_jinja_find(text, separator, from, text->size, false)) != SIZE_MAX) {
        LT_TRY(push_cut(r, list, text, from, at));
        from = at + separator->size;
    }
    return push_cut(r, list, text, from, text->size);
}

static lt_status split_at_back(jinja_render *r, const jinja_string *text,
                               const jinja_string *separator, int64_t most, jinja_growing *list)
{
    size_t to = text->size, at;
    LT_TRY(spend_on_search(r, text->size, separator->size));
    while (most-- != 0 && (at = lt_jinja_find(text, separator, 0, to, true)) != SIZE_MAX) {
        LT_TRY(push_cut(r, list, text, at + separator->size, to));
        to = at;
    }
    return push_cut(r, list, text, 0, to);
}

static void reverse(jinja_growing *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        jinja_value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
}

static lt_status split(jinja_render *r, const jinja_string *text, const jinja_value *const *args,
                       bool back, jinja_value *out)
{
    const jinja_string *separator = NULL;
    int64_t most = -1;
    jinja_growing list = {0};
    if (args[0] && args[0]->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_string(r, args[0], &separator));
    LT_TRY(lt_jinja_arg_int(r, args[1], &most));
    if (!separator) {
        LT_TRY(lt_jinja_spend(r, text->size / 64));
        LT_TRY(back ? split_words_back(r, text, most, &list) : split_words(r, text, most, &list));
    } else if (separator->size == 0) {
        return lt_jinja_fail(r, LT_ERR_FORMAT, "empty separator");
    } else {
        LT_TRY(back ? split_at_back(r, text, separator, most, &list)
                    : split_at(r, text, separator, most, &list));
    }
    if (back) reverse(&list);
    return lt_jinja_grown(r, &list, JINJA_LIST, out);
}

METHOD(split_)
{
    return split(r, self.string, args, false, out);
}

METHOD(rsplit_)
{
    return split(r, self.string, args, true, out);
}

static lt_status partition(jinja_render *r, jinja_value self, const jinja_value *separator,
                           bool back, jinja_value *out)
{
    const jinja_string *text = self.string, *found = NULL;
    jinja_growing list = {0};
    LT_TRY(lt_jinja_arg_string(r, separator, &found));
    if (found->size == 0) return lt_jinja_fail(r, LT_ERR_FORMAT, "empty separator");
    LT_TRY(back ? spend_on_search(r, text->size, found->size)
                : lt_jinja_spend(r, text->size / 256));
    size_t at = lt_jinja_find(text, found, 0, text->size, back), end = at + found->size;
    if (at == SIZE_MAX) at = end = back ? 0 : text->size;
    LT_TRY(push_cut(r, &list, text, 0, at));
    LT_TRY(push_cut(r, &list, text, at, end));
    LT_TRY(push_cut(r, &list, text, end, text->size));
    return lt_jinja_grown(r, &list, JINJA_TUPLE, out);
}

METHOD(partition_)
{
    return partition(r, self, args[0], false, out);
}

METHOD(rpartition_)
{
    return partition(r, self, args[0], true, out);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

void lt_jinja_line(const jinja_string *text, size_t from, size_t *end, size_t *next)
{
    size_t at = from, size = 0;
    for (; at < text->size; at += size) {
        if (is_line_end(lt_jinja_character(text, at, &size))) break;
    }
    *end = *next = at;
    if (at == text->size) return;
    *next = at + size;
    if (text->bytes[at] == '\r' && *next < text->size && text->bytes[*next] == '\n') (*next)++;
}

METHOD(splitlines_)
{
    const jinja_string *text = self.string;
    bool keep = lt_jinja_arg_truth(args[0], false);
    jinja_growing list = {0};
    size_t end, next;
    LT_TRY(lt_jinja_spend(r, text->size / 64));
    for (size_t at = 0; at < text->size; at = next) {
        lt_jinja_line(text, at, &end, &next);
        LT_TRY(push_cut(r, &list, text, at, keep ? next : end));
    }
    return lt_jinja_grown(r, &list, JINJA_LIST, out);
}

/* --- replace, join --- */

/* Without `old`: between all characters. */
static lt_status put_between(jinja_render *r, const jinja_string *text, const jinja_string *new_,
                             int64_t count)
{
    size_t size;
    LT_TRY(lt_jinja_spend(r, text->size / 16));
    for (size_t at = 0; at < text->size; at += size) {
        if (count-- != 0)
            LT_TRY(lt_jinja_put(r, new_));
        else
            count = 0;
        lt_jinja_character(text, at, &size);
        LT_TRY(lt_jinja_put_bytes(r, text->bytes + at, size, lt_jinja_origin(text, at)));
    }
    return count != 0 ? lt_jinja_put(r, new_) : LT_OK;
}

static lt_status put_part(jinja_render *r, const jinja_string *text, size_t from, size_t to)
{
    jinja_string part = *text;
    part.bytes += from;
    if (part.origin) part.origin += from;
    part.size = to - from;
    return lt_jinja_put(r, &part);
}

lt_status lt_jinja_replace(jinja_render *r, const jinja_string *text, const jinja_string *old,
                           const jinja_string *new_, int64_t count, jinja_value *out)
{
    size_t from = 0, at;
    if (text->safe)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "replacing in escaped text is not supported");
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(lt_jinja_spend(r, text->size / 256));
    if (old->size == 0) {
        LT_TRY(put_between(r, text, new_, count));
        return lt_jinja_end(r, pad, out);
    }
    while (count-- != 0 && (at = lt_jinja_find(text, old, from, text->size, false)) != SIZE_MAX) {
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(put_part(r, text, from, at));
        LT_TRY(lt_jinja_put(r, new_));
        from = at + old->size;
    }
    LT_TRY(put_part(r, text, from, text->size));
    return lt_jinja_end(r, pad, out);
}

METHOD(replace_)
{
    const jinja_string *old = NULL, *new_ = NULL;
    int64_t count = -1;
    LT_TRY(lt_jinja_arg_string(r, args[0], &old));
    LT_TRY(lt_jinja_arg_string(r, args[1], &new_));
    LT_TRY(lt_jinja_arg_int(r, args[2], &count));
    return lt_jinja_replace(r, self.string, old, new_, count, out);
}

METHOD(join_)
{
    jinja_iterator iterator;
    jinja_value item;
    bool found;
    LT_TRY(lt_jinja_to_list(r, *args[0], &item));
    LT_TRY(lt_jinja_iterate(r, item, &iterator));
    jinja_pad pad = lt_jinja_begin(r);
    for (size_t i = 0;; i++) {
        LT_TRY(lt_jinja_next(r, &iterator, &found, &item));
        if (!found) break;
        if (item.kind != JINJA_STRING)
            return lt_jinja_fail(r, LT_ERR_FORMAT,
                                 "sequence item %zu: expected str instance, %s found", i,
                                 lt_jinja_type_name(item));
        if (i) LT_TRY(lt_jinja_put(r, self.string));
        LT_TRY(lt_jinja_put(r, item.string));
    }
    return lt_jinja_end(r, pad, out);
}

/* --- find, count, startswith --- */

/* Bytes of text[start:stop]; false: an empty part beyond the end, where nothing is found. */
static lt_status part_of(jinja_render *r, const jinja_string *text, const jinja_value *start,
                         const jinja_value *stop, size_t *from, size_t *to, bool *valid)
{
    int64_t length = (int64_t)text->length, first = 0, last = length;
    if (start && start->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_int(r, start, &first));
    if (stop && stop->kind != JINJA_NONE) LT_TRY(lt_jinja_arg_int(r, stop, &last));
    if (first < 0) first = first + length < 0 ? 0 : first + length;
    if (last < 0) last = last + length < 0 ? 0 : last + length;
    if (last > length) last = length;
    *valid = first <= last;
    if (!*valid) return LT_OK;
    if (text->length != text->size) LT_TRY(lt_jinja_spend(r, text->size / 128));
    *from = lt_jinja_offset(text, (size_t)first);
    *to = lt_jinja_offset(text, (size_t)last);
    return LT_OK;
}

/* The index of the character, -1: not found. */
static lt_status find(jinja_render *r, jinja_value self, const jinja_value *const *args, bool back,
                      int64_t *out)
{
    const jinja_string *text = self.string, *needle = NULL;
    size_t from, to;
    bool valid;
    *out = -1;
    LT_TRY(lt_jinja_arg_string(r, args[0], &needle));
    LT_TRY(part_of(r, text, args[1], args[2], &from, &to, &valid));
    if (!valid) return LT_OK;
    LT_TRY(back ? spend_on_search(r, to - from, needle->size)
                : lt_jinja_spend(r, (to - from) / 256));
    size_t at = lt_jinja_find(text, needle, from, to, back);
    if (at != SIZE_MAX) *out = (int64_t)lt_jinja_length(text->bytes, at);
    return LT_OK;
}

METHOD(find_)
{
    int64_t at;
    LT_TRY(find(r, self, args, false, &at));
    *out = lt_jinja_int(at);
    return LT_OK;
}

METHOD(rfind_)
{
    int64_t at;
    LT_TRY(find(r, self, args, true, &at));
    *out = lt_jinja_int(at);
    return LT_OK;
}

METHOD(index_)
{
    LT_TRY(find_(r, self, args, out));
    return out->integer >= 0 ? LT_OK : lt_jinja_fail(r, LT_ERR_FORMAT, "substring not found");
}

METHOD(rindex_)
{
    LT_TRY(rfind_(r, self, args, out));
    return out->integer >= 0 ? LT_OK : lt_jinja_fail(r, LT_ERR_FORMAT, "substring not found");
}

METHOD(count_)
{
    const jinja_string *text = self.string, *needle = NULL;
    size_t from = 0, to = 0, at;
    int64_t count = 0;
    bool valid;
    LT_TRY(lt_jinja_arg_string(r, args[0], &needle));
    LT_TRY(part_of(r, text, args[1], args[2], &from, &to, &valid));
    LT_TRY(lt_jinja_spend(r, (to - from) / 64));
    if (valid && needle->size == 0)
        count = (int64_t)lt_jinja_length(text->bytes + from, to - from) + 1;
    while (valid && needle->size &&
           (at = lt_jinja_find(text, needle, from, to, false)) != SIZE_MAX) {
        count++;
        from = at + needle->size;
    }
    *out = lt_jinja_int(count);
    return LT_OK;
}

static lt_status touches(jinja_render *r, const jinja_string *text, size_t from, size_t to,
                         jinja_value affix, bool at_end, bool *out)
{
    const jinja_string *other = NULL;
    LT_TRY(lt_jinja_arg_string(r, &affix, &other));
    *out = other->size <= to - from &&
           memcmp(text->bytes + (at_end ? to - other->size : from), other->bytes, other->size) == 0;
    return LT_OK;
}

/* With a tuple: any of them. */
static lt_status starts_or_ends(jinja_render *r, jinja_value self, const jinja_value *const *args,
                                bool at_end, jinja_value *out)
{
    size_t from, to;
    bool valid, yes = false;
    LT_TRY(part_of(r, self.string, args[1], args[2], &from, &to, &valid));
    if (args[0]->kind != JINJA_TUPLE) {
        if (valid) LT_TRY(touches(r, self.string, from, to, *args[0], at_end, &yes));
    } else {
        const jinja_list *list = args[0]->list;
        LT_TRY(lt_jinja_spend(r, list->count));
        for (size_t i = 0; valid && !yes && i < list->count; i++)
            LT_TRY(touches(r, self.string, from, to, list->items[i], at_end, &yes));
    }
    *out = lt_jinja_bool(yes);
    return LT_OK;
}

METHOD(startswith_)
{
    return starts_or_ends(r, self, args, false, out);
}

METHOD(endswith_)
{
    return starts_or_ends(r, self, args, true, out);
}

/* --- Case and width --- */

#define CASE_METHOD(name, how)                                 \
    METHOD(name)                                               \
    {                                                          \
        (void)args;                                            \
        return lt_jinja_change_case(r, self.string, how, out); \
    }

CASE_METHOD(upper_, JINJA_UPPER)
CASE_METHOD(lower_, JINJA_LOWER)
CASE_METHOD(title_, JINJA_TITLE)
CASE_METHOD(capitalize_, JINJA_CAPITALIZE)
CASE_METHOD(swapcase_, JINJA_SWAP_CASE)

static lt_status put_times(jinja_render *r, const jinja_string *fill, int64_t count)
{
    if (count > r->limits.output)
        return lt_jinja_fail(r, LT_ERR_LIMIT, "a text would be longer than %lld bytes",
                             (long long)r->limits.output);
    if (count > 0) LT_TRY(lt_jinja_spend(r, (size_t)count / 16));
    for (int64_t i = 0; i < count; i++)
        LT_TRY(lt_jinja_put(r, fill));
    return LT_OK;
}

lt_status lt_jinja_pad_text(jinja_render *r, const jinja_string *text, int64_t left, int64_t right,
                            const jinja_string *fill, jinja_value *out)
{
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(put_times(r, fill, left));
    LT_TRY(lt_jinja_put(r, text));
    LT_TRY(put_times(r, fill, right));
    return lt_jinja_end(r, pad, out);
}

lt_status lt_jinja_center(jinja_render *r, const jinja_string *text, int64_t width,
                          const jinja_string *fill, jinja_value *out)
{
    int64_t length = (int64_t)text->length, room = width > length ? width - length : 0;
    int64_t left = room / 2 + (room & width & 1);
    return lt_jinja_pad_text(r, text, left, room - left, fill, out);
}

static const jinja_string space = {.bytes = " ", .size = 1, .length = 1};
static const jinja_string zero = {.bytes = "0", .size = 1, .length = 1};

/* The missing width, and what it is filled with. */
static lt_status width_and_fill(jinja_render *r, const jinja_value *const *args, int64_t *width,
                                const jinja_string **fill)
{
    *fill = &space;
    LT_TRY(lt_jinja_arg_int(r, args[0], width));
    LT_TRY(lt_jinja_arg_string(r, args[1], fill));
    if ((*fill)->length == 1) return LT_OK;
    return lt_jinja_fail(r, LT_ERR_FORMAT, "The fill character must be exactly one character long");
}

METHOD(ljust_)
{
    const jinja_string *fill;
    int64_t width = 0, length = (int64_t)self.string->length;
    LT_TRY(width_and_fill(r, args, &width, &fill));
    return lt_jinja_pad_text(r, self.string, 0, width > length ? width - length : 0, fill, out);
}

METHOD(rjust_)
{
    const jinja_string *fill;
    int64_t width = 0, length = (int64_t)self.string->length;
    LT_TRY(width_and_fill(r, args, &width, &fill));
    return lt_jinja_pad_text(r, self.string, width > length ? width - length : 0, 0, fill, out);
}

METHOD(center_)
{
    const jinja_string *fill;
    int64_t width = 0;
    LT_TRY(width_and_fill(r, args, &width, &fill));
    return lt_jinja_center(r, self.string, width, fill, out);
}

METHOD(zfill_)
{
    const jinja_string *text = self.string;
    int64_t width = 0, length = (int64_t)text->length;
    LT_TRY(lt_jinja_arg_int(r, args[0], &width));
    bool sign = text->size && (text->bytes[0] == '-' || text->bytes[0] == '+');
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(put_part(r, text, 0, sign));
    LT_TRY(put_times(r, &zero, width > length ? width - length : 0));
    LT_TRY(put_part(r, text, sign, text->size));
    return lt_jinja_end(r, pad, out);
}

static const jinja_builtin methods[] = {
    {"strip", "chars /", 0, strip_, NULL},
    {"lstrip", "chars /", 0, lstrip_, NULL},
    {"rstrip", "chars /", 0, rstrip_, NULL},
    {"removeprefix", "prefix /", 1, removeprefix_, NULL},
    {"removesuffix", "suffix /", 1, removesuffix_, NULL},
    {"split", "sep maxsplit", 0, split_, NULL},
    {"rsplit", "sep maxsplit", 0, rsplit_, NULL},
    {"partition", "sep /", 1, partition_, NULL},
    {"rpartition", "sep /", 1, rpartition_, NULL},
    {"splitlines", "keepends", 0, splitlines_, NULL},
    {"replace", "old new count /", 2, replace_, NULL},
    {"join", "iterable /", 1, join_, NULL},
    {"find", "sub start end /", 1, find_, NULL},
    {"rfind", "sub start end /", 1, rfind_, NULL},
    {"index", "sub start end /", 1, index_, NULL},
    {"rindex", "sub start end /", 1, rindex_, NULL},
    {"count", "sub start end /", 1, count_, NULL},
    {"startswith", "prefix start end /", 1, startswith_, NULL},
    {"endswith", "suffix start end /", 1, endswith_, NULL},
    {"upper", "", 0, upper_, NULL},
    {"lower", "", 0, lower_, NULL},
    {"title", "", 0, title_, NULL},
    {"capitalize", "", 0, capitalize_, NULL},
    {"swapcase", "", 0, swapcase_, NULL},
    {"ljust", "width fillchar /", 1, ljust_, NULL},
    {"rjust", "width fillchar /", 1, rjust_, NULL},
    {"center", "width fillchar /", 1, center_, NULL},
    {"zfill", "width /", 1, zfill_, NULL},
    {"casefold", "", 0, NULL, NULL},
    {"encode", "", 0, NULL, NULL},
    {"expandtabs", "", 0, NULL, NULL},
    {"format", "", 0, NULL, lt_jinja_format},
    {"format_map", "", 0, NULL, NULL},
    {"isidentifier", "", 0, NULL, NULL},
    {"isnumeric", "", 0, NULL, NULL},
    {"isprintable", "", 0, NULL, NULL},
    {"istitle", "", 0, NULL, NULL},
    {"maketrans", "", 0, NULL, NULL},
    {"translate", "", 0, NULL, NULL},
};
const jinja_builtins lt_jinja_string_methods = {methods, sizeof methods / sizeof *methods};
