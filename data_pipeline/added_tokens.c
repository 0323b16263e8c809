/* Added tokens: contents that become one id wherever they stand in a text, before the model sees
 * the rest. The leftmost match wins, and among those that begin at one place the longest. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/json.h"
#include "data_pipeline/tokenizer_internal.h"

/* --- The trie ---------------------------------------------------------------------------------
 */

static void matcher_free(lt_token_matcher *matcher)
{
    free(matcher->terminal);
    free(matcher->edge_keys);
    free(matcher->edge_nodes);
    *matcher = (lt_token_matcher){0};
}

static uint64_t edge_key(int32_t node, unsigned char byte)
{
    return ((uint64_t)(uint32_t)node << 8 | byte) + 1;
}

/* The slot of an edge, or the free one where it belongs. */
static size_t edge_slot(const lt_token_matcher *matcher, uint64_t key)
{
    size_t i = lt_merge_hash(key) & matcher->edge_mask;
    while (matcher->edge_keys[i] != 0 && matcher->edge_keys[i] != key)
        i = (i + 1) & matcher->edge_mask;
    return i;
}

static int32_t child(const lt_token_matcher *matcher, int32_t node, unsigned char byte)
{
    uint64_t key = edge_key(node, byte);
    size_t i = edge_slot(matcher, key);
    return matcher->edge_keys[i] == key ? matcher->edge_nodes[i] : -1;
}

static int32_t new_node(lt_token_matcher *matcher)
{
    matcher->terminal[matcher->node_count] = -1;
    return (int32_t)matcher->node_count++;
}

/* Room for as many nodes and edges as the patterns have bytes. */
static lt_status matcher_allocate(lt_token_matcher *matcher, size_t bytes, const char *where,
                                  lt_err *err)
{
    if (bytes > INT32_MAX / 4)
        return lt_fail(err, LT_ERR_LIMIT, "%s: the added tokens have %zu bytes, more than %d",
                       where, bytes, INT32_MAX / 4);
    size_t slots = 16;
    while (slots < bytes * 2)
        slots *= 2;
    matcher->edge_mask = slots - 1;
    matcher->terminal = malloc((bytes + 1) * sizeof *matcher->terminal);
    matcher->edge_keys = calloc(slots, sizeof *matcher->edge_keys);
    matcher->edge_nodes = malloc(slots * sizeof *matcher->edge_nodes);
    if (!matcher->terminal || !matcher->edge_keys || !matcher->edge_nodes)
        return lt_fail_nomem(err, slots * 16, "the matcher of added tokens");
    memset(matcher->root, 0xFF, sizeof matcher->root);
    return LT_OK;
}

static lt_status matcher_insert(lt_token_matcher *matcher, const lt_added_token *tokens,
                                int32_t index, const char *where, lt_err *err)
{
    const lt_added_token *token = &tokens[index];
    const unsigned char *bytes = (const unsigned char *)token->pattern;
    if (matcher->root[bytes[0]] < 0) matcher->root[bytes[0]] = new_node(matcher);
    int32_t node = matcher->root[bytes[0]];
    for (size_t i = 1; i < token->pattern_size; i++) {
        uint64_t key = edge_key(node, bytes[i]);
        size_t slot = edge_slot(matcher, key);
        if (matcher->edge_keys[slot] == 0) {
            matcher->edge_keys[slot] = key;
            matcher->edge_nodes[slot] = new_node(matcher);
        }
        node = matcher->edge_nodes[slot];
    }
    if (matcher->terminal[node] >= 0)
        return lt_fail(err, LT_ERR_FORMAT,
                       "%s: added tokens %d and %d are both \"%.100s\" in a text", where,
                       tokens[matcher->terminal[node]].id, token->id, token->pattern);
    matcher->terminal[node] = index;
    matcher->any = true;
    return LT_OK;
}

static lt_status matcher_build(lt_token_matcher *matcher, const lt_added_tokens *added,
                               bool normalized, const char *where, lt_err *err)
{
    size_t bytes = 0;
    for (size_t i = 0; i < added->count; i++) {
        if (added->tokens[i].normalized == normalized) bytes += added->tokens[i].pattern_size;
    }
    LT_TRY(matcher_allocate(matcher, bytes, where, err));
    for (size_t i = 0; i < added->count; i++) {
        if (added->tokens[i].normalized != normalized) continue;
        if (added->tokens[i].pattern_size == 0)
            return lt_fail(err, LT_ERR_FORMAT, "%s: added token %d is normalised to nothing", where,
                           added->tokens[i].id);
        LT_TRY(matcher_insert(matcher, added->tokens, (int32_t)i, where, err));
    }
    return LT_OK;
}

/* The longest pattern that begins where the scan is, or -1. */
static int32_t longest_at(const lt_token_matcher *matcher, const lt_token_scan *scan)
{
    int32_t found = -1;
    const unsigned char *text = (const unsigned char *)scan->text, *barred = scan->barred;
    if (barred && barred[scan->position]) return -1;
    int32_t node = matcher->root[text[scan->position]];
    for (size_t i = scan->position + 1; node >= 0; i++) {
        if (matcher->terminal[node] >= 0) found = matcher->terminal[node];
        if (i == scan->size || (barred && barred[i])) break;
        node = child(matcher, node, text[i]);
    }
    return found;
}

/* --- Scanning a text --------------------------------------------------------------------------
 */

static bool is_whole_word(const char *text, size_t size, size_t start, size_t stop)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t length;
    if (start > 0 && lt_class_at(lt_utf8_previous(p, p + start), &length) & LT_CLASS_WORD)
        return false;
    return stop == size || !(lt_class_at(p + stop, &length) & LT_CLASS_WORD);
}

static size_t spaces_before(const char *text, size_t low, size_t start)
{
    const unsigned char *p = (const unsigned char *)text;
    while (start > low) {
        const unsigned char *previous = lt_utf8_previous(p, p + start);
        size_t length;
        if (!(lt_class_at(previous, &length) & LT_CLASS_SPACE)) break;
        start = (size_t)(previous - p);
    }
    return start > low ? start : low;
}

static size_t spaces_after(const char *text, size_t size, size_t stop)
{
    size_t length;
    while (stop < size && lt_class_at((const unsigned char *)text + stop, &length) & LT_CLASS_SPACE)
        stop += length;
    return stop;
}

const lt_added_token *lt_token_scan_next(lt_token_scan *scan, size_t *begin, size_t *end)
{
    *begin = scan->consumed;
    const lt_token_matcher *matcher = scan->matcher;
    while (matcher->any && scan->position < scan->size) {
        if (matcher->root[(unsigned char)scan->text[scan->position]] < 0) {
            scan->position++;
            continue;
        }
        int32_t index = longest_at(matcher, scan);
        if (index < 0) {
            scan->position++;
            continue;
        }
        /* A match that is turned down still uses up its text, as in the reference library. */
        const lt_added_token *token = &scan->added->tokens[index];
        size_t start = scan->position, stop = start + token->pattern_size;
        scan->position = stop;
        if (scan->skip_special && token->special) continue;
        if (token->single_word && !is_whole_word(scan->text, scan->size, start, stop)) continue;
        if (token->lstrip) start = spaces_before(scan->text, scan->consumed, start);
        if (token->rstrip) stop = spaces_after(scan->text, scan->size, stop);
        /* Spaces that a token has swallowed may themselves begin a match. It is found again, unless
         * it is left with nothing because it would swallow the same ones. */
        if (start >= stop) continue;
        *end = start > *begin ? start : *begin;
        scan->consumed = stop;
        return token;
    }
    *end = scan->size > *begin ? scan->size : *begin;
    scan->consumed = scan->size;
    return NULL;
}

/* --- The list ---------------------------------------------------------------------------------
 */

void lt_added_tokens_free(lt_added_tokens *added)
{
    for (size_t i = 0; i < added->count; i++) {
        free(added->tokens[i].content);
        free(added->tokens[i].pattern);
    }
    free(added->tokens);
    free(added->slots);
    matcher_free(&added->raw);
    matcher_free(&added->normalized);
    *added = (lt_added_tokens){0};
}

static size_t content_slot(const lt_added_tokens *added, const char *content, size_t size)
{
    size_t i = (size_t)XXH3_64bits(content, size) & added->slot_mask;
    for (;; i = (i + 1) & added->slot_mask) {
        if (added->slots[i] < 0) return i;
        const lt_added_token *token = &added->tokens[added->slots[i]];
        if (token->content_size == size && memcmp(token->content, content, size) == 0) return i;
    }
}

const lt_added_token *lt_added_tokens_find(const lt_added_tokens *added, const char *content,
                                           size_t size)
{
    if (added->count == 0) return NULL;
    int32_t index = added->slots[content_slot(added, content, size)];
    return index < 0 ? NULL : &added->tokens[index];
}

const lt_added_token *lt_added_tokens_by_id(const lt_added_tokens *added, int32_t id)
{
    size_t low = 0, high = added->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (added->tokens[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < added->count && added->tokens[low].id == id ? &added->tokens[low] : NULL;
}

static char *copy_bytes(const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

/* Content and flags of one entry. */
static lt_status read_token(const json_t *entry, const char *where, lt_added_token *token,
                            lt_err *err)
{
    const char *content = NULL;
    int64_t id = -1;
    if (!json_is_object(entry))
        return lt_fail(err, LT_ERR_FORMAT, "%s: an entry of \"added_tokens\" is not an object",
                       where);
    LT_TRY(lt_json_get_string(entry, "content", where, &content, err));
    LT_TRY(lt_json_get_int(entry, "id", 0, LT_MAX_TOKEN_ID, where, &id, err));
    if (!content || id < 0)
        return lt_fail(err, LT_ERR_FORMAT, "%s: an added token lacks its \"%s\"", where,
                       content ? "id" : "content");
    LT_TRY(lt_json_get_bool(entry, "single_word", where, &token->single_word, err));
    LT_TRY(lt_json_get_bool(entry, "lstrip", where, &token->lstrip, err));
    LT_TRY(lt_json_get_bool(entry, "rstrip", where, &token->rstrip, err));
    LT_TRY(lt_json_get_bool(entry, "normalized", where, &token->normalized, err));
    LT_TRY(lt_json_get_bool(entry, "special", where, &token->special, err));
    token->id = (int32_t)id;
    token->content_size = strlen(content);
    token->content = copy_bytes(content, token->content_size);
    return token->content ? LT_OK : lt_fail_nomem(err, token->content_size, "an added token");
}

/* The reference library gives an added token the vocabulary's id when the vocabulary has it, else
 * the next free one, whatever the file says. A file that says otherwise is refused: one of the two
 * would be wrong. */
static lt_status check_id(const lt_added_token *token, const lt_vocabulary *vocabulary,
                          int64_t *next_id, const char *where, lt_err *err)
{
    int32_t known = lt_vocabulary_find(vocabulary, token->content, token->content_size);
    int64_t expected = known >= 0 ? known : *next_id;
    if (token->id != expected)
        return lt_fail(
            err, LT_ERR_FORMAT, "%s: added token \"%.100s\" has id %d, but %s gives %lld", where,
            token->content, token->id,
            known >= 0 ? "the vocabulary" : "the order of the added tokens", (long long)expected);
    if (known < 0 && lt_vocabulary_spelling(vocabulary, token->id, NULL))
        return lt_fail(err, LT_ERR_FORMAT, "%s: added token \"%.100s\" takes id %d of \"%.100s\"",
                       where, token->content, token->id,
                       lt_vocabulary_spelling(vocabulary, token->id, NULL));
    if (known < 0) ++*next_id;
    return LT_OK;
}

static lt_status add_entry(lt_added_tokens *added, const json_t *entry,
                           const lt_vocabulary *vocabulary, int64_t *next_id, const char *where,
                           lt_err *err)
{
    lt_added_token token = {0};
    lt_status status = read_token(entry, where, &token, err);
    if (status != LT_OK || token.content_size == 0) goto done; /* empty: ignored, as there */
    size_t slot = content_slot(added, token.content, token.content_size);
    if (added->slots[slot] >= 0) { /* said again: the later flags count */
        lt_added_token *known = &added->tokens[added->slots[slot]];
        free(known->content);
        token.id = known->id;
        *known = token;
        return LT_OK;
    }
    LT_TRY_GOTO(status, check_id(&token, vocabulary, next_id, where, err), done);
    added->slots[slot] = (int32_t)added->count;
    added->tokens[added->count++] = token;
    return LT_OK;
done:
    free(token.content);
    return status;
}

static int by_id(const void *a, const void *b)
{
    int32_t left = ((const lt_added_token *)a)->id, right = ((const lt_added_token *)b)->id;
    return (left > right) - (left < right);
}

static lt_status allocate_list(lt_added_tokens *added, size_t count, lt_err *err)
{
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    added->slot_mask = slots - 1;
    added->tokens = calloc(count ? count : 1, sizeof *added->tokens);
    added->slots = malloc(slots * sizeof *added->slots);
    if (!added->tokens || !added->slots)
        return lt_fail_nomem(err, count * sizeof *added->tokens, "the added tokens");
    memset(added->slots, 0xFF, slots * sizeof *added->slots);
    return LT_OK;
}

/* What each token looks like in a normalised text, and whether it shows when decoded. */
static lt_status set_patterns(lt_added_tokens *added, const lt_normalizer *normalizer, lt_err *err)
{
    lt_buffer buffers[2] = {{0}, {0}};
    lt_status status = LT_OK;
    for (size_t i = 0; i < added->count; i++) {
        lt_added_token *token = &added->tokens[i];
        const char *pattern = token->content;
        size_t size = token->content_size;
        if (token->normalized)
            LT_TRY_GOTO(status,
                        lt_normalize(normalizer, pattern, size, buffers, &pattern, &size, err),
                        done);
        token->pattern_size = size;
        token->pattern = copy_bytes(pattern, size);
        if (!token->pattern) {
            status = lt_fail_nomem(err, size, "an added token");
            goto done;
        }
    }
    for (size_t i = 0; i < added->count; i++) { /* skipped by what it decodes to, as there */
        lt_added_token *token = &added->tokens[i];
        const lt_added_token *named =
            lt_added_tokens_find(added, token->pattern, token->pattern_size);
        token->skipped = named && named->special;
    }
done:
    lt_buffer_free(&buffers[0]);
    lt_buffer_free(&buffers[1]);
    return status;
}

lt_status lt_added_tokens_build(lt_added_tokens *added, const json_t *array,
                                const lt_vocabulary *vocabulary, const lt_normalizer *normalizer,
                                const char *where, lt_err *err)
{
    *added = (lt_added_tokens){0};
    if (array && !json_is_null(array) && !json_is_array(array))
        return lt_fail(err, LT_ERR_FORMAT, "%s: \"added_tokens\" is not an array", where);
    size_t count = json_array_size(array);
    LT_TRY(allocate_list(added, count, err));
    int64_t next_id = vocabulary->count;
    for (size_t i = 0; i < count; i++)
        LT_TRY(add_entry(added, json_array_get(array, i), vocabulary, &next_id, where, err));
    qsort(added->tokens, added->count, sizeof *added->tokens, by_id);
    memset(added->slots, 0xFF, (added->slot_mask + 1) * sizeof *added->slots);
    for (size_t i = 0; i < added->count; i++) {
        const lt_added_token *token = &added->tokens[i];
        added->slots[content_slot(added, token->content, token->content_size)] = (int32_t)i;
    }
    LT_TRY(set_patterns(added, normalizer, err));
    LT_TRY(matcher_build(&added->raw, added, false, where, err));
    return matcher_build(&added->normalized, added, true, where, err);
}
