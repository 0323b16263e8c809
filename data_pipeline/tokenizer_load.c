/* Finding and reading a tokenizer's files. */
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

#define MAX_TEXT_FILE ((size_t)256 << 20)

/* A file beside the tokenizer, or none: *out stays NULL. */
static lt_status load_optional(const char *directory, const char *name, json_t **out, lt_err *err)
{
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, directory, name, err);
    if (status == LT_OK && lt_path_exists(path.data)) {
        status = lt_json_load(path.data, out, err);
        if (status == LT_OK && !json_is_object(*out)) {
            json_decref(*out);
            *out = NULL;
            status = lt_fail(err, LT_ERR_FORMAT, "%s: not a JSON object", path.data);
        }
    }
    lt_buffer_free(&path);
    return status;
}

bool lt_has_tokenizer(const char *directory)
{
    static const char *const files[] = {"tokenizer.json", "vocab.json"};
    lt_buffer path = {0};
    bool found = false;
    for (int i = 0; i < 2; i++)
        if (lt_path_join(&path, directory, files[i], NULL) == LT_OK)
            found = found || lt_path_exists(path.data);
    lt_buffer_free(&path);
    return found;
}

/* --- vocab.json and merges.txt ----------------------------------------------------------------
 */

/* Lines "left right" as an array of strings; comes out in order, without the version line. */
static lt_status load_merges(const char *path, json_t **out, lt_err *err)
{
    lt_buffer text = {0};
    json_t *merges = json_array();
    lt_status status = merges ? lt_read_file(path, MAX_TEXT_FILE, &text, err)
                              : lt_fail_nomem(err, 64, "the merges");
    for (char *line = text.data; status == LT_OK && line && *line;) {
        char *end = strchr(line, '\n');
        char *next = end ? end + 1 : line + strlen(line);
        size_t size = (size_t)((end ? end : next) - line);
        if (size > 0 && line[size - 1] == '\r') size--;
        if (size > 0 && (size < 8 || memcmp(line, "#version", 8) != 0)) {
            json_t *merge = json_stringn(line, size);
            if (!merge || json_array_append_new(merges, merge) != 0)
                status = lt_fail(err, LT_ERR_FORMAT, "%s: a line is not UTF-8: %.60s", path, line);
        }
        line = next;
    }
    if (status == LT_OK && strlen(lt_buffer_text(&text)) != text.size)
        status = lt_fail(err, LT_ERR_FORMAT, "%s: has a NUL byte", path);
    lt_buffer_free(&text);
    if (status == LT_OK)
        *out = merges;
    else
        json_decref(merges);
    return status;
}

/* The tokens that config or special map name, as `added_tokens` entries. This is what Hugging
 * Face's GPT-2 tokenizer makes of these files. */
static lt_status named_added_tokens(json_t *vocab, const json_t *config, const json_t *special_map,
                                    json_t *added, lt_err *err)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *entry = json_object_get(config, keys[k]);
        if (!lt_special_token_content(entry)) entry = json_object_get(special_map, keys[k]);
        const char *content = lt_special_token_content(entry);
        if (!content && !config && !special_map && k == 0) content = "<|endoftext|>";
        const json_t *id = content ? json_object_get(vocab, content) : NULL;
        if (!id) continue;
        bool known = false;
        for (size_t i = 0; i < json_array_size(added); i++)
            known |= strcmp(json_string_value(json_object_get(json_array_get(added, i), "content")),
                            content) == 0;
        if (known) continue;
        json_t *token =
            json_pack("{s:O,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content", content, "single_word",
                      0, "lstrip", 0, "rstrip", 0, "normalized", 1, "special", 1);
        if (!token || json_array_append_new(added, token) != 0)
            return lt_fail_nomem(err, 256, "the added tokens");
    }
    return LT_OK;
}

json_t *lt_gpt2_tokenizer_json(json_t *vocab, json_t *merges, json_t *added, bool prefix_space)
{
    return json_pack(
        "{s:s, s:n, s:n, s:o, s:n, s:{s:s,s:b,s:b,s:b}, s:{s:s,s:b,s:b,s:b}, s:{s:s,s:b,s:b,s:b}, "
        "s:{s:s,s:n,s:n,s:s,s:s,s:b,s:b,s:b,s:o,s:o}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
        "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", 1,
        "use_regex", 1, "post_processor", "type", "ByteLevel", "add_prefix_space", 1,
        "trim_offsets", 0, "use_regex", 1, "decoder", "type", "ByteLevel", "add_prefix_space", 1,
        "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk", 0, "byte_fallback",
        0, "ignore_merges", 0, "vocab", vocab, "merges", merges);
}

/* The content of "bos_token" or "eos_token" when the config's `flag` asks for it around each text.
 */
static const char *wanted_around(const json_t *config, const json_t *vocab, const char *flag,
                                 const char *key)
{
    if (!json_is_true(json_object_get(config, flag))) return NULL;
    const char *content = lt_special_token_content(json_object_get(config, key));
    return content && json_object_get(vocab, content) ? content : NULL;
}

/* Appends `before`, the text `name`, `after` to a template and the tokens' ids to `specials`. */
static void append_text(json_t *template, json_t *specials, const json_t *vocab, const char *before,
                        const char *name, const char *after)
{
    const char *const around[3] = {before, NULL, after};
    int type = name[0] == 'B';
    for (int i = 0; i < 3; i++) {
        const char *content = around[i];
        if (i == 1)
            json_array_append_new(
                template, json_pack("{s:{s:s,s:i}}", "Sequence", "id", name, "type_id", type));
        if (!content) continue;
        json_array_append_new(
            template, json_pack("{s:{s:s,s:i}}", "SpecialToken", "id", content, "type_id", type));
        json_object_set_new(specials, content,
                            json_pack("{s:s,s:[O],s:[s]}", "id", content, "ids",
                                      json_object_get(vocab, content), "tokens", content));
    }
}

/* add_bos_token and add_eos_token put them around each text, as the reference does for these
 * files. */
static lt_status set_template(json_t *json, const json_t *config, const json_t *vocab, lt_err *err)
{
    const char *bos = wanted_around(config, vocab, "add_bos_token", "bos_token");
    const char *eos = wanted_around(config, vocab, "add_eos_token", "eos_token");
    if (!bos && !eos) return LT_OK;
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    append_text(single, specials, vocab, bos, "A", eos);
    append_text(pair, specials, vocab, bos, "A", eos);
    append_text(pair, specials, vocab, bos, "B", eos);
    json_t *template = json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single",
                                 single, "pair", pair, "special_tokens", specials);
    if (!template || json_object_set_new(json, "post_processor", template) != 0)
        return lt_fail_nomem(err, 512, "a tokenizer's rules");
    return LT_OK;
}

static lt_status load_pair(const char *directory, const json_t *config, const json_t *special_map,
                           json_t **out, lt_err *err)
{
    lt_buffer path = {0};
    json_t *vocab = NULL, *merges = NULL, *added = json_array();
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "vocab.json", err), done);
    LT_TRY_GOTO(status, lt_json_load(path.data, &vocab, err), done);
    if (!json_is_object(vocab)) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s: not a JSON object", path.data);
        goto done;
    }
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "merges.txt", err), done);
    LT_TRY_GOTO(status, load_merges(path.data, &merges, err), done);
    LT_TRY_GOTO(status, named_added_tokens(vocab, config, special_map, added, err), done);
    bool prefix_space = json_is_true(json_object_get(config, "add_prefix_space"));
    json_incref(vocab); /* the template needs it after the JSON has taken it over */
    *out = lt_gpt2_tokenizer_json(vocab, merges, added, prefix_space);
    merges = added = NULL;
    status =
        *out ? set_template(*out, config, vocab, err) : lt_fail_nomem(err, 1024, "a tokenizer");
done:
    if (status != LT_OK && *out) {
        json_decref(*out);
        *out = NULL;
    }
    json_decref(vocab);
    json_decref(merges);
    json_decref(added);
    lt_buffer_free(&path);
    return status;
}

/* --- Whole directories ------------------------------------------------------------------------
 */

static lt_status load_chat_template(lt_tokenizer *tokenizer, const char *directory, lt_err *err)
{
    lt_buffer path = {0}, text = {0};
    lt_status status = lt_path_join(&path, directory, "chat_template.jinja", err);
    if (status == LT_OK && lt_path_exists(path.data)) {
        status = lt_read_file(path.data, MAX_TEXT_FILE, &text, err);
        if (status == LT_OK && strlen(lt_buffer_text(&text)) != text.size)
            status = lt_fail(err, LT_ERR_FORMAT, "%s: has a NUL byte", path.data);
        if (status == LT_OK && lt_utf8_valid_prefix(lt_buffer_text(&text), text.size) != text.size)
            status = lt_fail(err, LT_ERR_FORMAT, "%s: is not UTF-8", path.data);
        if (status == LT_OK) {
            tokenizer->chat_template = text.data ? text.data : strdup("");
            text = (lt_buffer){0};
        }
    }
    lt_buffer_free(&path);
    lt_buffer_free(&text);
    return status;
}

/* `path` as a directory and, when it is not one, the JSON file in it that was meant. */
static lt_status split_path(const char *path, lt_buffer *directory, const char **file, lt_err *err)
{
    *file = NULL;
    if (lt_is_directory(path)) return lt_buffer_append_text(directory, path, err);
    if (!lt_path_exists(path))
        return lt_fail(err, LT_ERR_IO, "%s: no such file or directory", path);
    const char *slash = strrchr(path, '/');
    if (!slash) return *file = path, lt_buffer_append_text(directory, ".", err);
    *file = slash + 1;
    return lt_buffer_append(directory, path, slash == path ? 1 : (size_t)(slash - path), err);
}

static lt_status load_json(const char *path, const char *directory, const char *file,
                           const json_t *config, const json_t *special_map, lt_buffer *where,
                           json_t **out, lt_err *err)
{
    bool pair = file && (strcmp(file, "vocab.json") == 0 || strcmp(file, "merges.txt") == 0);
    if (file && !pair) { /* the very file, whatever its name */
        LT_TRY(lt_buffer_append_text(where, path, err));
        return lt_json_load(path, out, err);
    }
    LT_TRY(lt_path_join(where, directory, "tokenizer.json", err));
    if (!pair && lt_path_exists(where->data)) return lt_json_load(where->data, out, err);
    LT_TRY(lt_path_join(where, directory, "vocab.json", err));
    if (!lt_path_exists(where->data))
        return lt_fail(err, LT_ERR_IO,
                       "%s: has neither tokenizer.json nor vocab.json and merges.txt", path);
    return load_pair(directory, config, special_map, out, err);
}

lt_status lt_tokenizer_load(const char *path, lt_tokenizer **out, lt_err *err)
{
    *out = NULL;
    lt_buffer directory = {0}, where = {0};
    json_t *json = NULL, *config = NULL, *special_map = NULL;
    const char *file;
    lt_status status;
    LT_TRY_GOTO(status, split_path(path, &directory, &file, err), done);
    LT_TRY_GOTO(status, load_optional(directory.data, "tokenizer_config.json", &config, err), done);
    LT_TRY_GOTO(status, load_optional(directory.data, "special_tokens_map.json", &special_map, err),
                done);
    LT_TRY_GOTO(status,
                load_json(path, directory.data, file, config, special_map, &where, &json, err),
                done);
    status = lt_tokenizer_from_json(json, config, special_map, where.data, out, err);
    json = config = special_map = NULL; /* taken over */
    if (status != LT_OK) goto done;
    status = load_chat_template(*out, directory.data, err);
    if (status != LT_OK) {
        lt_tokenizer_free(*out);
        *out = NULL;
    }
done:
    json_decref(json);
    json_decref(config);
    json_decref(special_map);
    lt_buffer_free(&directory);
    lt_buffer_free(&where);
    return status;
}
