/* The held-out split and the order of documents: a sort by random ranks, so it depends on the seed
 * and the records alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/prepare.h"

void lt_collection_free(lt_collection *collection)
{
    free(collection->documents);
    lt_ids_free(&collection->tokens);
    lt_buffer_free(&collection->mask);
    lt_buffer_free(&collection->records);
    json_decref(collection->categories);
    *collection = (lt_collection){0};
}

static int by_rank(const void *left, const void *right)
{
    const lt_collected_document *a = left, *b = right;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

/* How many of `free_documents` to hold out. */
static lt_status held_out_count(double validation, size_t free_documents, size_t *out, lt_err *err)
{
    *out = 0;
    if (validation <= 0 || free_documents == 0) return LT_OK;
    if (validation < 1) {
        *out = (size_t)llround(validation * (double)free_documents);
        if (*out == 0) *out = 1;
    } else {
        *out = validation >= (double)SIZE_MAX ? SIZE_MAX : (size_t)validation;
    }
    if (*out < free_documents) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "--validation %g would hold out %zu of %zu documents and leave none to train on",
                   validation, *out, free_documents);
}

static lt_status allocate_split(lt_split_data *split, size_t documents, size_t tokens,
                                size_t records, bool with_records, lt_err *err)
{
    split->tokens = malloc((tokens + 1) * sizeof *split->tokens);
    split->mask = malloc(tokens + 1);
    split->offsets = calloc(documents + 1, sizeof *split->offsets);
    split->category = malloc((documents + 1) * sizeof *split->category);
    bool ok = split->tokens && split->mask && split->offsets && split->category;
    if (with_records) {
        split->records = malloc(records + 1);
        split->record_offsets = calloc(documents + 1, sizeof *split->record_offsets);
        ok = ok && split->records && split->record_offsets;
    }
    return ok ? LT_OK : lt_fail_nomem(err, tokens * 5 + records, "the dataset");
}

/* Appends document `d` to a split that has room for it. */
static void append(const lt_collection *collection, const lt_collected_document *d,
                   lt_split_data *split)
{
    int64_t i = split->count++;
    memcpy(split->tokens + split->token_count, collection->tokens.data + d->begin,
           d->length * sizeof *split->tokens);
    memcpy(split->mask + split->token_count, collection->mask.data + d->begin, d->length);
    split->token_count += (int64_t)d->length;
    split->offsets[i + 1] = (uint64_t)split->token_count;
    split->category[i] = d->category;
    if (!split->records) return;
    uint64_t at = split->record_offsets[i];
    memcpy(split->records + at, collection->records.data + d->record_begin, d->record_length);
    split->record_offsets[i + 1] = at + d->record_length;
}

static lt_status take_categories(const lt_collection *collection, lt_dataset *dataset, lt_err *err)
{
    size_t count = json_object_size(collection->categories);
    dataset->categories = calloc(count + 1, sizeof *dataset->categories);
    if (!dataset->categories) return lt_fail_nomem(err, count * sizeof(char *), "categories");
    dataset->category_count = count;
    const char *name;
    json_t *index;
    json_object_foreach(collection->categories, name, index)
    {
        char *copy = strdup(name);
        if (!copy) return lt_fail_nomem(err, strlen(name), "a category");
        dataset->categories[json_integer_value(index)] = copy;
    }
    return LT_OK;
}

static void count_documents(lt_dataset *dataset)
{
    lt_prepare_report *report = &dataset->report;
    report->train = dataset->splits[LT_SPLIT_TRAIN].count;
    report->validation = dataset->splits[LT_SPLIT_VALIDATION].count;
    for (int s = 0; s < 2; s++) {
        const lt_split_data *split = &dataset->splits[s];
        report->tokens += split->token_count;
        for (int64_t i = 0; i < split->count; i++) {
            for (uint64_t t = split->offsets[i] + 1; t < split->offsets[i + 1]; t++)
                report->trained_tokens += split->mask[t];
        }
        int64_t longest = lt_dataset_longest(dataset, (lt_split)s);
        if (longest > report->longest) report->longest = longest;
    }
}

lt_status lt_collection_deal(lt_collection *collection, double validation, lt_dataset *dataset,
                             lt_err *err)
{
    size_t free_documents = 0, held_out, documents[2] = {0}, tokens[2] = {0}, records = 0;
    for (size_t i = 0; i < collection->count; i++)
        free_documents += collection->documents[i].side == LT_SIDE_ANY;
    LT_TRY(held_out_count(validation, free_documents, &held_out, err));
    qsort(collection->documents, collection->count, sizeof *collection->documents, by_rank);
    for (size_t i = 0; i < collection->count; i++) {
        lt_collected_document *d = &collection->documents[i];
        if (d->side == LT_SIDE_ANY) {
            d->side = held_out > 0 ? LT_SIDE_VALIDATION : LT_SIDE_TRAIN;
            held_out -= held_out > 0;
        }
        int s = d->side == LT_SIDE_VALIDATION;
        documents[s]++;
        tokens[s] += d->length;
        if (s) records += d->record_length;
    }
    for (int s = 0; s < 2; s++) {
        bool validation_split = s == LT_SPLIT_VALIDATION;
        LT_TRY(allocate_split(&dataset->splits[s], documents[s], tokens[s],
                              validation_split ? records : 0, validation_split, err));
    }
    for (size_t i = 0; i < collection->count; i++) {
        const lt_collected_document *d = &collection->documents[i];
        append(collection, d, &dataset->splits[d->side == LT_SIDE_VALIDATION]);
    }
    LT_TRY(take_categories(collection, dataset, err));
    count_documents(dataset);
    return LT_OK;
}
