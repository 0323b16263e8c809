/* Going through what Python can iterate over. */
#include "data_pipeline/jinja/values.h"

bool lt_jinja_is_iterable(jinja_value value)
{
    switch ((jinja_kind)value.kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_VIEW:
    case JINJA_RANGE:
    case JINJA_ITERATOR:
    case JINJA_LOOP:
        return true;
    default:
        return false;
    }
}

lt_status lt_jinja_iterate(jinja_render *r, jinja_value value, jinja_iterator *out)
{
    if (!lt_jinja_is_iterable(value))
        return lt_jinja_fail(r, LT_ERR_FORMAT, "'%s' object is not iterable",
                             lt_jinja_type_name(value));
    if (value.kind == JINJA_LOOP)
        return lt_jinja_fail(r, LT_ERR_UNSUPPORTED, "iterating over 'loop' is not supported");
    *out = value.kind == JINJA_ITERATOR ? *value.iterator : (jinja_iterator){.source = value};
    return LT_OK;
}

static lt_status next_character(jinja_render *r, jinja_iterator *iterator, bool *found,
                                jinja_value *out)
{
    jinja_string text = *iterator->source.string;
    size_t size;
    *found = iterator->at < text.size;
    if (!*found) return LT_OK;
    text.safe = false;
    lt_jinja_character(&text, iterator->at, &size);
    iterator->at += size;
    return lt_jinja_cut(r, &text, iterator->at - size, iterator->at, out);
}

static lt_status entry_part(jinja_render *r, const jinja_entry *entry, jinja_part part,
                            jinja_value *out)
{
    jinja_value pair[] = {entry->key, entry->value};
    if (part == JINJA_ITEMS) return lt_jinja_make_list(r, JINJA_TUPLE, pair, 2, out);
    *out = part == JINJA_KEYS ? entry->key : entry->value;
    return LT_OK;
}

lt_status lt_jinja_next(jinja_render *r, jinja_iterator *iterator, bool *found, jinja_value *out)
{
    jinja_value source = iterator->source;
    size_t count, at = iterator->at;
    if (source.kind == JINJA_STRING) return next_character(r, iterator, found, out);
    LT_TRY(lt_jinja_size(r, source, &count));
    *found = at < count;
    if (!*found) return LT_OK;
    iterator->at++;
    if (iterator->backward) at = count - 1 - at;
    switch ((jinja_kind)source.kind) {
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = source.list->items[at];
        return LT_OK;
    case JINJA_RANGE:
        *out = lt_jinja_range_item(source.range, at);
        return LT_OK;
    case JINJA_VIEW:
        return entry_part(r, &source.view->dict->entries[at], source.view->part, out);
    default: /* a dict */
        return entry_part(r, &source.dict->entries[at], JINJA_KEYS, out);
    }
}

lt_status lt_jinja_to_list(jinja_render *r, jinja_value value, jinja_value *out)
{
    jinja_growing list = {0};
    jinja_iterator iterator;
    bool found = true;
    LT_TRY(lt_jinja_iterate(r, value, &iterator));
    while (true) {
        jinja_value item;
        LT_TRY(lt_jinja_next(r, &iterator, &found, &item));
        if (!found) break;
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_push(r, &list, item));
    }
    if (value.kind == JINJA_ITERATOR) *value.iterator = iterator;
    return lt_jinja_grown(r, &list, JINJA_LIST, out);
}

lt_status lt_jinja_generator(jinja_render *r, jinja_value list, bool backward, jinja_value *out)
{
    jinja_iterator *iterator;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *iterator, &iterator));
    *iterator = (jinja_iterator){.source = list, .backward = backward};
    *out = (jinja_value){.kind = JINJA_ITERATOR, .iterator = iterator};
    return LT_OK;
}

jinja_value lt_jinja_range_item(const jinja_range *range, size_t at)
{
    /* it fits, but the way there may not */
    return lt_jinja_int((int64_t)((uint64_t)range->start + at * (uint64_t)range->step));
}
