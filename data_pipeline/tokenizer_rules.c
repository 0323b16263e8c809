/* The sections of tokenizer.json that say how text is treated: normalizer, pre_tokenizer,
 * post_processor, decoder. What Lathe does not have is refused by name. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

static lt_status fail_unsupported(const char *where, const char *section, const char *what,
                                  lt_err *err)
{
    return lt_fail(err, LT_ERR_UNSUPPORTED, "%s: %s \"%.300s\" is not supported", where, section,
                   what);
}

static lt_status type_of(const json_t *json, const char *section, const char *where,
                         const char **type, lt_err *err)
{
    *type = NULL;
    if (!json_is_object(json))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" is not an object", where, section);
    LT_TRY(lt_json_get_string(json, "type", where, type, err));
    if (!*type) return lt_fail(err, LT_ERR_FORMAT, "%s: \"%s\" has no type", where, section);
    return LT_OK;
}

/* Calls `add` for json, or for each entry of its list when it is a Sequence. */
typedef lt_status (*add_step)(void *out, const json_t *json, const char *where, lt_err *err);

static lt_status add_all(const json_t *json, const char *section, const char *list_key,
                         const char *where, add_step add, void *out, int depth, lt_err *err)
{
    const char *type;
    LT_TRY(type_of(json, section, where, &type, err));
    if (strcmp(type, "Sequence") != 0) return add(out, json, where, err);
    const json_t *list = json_object_get(json, list_key);
    if (!json_is_array(list))
        return lt_fail(err, LT_ERR_FORMAT, "%s: the %s Sequence has no \"%s\"", where, section,
                       list_key);
    if (depth >= 8)
        return lt_fail(err, LT_ERR_LIMIT, "%s: %s Sequences are nested too deep", where, section);
    for (size_t i = 0; i < json_array_size(list); i++)
        LT_TRY(
            add_all(json_array_get(list, i), section, list_key, where, add, out, depth + 1, err));
    return LT_OK;
}

static lt_status copy_text(const char *text, char **out, size_t *size, lt_err *err)
{
    *size = strlen(text);
    *out = strdup(text);
    return *out ? LT_OK : lt_fail_nomem(err, *size, "a tokenizer's rules");
}

/* Replace, as a normaliser and as a decoder: a plain string by another. */
static lt_status parse_replace(const json_t *json, const char *section, const char *where,
                               const char **pattern, const char **content, lt_err *err)
{
    const json_t *object = json_object_get(json, "pattern");
    const char *regex = json_string_value(json_object_get(object, "Regex"));
    if (regex) return fail_unsupported(where, section, regex, err);
    *pattern = json_string_value(json_object_get(object, "String"));
    *content = json_string_value(json_object_get(json, "content"));
    if (!*pattern || !*content)
        return lt_fail(err, LT_ERR_FORMAT, "%s: a %s Replace lacks pattern or content", where,
                       section);
    if (!**pattern) return fail_unsupported(where, section, "Replace of an empty pattern", err);
    return LT_OK;
}

/* --- normalizer -------------------------------------------------------------------------------
 */

static lt_status add_normalizer(void *out, const json_t *json, const char *where, lt_err *err)
{
    lt_normalizer *normalizer = out;
    const char *type, *pattern = "", *content = "";
    lt_normalizer_kind kind;
    LT_TRY(type_of(json, "normalizer", where, &type, err));
    if (strcmp(type, "NFC") == 0) {
        kind = LT_NORMALIZER_NFC;
    } else if (strcmp(type, "Prepend") == 0) {
        kind = LT_NORMALIZER_PREPEND;
        content = json_string_value(json_object_get(json, "prepend"));
        if (!content)
            return lt_fail(err, LT_ERR_FORMAT, "%s: the normalizer Prepend lacks \"prepend\"",
                           where);
    } else if (strcmp(type, "Replace") == 0) {
        kind = LT_NORMALIZER_REPLACE;
        LT_TRY(parse_replace(json, "normalizer", where, &pattern, &content, err));
    } else {
        return fail_unsupported(where, "normalizer", type, err);
    }
    lt_normalizer_step *steps =
        realloc(normalizer->steps, (normalizer->count + 1) * sizeof *normalizer->steps);
    if (!steps) return lt_fail_nomem(err, sizeof *steps, "a tokenizer's rules");
    normalizer->steps = steps;
    lt_normalizer_step *step = &steps[normalizer->count++];
    *step = (lt_normalizer_step){.kind = kind};
    LT_TRY(copy_text(pattern, &step->pattern, &step->pattern_size, err));
    return copy_text(content, &step->content, &step->content_size, err);
}

lt_status lt_parse_normalizer(const json_t *json, const char *where, lt_normalizer *out,
                              lt_err *err)
{
    *out = (lt_normalizer){0};
    if (!json || json_is_null(json)) return LT_OK;
    return add_all(json, "normalizer", "normalizers", where, add_normalizer, out, 0, err);
}

/* --- pre_tokenizer ----------------------------------------------------------------------------
 */

static lt_status push_step(lt_pretokenizer *pretokenizer, lt_pretokenizer_step step,
                           const char *where, lt_err *err)
{
    if (pretokenizer->count == LT_MAX_PRETOKENIZER_STEPS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: more than %d pre-tokenizer steps", where,
                       LT_MAX_PRETOKENIZER_STEPS);
    pretokenizer->steps[pretokenizer->count++] = step;
    return LT_OK;
}

static lt_status add_byte_level(lt_pretokenizer *out, const json_t *json, const char *where,
                                lt_err *err)
{
    bool prefix_space = true, use_regex = true;
    LT_TRY(lt_json_get_bool(json, "add_prefix_space", where, &prefix_space, err));
    LT_TRY(lt_json_get_bool(json, "use_regex", where, &use_regex, err));
    if (prefix_space)
        LT_TRY(push_step(out, (lt_pretokenizer_step){.kind = LT_PRETOKENIZER_PREFIX_SPACE}, where,
                         err));
    if (use_regex)
        LT_TRY(push_step(out, (lt_pretokenizer_step){.kind = LT_SPLIT_GPT2}, where, err));
    out->byte_level = true;
    return LT_OK;
}

static lt_status add_split(lt_pretokenizer *out, const json_t *json, const char *where, lt_err *err)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    bool invert = false;
    LT_TRY(lt_json_get_bool(json, "invert", where, &invert, err));
    if (!regex || !behavior)
        return fail_unsupported(where, "pre-tokenizer", "Split without a Regex and behavior", err);
    lt_pretokenizer_step step = {0};
    if (!lt_split_kind_of_regex(regex, &step.kind))
        return fail_unsupported(where, "the pre-tokenizer's regular expression", regex, err);
    if (strcmp(behavior, "Isolated") != 0)
        return fail_unsupported(where, "pre-tokenizer Split behavior", behavior, err);
    if (invert) return fail_unsupported(where, "pre-tokenizer", "Split with invert", err);
    return push_step(out, step, where, err);
}

static lt_status add_metaspace(lt_pretokenizer *out, const json_t *json, const char *where,
                               lt_err *err)
{
    const char *replacement = NULL, *scheme = "always";
    bool prefix_space = true;
    lt_pretokenizer_step step = {.kind = LT_PRETOKENIZER_METASPACE, .split = true};
    LT_TRY(lt_json_get_string(json, "replacement", where, &replacement, err));
    LT_TRY(lt_json_get_string(json, "prepend_scheme", where, &scheme, err));
    LT_TRY(lt_json_get_bool(json, "add_prefix_space", where, &prefix_space, err));
    LT_TRY(lt_json_get_bool(json, "split", where, &step.split, err));
    size_t size = replacement ? strlen(replacement) : 0, length = 0;
    if (size) lt_utf8_decode((const unsigned char *)replacement, &length);
    if (size == 0 || length != size)
        return lt_fail(err, LT_ERR_FORMAT, "%s: Metaspace's \"replacement\" is not one character",
                       where);
    memcpy(step.replacement, replacement, size);
    if (strcmp(scheme, "never") == 0 || !prefix_space)
        step.scheme = LT_PREPEND_NEVER;
    else if (strcmp(scheme, "first") == 0)
        step.scheme = LT_PREPEND_FIRST;
    else if (strcmp(scheme, "always") == 0)
        step.scheme = LT_PREPEND_ALWAYS;
    else
        return fail_unsupported(where, "Metaspace prepend_scheme", scheme, err);
    return push_step(out, step, where, err);
}

static lt_status add_pretokenizer(void *out, const json_t *json, const char *where, lt_err *err)
{
    lt_pretokenizer *pretokenizer = out;
    const char *type;
    LT_TRY(type_of(json, "pre_tokenizer", where, &type, err));
    /* Once the text is in the byte-level alphabet, a further step would mean something else. */
    if (pretokenizer->byte_level)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "%s: pre-tokenizer \"%.60s\" after ByteLevel is not supported", where, type);
    if (strcmp(type, "ByteLevel") == 0) return add_byte_level(pretokenizer, json, where, err);
    if (strcmp(type, "Split") == 0) return add_split(pretokenizer, json, where, err);
    if (strcmp(type, "Metaspace") == 0) return add_metaspace(pretokenizer, json, where, err);
    return fail_unsupported(where, "pre-tokenizer", type, err);
}

lt_status lt_parse_pretokenizer(const json_t *json, const char *where, lt_pretokenizer *out,
                                lt_err *err)
{
    *out = (lt_pretokenizer){0};
    if (!json || json_is_null(json)) return LT_OK;
    return add_all(json, "pre_tokenizer", "pretokenizers", where, add_pretokenizer, out, 0, err);
}

/* --- decoder ----------------------------------------------------------------------------------
 */

void lt_decoder_free(lt_decoder *decoder)
{
    for (size_t i = 0; i < decoder->count; i++) {
        free(decoder->steps[i].pattern);
        free(decoder->steps[i].content);
    }
    free(decoder->steps);
    *decoder = (lt_decoder){0};
}

static lt_status parse_strip(const json_t *json, const char *where, lt_decoder_step *step,
                             const char **content, lt_err *err)
{
    int64_t start = 0, stop = 0;
    LT_TRY(lt_json_get_string(json, "content", where, content, err));
    LT_TRY(lt_json_get_int(json, "start", 0, INT32_MAX, where, &start, err));
    LT_TRY(lt_json_get_int(json, "stop", 0, INT32_MAX, where, &stop, err));
    size_t length = 0;
    if (**content) lt_utf8_decode((const unsigned char *)*content, &length);
    if (length == 0 || (*content)[length] != '\0')
        return lt_fail(err, LT_ERR_FORMAT, "%s: the decoder Strip's content is not one character",
                       where);
    if (stop != 0) return fail_unsupported(where, "decoder", "Strip with \"stop\" above 0", err);
    step->kind = LT_DECODER_STRIP;
    step->strip_count = (size_t)start;
    return LT_OK;
}

static lt_status parse_metaspace_decoder(const json_t *json, const char *where,
                                         lt_decoder_step *step, const char **pattern, lt_err *err)
{
    lt_pretokenizer same = {0}; /* it has the fields of the pre-tokenizer, and their checks */
    LT_TRY(add_metaspace(&same, json, where, err));
    step->kind = LT_DECODER_METASPACE;
    step->drop_first = same.steps[0].scheme != LT_PREPEND_NEVER;
    return lt_json_get_string(json, "replacement", where, pattern, err);
}

/* Chains that a stream can follow: the tokens are taken one by one until they are fused, then only
 * the beginning can change; and one step at most that holds bytes back, or strips. */
static lt_status check_order(const lt_decoder *decoder, lt_decoder_kind kind, const char *where,
                             lt_err *err)
{
    bool fused = false, bytes = false, strips = false, metaspace = false;
    for (size_t i = 0; i < decoder->count; i++) {
        lt_decoder_kind known = decoder->steps[i].kind;
        fused |= known == LT_DECODER_FUSE || known == LT_DECODER_BYTE_LEVEL;
        bytes |= known == LT_DECODER_BYTE_FALLBACK || known == LT_DECODER_BYTE_LEVEL;
        strips |= known == LT_DECODER_STRIP;
        metaspace |= known == LT_DECODER_METASPACE;
    }
    bool holds = kind == LT_DECODER_BYTE_FALLBACK || kind == LT_DECODER_BYTE_LEVEL;
    if ((fused && kind != LT_DECODER_STRIP && kind != LT_DECODER_FUSE) || (bytes && holds) ||
        (strips && kind == LT_DECODER_STRIP) || (metaspace && kind == LT_DECODER_METASPACE))
        return fail_unsupported(where, "decoder", "Sequence of these steps", err);
    return LT_OK;
}

static lt_status add_decoder(void *out, const json_t *json, const char *where, lt_err *err)
{
    lt_decoder *decoder = out;
    lt_decoder_step step = {0};
    const char *type, *pattern = "", *content = "";
    LT_TRY(type_of(json, "decoder", where, &type, err));
    if (strcmp(type, "ByteLevel") == 0) {
        step.kind = LT_DECODER_BYTE_LEVEL;
    } else if (strcmp(type, "Replace") == 0) {
        step.kind = LT_DECODER_REPLACE;
        LT_TRY(parse_replace(json, "decoder", where, &pattern, &content, err));
    } else if (strcmp(type, "ByteFallback") == 0) {
        step.kind = LT_DECODER_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        step.kind = LT_DECODER_FUSE;
    } else if (strcmp(type, "Strip") == 0) {
        LT_TRY(parse_strip(json, where, &step, &content, err));
    } else if (strcmp(type, "Metaspace") == 0) {
        LT_TRY(parse_metaspace_decoder(json, where, &step, &pattern, err));
        content = " ";
    } else {
        return fail_unsupported(where, "decoder", type, err);
    }
    LT_TRY(check_order(decoder, step.kind, where, err));
    if (decoder->count == LT_MAX_DECODER_STEPS)
        return lt_fail(err, LT_ERR_LIMIT, "%s: more than %d decoder steps", where,
                       LT_MAX_DECODER_STEPS);
    lt_decoder_step *steps = realloc(decoder->steps, (decoder->count + 1) * sizeof *steps);
    if (!steps) return lt_fail_nomem(err, sizeof *steps, "a tokenizer's rules");
    decoder->steps = steps;
    decoder->steps[decoder->count++] = step;
    lt_decoder_step *stored = &steps[decoder->count - 1];
    LT_TRY(copy_text(pattern, &stored->pattern, &stored->pattern_size, err));
    return copy_text(content, &stored->content, &stored->content_size, err);
}

lt_status lt_parse_decoder(const json_t *json, const char *where, lt_decoder *out, lt_err *err)
{
    *out = (lt_decoder){.joined_by_space = !json || json_is_null(json)};
    if (out->joined_by_space) return LT_OK;
    return add_all(json, "decoder", "decoders", where, add_decoder, out, 0, err);
}

/* --- post_processor ---------------------------------------------------------------------------
 */

typedef struct template_ids {
    lt_ids *prefix, *suffix;
} template_ids;

static lt_status read_special_ids(const json_t *specials, const char *name, const char *where,
                                  lt_ids *out, lt_err *err)
{
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return lt_fail(err, LT_ERR_FORMAT, "%s: TemplateProcessing has no ids for \"%.100s\"",
                       where, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value > LT_MAX_TOKEN_ID)
            return lt_fail(err, LT_ERR_FORMAT, "%s: TemplateProcessing: bad id for \"%.100s\"",
                           where, name);
        LT_TRY(lt_ids_push(out, (int32_t)value, err));
    }
    return LT_OK;
}

static lt_status parse_template(const json_t *json, const char *where, lt_ids *before,
                                lt_ids *after, lt_err *err)
{
    const json_t *single = json_object_get(json, "single");
    const json_t *specials = json_object_get(json, "special_tokens");
    bool text_seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *special =
            json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (special) {
            LT_TRY(read_special_ids(specials, special, where, text_seen ? after : before, err));
            continue;
        }
        const char *id = json_string_value(json_object_get(sequence, "id"));
        if (!id || strcmp(id, "A") != 0 || text_seen)
            return fail_unsupported(where, "post_processor",
                                    "a template that is not one text A with "
                                    "special tokens around",
                                    err);
        text_seen = true;
    }
    if (!text_seen)
        return lt_fail(err, LT_ERR_FORMAT, "%s: TemplateProcessing's \"single\" has no text A",
                       where);
    return LT_OK;
}

static lt_status add_post_processor(void *out, const json_t *json, const char *where, lt_err *err)
{
    template_ids *ids = out;
    const char *type;
    LT_TRY(type_of(json, "post_processor", where, &type, err));
    if (strcmp(type, "ByteLevel") == 0) return LT_OK; /* it only moves offsets */
    if (strcmp(type, "TemplateProcessing") != 0)
        return fail_unsupported(where, "post_processor", type, err);
    lt_ids before = {0}; /* a later template goes around an earlier one */
    lt_status status = parse_template(json, where, &before, ids->suffix, err);
    if (status == LT_OK)
        status = lt_ids_append(&before, ids->prefix->data, ids->prefix->count, err);
    lt_ids old = *ids->prefix;
    *ids->prefix = before;
    lt_ids_free(&old);
    return status;
}

lt_status lt_parse_post_processor(const json_t *json, const char *where, lt_ids *prefix,
                                  lt_ids *suffix, lt_err *err)
{
    template_ids ids = {prefix, suffix};
    if (!json || json_is_null(json)) return LT_OK;
    return add_all(json, "post_processor", "processors", where, add_post_processor, &ids, 0, err);
}
