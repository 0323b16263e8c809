/* Training a byte-level BPE: the most frequent pair of neighbours becomes a token, again and again.
 *
 * Counts are kept up to date: a merge touches only the words that have the pair, which its entry in
 * the heap lists. Heap entries may be out of date; then they go back in with their count of now.
 * The order is that of Hugging Face's trainer (highest count, then lowest ids), so the same text
 * gives the same tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "data_pipeline/bpe_train.h"

/* A word as symbols; it shrinks in place. */
typedef struct training_word {
    size_t begin; /* in trainer.symbols */
    uint32_t length;
    int64_t count;
} training_word;

/* A pair, how often it occurs now, and the entry being made for it in this step. */
typedef struct pair_slot {
    uint64_t pair; /* LT_NO_PAIR: free */
    int64_t count;
    uint32_t pending; /* entry index, NO_ENTRY: none */
} pair_slot;

#define NO_ENTRY UINT32_MAX
#define NO_NODE  UINT32_MAX

/* What may be merged: the pair, its count when it was put in, and the words to look at. */
typedef struct merge_entry {
    uint64_t pair;
    int64_t count;
    uint32_t first_node;
} merge_entry;

typedef struct word_node {
    uint32_t word, next;
} word_node;

/* An array that grows. */
typedef struct growing {
    void *data;
    size_t count, capacity, size;
} growing;

typedef struct trainer {
    training_word *words;
    size_t word_count;
    int32_t *symbols;
    pair_slot *slots;
    size_t slot_mask, slot_count;
    growing entries; /* merge_entry */
    growing nodes;   /* word_node */
    growing heap;    /* uint32_t: entries */
    growing touched; /* uint32_t: entries made in this step */
    growing merges;  /* uint64_t: pairs in the order of their ranks */
    lt_buffer text;  /* spellings of the tokens, one after the other */
    growing begins;  /* size_t: where each token begins in text, and the end */
    json_t *vocab;   /* spelling in the byte-level alphabet: id */
    int32_t byte_ids[256];
} trainer;

static lt_status push(growing *array, const void *value, lt_err *err)
{
    if (array->count == array->capacity) {
        size_t capacity = array->capacity ? array->capacity * 2 : 1024, bytes;
        if (capacity >= NO_NODE || !lt_mul_size(capacity, array->size, &bytes))
            return lt_fail(err, LT_ERR_LIMIT, "the training text is too large");
        void *data = realloc(array->data, bytes);
        if (!data) return lt_fail_nomem(err, bytes, "tokenizer training");
        array->data = data;
        array->capacity = capacity;
    }
    memcpy((char *)array->data + array->count++ * array->size, value, array->size);
    return LT_OK;
}

/* --- The vocabulary ---------------------------------------------------------------------------
 */

/* The id of the token that is spelled so: the one it has, or the next. */
static lt_status token_id(trainer *t, const char *spelling, int32_t *id, lt_err *err)
{
    const json_t *known = json_object_get(t->vocab, spelling);
    if (known) {
        *id = (int32_t)json_integer_value(known);
        return LT_OK;
    }
    *id = (int32_t)json_object_size(t->vocab);
    if (json_object_set_new(t->vocab, spelling, json_integer(*id)) != 0)
        return lt_fail_nomem(err, strlen(spelling), "tokenizer training");
    LT_TRY(lt_buffer_append_text(&t->text, spelling, err));
    return push(&t->begins, &t->text.size, err);
}

static lt_status append_spelling(const trainer *t, int32_t id, lt_buffer *out, lt_err *err)
{
    const size_t *begins = t->begins.data;
    return lt_buffer_append(out, t->text.data + begins[id], begins[id + 1] - begins[id], err);
}

static lt_status start_vocabulary(trainer *t, const lt_bpe_train_settings *settings, lt_err *err)
{
    t->vocab = json_object();
    if (!t->vocab) return lt_fail_nomem(err, 64, "tokenizer training");
    size_t zero = 0;
    int32_t id;
    LT_TRY(push(&t->begins, &zero, err));
    for (size_t i = 0; i < settings->special_token_count; i++) {
        const char *special = settings->special_tokens[i];
        size_t size = strlen(special);
        if (size == 0 || lt_utf8_valid_prefix(special, size) != size)
            return lt_fail(err, LT_ERR_USAGE, "special token %zu is empty or not UTF-8", i + 1);
        LT_TRY(token_id(t, special, &id, err));
    }
    for (uint32_t c = 0; c < 324; c++) { /* the alphabet in the order of its characters */
        int byte = lt_char_to_byte(c);
        if (byte < 0) continue;
        char spelling[5] = {0};
        lt_utf8_encode(c, spelling);
        LT_TRY(token_id(t, spelling, &t->byte_ids[byte], err));
    }
    return LT_OK;
}

/* --- Pairs and entries ------------------------------------------------------------------------
 */

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t slot_index(const pair_slot *slots, size_t mask, uint64_t pair)
{
    size_t i = lt_merge_hash(pair) & mask;
    while (slots[i].pair != LT_NO_PAIR && slots[i].pair != pair)
        i = (i + 1) & mask;
    return i;
}

static lt_status grow_slots(trainer *t, lt_err *err)
{
    size_t size = t->slots ? (t->slot_mask + 1) * 2 : 1 << 14;
    pair_slot *slots = malloc(size * sizeof *slots);
    if (!slots) return lt_fail_nomem(err, size * sizeof *slots, "tokenizer training");
    for (size_t i = 0; i < size; i++)
        slots[i] = (pair_slot){.pair = LT_NO_PAIR, .pending = NO_ENTRY};
    for (size_t i = 0; t->slots && i <= t->slot_mask; i++) {
        if (t->slots[i].pair != LT_NO_PAIR)
            slots[slot_index(slots, size - 1, t->slots[i].pair)] = t->slots[i];
    }
    free(t->slots);
    t->slots = slots;
    t->slot_mask = size - 1;
    return LT_OK;
}

/* Adds to a pair's count. A pair that gained gets an entry in this step that lists the word. */
static lt_status change_pair(trainer *t, uint64_t pair, int64_t change, uint32_t word, lt_err *err)
{
    if (!t->slots || t->slot_count * 2 > t->slot_mask) LT_TRY(grow_slots(t, err));
    pair_slot *slot = &t->slots[slot_index(t->slots, t->slot_mask, pair)];
    if (slot->pair == LT_NO_PAIR) {
        slot->pair = pair;
        t->slot_count++;
    }
    slot->count += change;
    if (change < 0) return LT_OK;
    if (slot->pending == NO_ENTRY) {
        slot->pending = (uint32_t)t->entries.count;
        merge_entry entry = {.pair = pair, .first_node = NO_NODE};
        LT_TRY(push(&t->entries, &entry, err));
        LT_TRY(push(&t->touched, &slot->pending, err));
    }
    merge_entry *entry = &((merge_entry *)t->entries.data)[slot->pending];
    const word_node *nodes = t->nodes.data;
    if (entry->first_node != NO_NODE && nodes[entry->first_node].word == word) return LT_OK;
    word_node node = {word, entry->first_node};
    entry->first_node = (uint32_t)t->nodes.count;
    return push(&t->nodes, &node, err);
}

static int64_t pair_count(const trainer *t, uint64_t pair)
{
    return t->slots[slot_index(t->slots, t->slot_mask, pair)].count;
}

/* --- The heap ---------------------------------------------------------------------------------
 */

static bool goes_before(const trainer *t, uint32_t a, uint32_t b)
{
    const merge_entry *left = &((const merge_entry *)t->entries.data)[a];
    const merge_entry *right = &((const merge_entry *)t->entries.data)[b];
    if (left->count != right->count) return left->count > right->count;
    return left->pair < right->pair;
}

static lt_status heap_push(trainer *t, uint32_t entry, lt_err *err)
{
    LT_TRY(push(&t->heap, &entry, err));
    uint32_t *heap = t->heap.data;
    size_t i = t->heap.count - 1;
    for (; i > 0 && goes_before(t, entry, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
    return LT_OK;
}

static uint32_t heap_pop(trainer *t)
{
    uint32_t *heap = t->heap.data;
    uint32_t top = heap[0], moved = heap[--t->heap.count];
    size_t i = 0, n = t->heap.count;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && goes_before(t, heap[child + 1], heap[child])) child++;
        if (!goes_before(t, heap[child], moved)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
    return top;
}

/* Puts the entries of this step into the heap. */
static lt_status flush_touched(trainer *t, lt_err *err)
{
    const uint32_t *touched = t->touched.data;
    for (size_t i = 0; i < t->touched.count; i++) {
        merge_entry *entry = &((merge_entry *)t->entries.data)[touched[i]];
        pair_slot *slot = &t->slots[slot_index(t->slots, t->slot_mask, entry->pair)];
        slot->pending = NO_ENTRY;
        entry->count = slot->count;
        if (entry->count > 0) LT_TRY(heap_push(t, touched[i], err));
    }
    t->touched.count = 0;
    return LT_OK;
}

/* --- Training ---------------------------------------------------------------------------------
 */

static lt_status start_words(trainer *t, const lt_word_counts *counts, lt_err *err)
{
    t->word_count = counts->used;
    t->words = malloc((counts->used + 1) * sizeof *t->words);
    t->symbols = malloc((counts->text.size + 1) * sizeof *t->symbols);
    if (!t->words || !t->symbols)
        return lt_fail_nomem(err, counts->text.size * 4 + counts->used * sizeof *t->words,
                             "tokenizer training");
    for (size_t i = 0; i < counts->text.size; i++)
        t->symbols[i] = t->byte_ids[(unsigned char)counts->text.data[i]];
    for (size_t i = 0; i < counts->used; i++) {
        const lt_word_count *word = &counts->words[i];
        t->words[i] = (training_word){word->begin, word->size, word->count};
        for (size_t k = word->begin; k + 1 < word->begin + word->size; k++)
            LT_TRY(change_pair(t, pair_of(t->symbols[k], t->symbols[k + 1]), word->count,
                               (uint32_t)i, err));
    }
    return flush_touched(t, err);
}

/* Replaces left, right by `id` throughout a word, from the left, and follows the counts of the
 * pairs around. */
static lt_status merge_in_word(trainer *t, uint32_t index, int32_t left, int32_t right, int32_t id,
                               lt_err *err)
{
    training_word *word = &t->words[index];
    int32_t *symbols = t->symbols + word->begin;
    uint32_t out = 0, length = word->length;
    for (uint32_t i = 0; i < length;) {
        if (symbols[i] != left || i + 1 == length || symbols[i + 1] != right) {
            symbols[out++] = symbols[i++];
            continue;
        }
        if (out > 0) {
            LT_TRY(change_pair(t, pair_of(symbols[out - 1], left), -word->count, index, err));
            LT_TRY(change_pair(t, pair_of(symbols[out - 1], id), word->count, index, err));
        }
        i += 2;
        if (i < length) {
            LT_TRY(change_pair(t, pair_of(right, symbols[i]), -word->count, index, err));
            LT_TRY(change_pair(t, pair_of(id, symbols[i]), word->count, index, err));
        }
        symbols[out++] = id;
    }
    word->length = out;
    return LT_OK;
}

static lt_status merge_pair(trainer *t, uint64_t pair, uint32_t first_node, lt_buffer *spelling,
                            lt_err *err)
{
    int32_t left = (int32_t)(pair >> 32), right = (int32_t)(pair & UINT32_MAX), id;
    lt_buffer_clear(spelling);
    LT_TRY(append_spelling(t, left, spelling, err));
    LT_TRY(append_spelling(t, right, spelling, err));
    LT_TRY(token_id(t, spelling->data, &id, err));
    LT_TRY(push(&t->merges, &pair, err));
    for (uint32_t node = first_node; node != NO_NODE;) {
        word_node at = ((const word_node *)t->nodes.data)[node];
        LT_TRY(merge_in_word(t, at.word, left, right, id, err));
        node = at.next;
    }
    return flush_touched(t, err);
}

static lt_status merge_all(trainer *t, const lt_bpe_train_settings *settings, lt_err *err)
{
    lt_buffer spelling = {0};
    lt_status status = LT_OK;
    while (status == LT_OK && t->heap.count > 0 &&
           json_object_size(t->vocab) < (size_t)settings->vocab_size) {
        uint32_t top = heap_pop(t);
        merge_entry *entry = &((merge_entry *)t->entries.data)[top];
        int64_t now = pair_count(t, entry->pair);
        if (entry->count != now) {
            entry->count = now;
            status = heap_push(t, top, err);
            continue;
        }
        if (now < 1 || now < settings->min_frequency) break;
        status = merge_pair(t, entry->pair, entry->first_node, &spelling, err);
    }
    lt_buffer_free(&spelling);
    return status;
}

/* --- The result -------------------------------------------------------------------------------
 */

/* ["left", "right"] of each merge. A pair that came up twice counts where it came last. */
static lt_status merges_json(const trainer *t, json_t **out, lt_err *err)
{
    json_t *array = json_array();
    const uint64_t *merges = t->merges.data;
    const size_t *begins = t->begins.data;
    for (size_t i = 0; array && i < t->merges.count; i++) {
        const pair_slot *slot = &t->slots[slot_index(t->slots, t->slot_mask, merges[i])];
        if (slot->pending != (uint32_t)i) continue;
        size_t left = (size_t)(merges[i] >> 32), right = (size_t)(merges[i] & UINT32_MAX);
        json_t *entry =
            json_pack("[s%, s%]", t->text.data + begins[left], begins[left + 1] - begins[left],
                      t->text.data + begins[right], begins[right + 1] - begins[right]);
        if (!entry || json_array_append_new(array, entry) != 0) {
            json_decref(array);
            array = NULL;
        }
    }
    *out = array;
    return array ? LT_OK : lt_fail_nomem(err, t->text.size, "tokenizer training");
}

/* Marks in each pair's slot the last merge of it. */
static void mark_last_merges(trainer *t)
{
    const uint64_t *merges = t->merges.data;
    for (size_t i = 0; i < t->merges.count; i++)
        t->slots[slot_index(t->slots, t->slot_mask, merges[i])].pending = (uint32_t)i;
}

static json_t *special_entries(const lt_bpe_train_settings *settings, const json_t *vocab)
{
    json_t *array = json_array();
    for (size_t i = 0; i < settings->special_token_count; i++) {
        const char *content = settings->special_tokens[i];
        json_array_append_new(array, json_pack("{s:O,s:s,s:b,s:b,s:b,s:b,s:b}", "id",
                                               json_object_get(vocab, content), "content", content,
                                               "single_word", 0, "lstrip", 0, "rstrip", 0,
                                               "normalized", 0, "special", 1));
    }
    return array;
}

static json_t *make_config(const lt_bpe_train_settings *settings)
{
    json_t *config =
        json_pack("{s:b,s:b,s:s}", "add_prefix_space", 0, "clean_up_tokenization_spaces", 0,
                  "tokenizer_class", "PreTrainedTokenizerFast");
    if (settings->special_token_count > 0) { /* the first one ends texts, as in GPT-2 */
        json_object_set_new(config, "bos_token", json_string(settings->special_tokens[0]));
        json_object_set_new(config, "eos_token", json_string(settings->special_tokens[0]));
        json_object_set_new(config, "unk_token", json_string(settings->special_tokens[0]));
    }
    return config;
}

static lt_status make_tokenizer(trainer *t, const lt_bpe_train_settings *settings,
                                lt_tokenizer **out, lt_err *err)
{
    json_t *merges = NULL;
    mark_last_merges(t);
    LT_TRY(merges_json(t, &merges, err));
    json_t *json = lt_gpt2_tokenizer_json(json_incref(t->vocab), merges,
                                          special_entries(settings, t->vocab), false);
    json_t *config = make_config(settings);
    if (json && config)
        return lt_tokenizer_from_json(json, config, NULL, "the trained tokenizer", out, err);
    json_decref(json);
    json_decref(config);
    return lt_fail_nomem(err, t->text.size, "the trained tokenizer");
}

static void trainer_free(trainer *t)
{
    free(t->words);
    free(t->symbols);
    free(t->slots);
    free(t->entries.data);
    free(t->nodes.data);
    free(t->heap.data);
    free(t->touched.data);
    free(t->merges.data);
    free(t->begins.data);
    lt_buffer_free(&t->text);
    json_decref(t->vocab);
}

lt_status lt_tokenizer_train(const char *const *files, size_t file_count,
                             const lt_bpe_train_settings *settings, lt_tokenizer **out, lt_err *err)
{
    *out = NULL;
    int64_t least = 256 + (int64_t)settings->special_token_count;
    if (settings->vocab_size < least || settings->vocab_size > LT_MAX_TOKEN_ID)
        return lt_fail(err, LT_ERR_USAGE,
                       "a vocabulary of %lld tokens is not possible: at least %lld (256 bytes and "
                       "the special tokens) and at most %d are",
                       (long long)settings->vocab_size, (long long)least, LT_MAX_TOKEN_ID);
    lt_word_counts counts = {0};
    trainer t = {.entries.size = sizeof(merge_entry),
                 .nodes.size = sizeof(word_node),
                 .heap.size = sizeof(uint32_t),
                 .touched.size = sizeof(uint32_t),
                 .merges.size = sizeof(uint64_t),
                 .begins.size = sizeof(size_t)};
    lt_status status;
    LT_TRY_GOTO(status, lt_count_words(files, file_count, settings->threads, &counts, err), done);
    if (counts.used == 0) {
        status = lt_fail(err, LT_ERR_FORMAT, "there is no text to train a tokenizer on");
        goto done;
    }
    LT_TRY_GOTO(status, grow_slots(&t, err), done);
    LT_TRY_GOTO(status, start_vocabulary(&t, settings, err), done);
    LT_TRY_GOTO(status, start_words(&t, &counts, err), done);
    LT_TRY_GOTO(status, merge_all(&t, settings, err), done);
    status = make_tokenizer(&t, settings, out, err);
done:
    lt_word_counts_free(&counts);
    trainer_free(&t);
    return status;
}
