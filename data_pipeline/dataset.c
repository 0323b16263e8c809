/* A dataset in memory: what the loader, the trainer and `lathe inspect` ask of it. */
#include "data_pipeline/dataset.h"

#include <stdlib.h>

#include "base/json.h"
#include "data_pipeline/store.h"

void lt_dataset_close(lt_dataset *dataset)
{
    if (!dataset) return;
    for (int s = 0; s < 2; s++) {
        lt_split_data *split = &dataset->splits[s];
        free(split->tokens);
        free(split->mask);
        free(split->offsets);
        free(split->category);
        free(split->records);
        free(split->record_offsets);
    }
    for (size_t i = 0; i < dataset->category_count; i++)
        free(dataset->categories[i]);
    free(dataset->categories);
    lt_tokenizer_free(dataset->tokenizer);
    free(dataset);
}

int64_t lt_dataset_count(const lt_dataset *dataset, lt_split split)
{
    return dataset->splits[split].count;
}

lt_document lt_dataset_document(const lt_dataset *dataset, lt_split split, int64_t index)
{
    const lt_split_data *data = &dataset->splits[split];
    uint64_t begin = data->offsets[index];
    uint32_t category = data->category[index];
    return (lt_document){
        .tokens = data->tokens + begin,
        .mask = data->mask + begin,
        .length = (int64_t)(data->offsets[index + 1] - begin),
        .category = category == LT_NO_CATEGORY ? NULL : dataset->categories[category],
    };
}

lt_template lt_dataset_template(const lt_dataset *dataset)
{
    return dataset->report.template_;
}

lt_record_format lt_dataset_format(const lt_dataset *dataset)
{
    return dataset->report.format;
}

const char *lt_dataset_hash(const lt_dataset *dataset)
{
    return dataset->hash;
}

const lt_tokenizer *lt_dataset_tokenizer(const lt_dataset *dataset)
{
    return dataset->tokenizer;
}

int64_t lt_dataset_max_length(const lt_dataset *dataset)
{
    return dataset->max_length;
}

const lt_prepare_report *lt_dataset_report(const lt_dataset *dataset)
{
    return &dataset->report;
}

int64_t lt_dataset_longest(const lt_dataset *dataset, lt_split split)
{
    const lt_split_data *data = &dataset->splits[split];
    uint64_t longest = 0;
    for (int64_t i = 0; i < data->count; i++) {
        uint64_t length = data->offsets[i + 1] - data->offsets[i];
        if (length > longest) longest = length;
    }
    return (int64_t)longest;
}

lt_status lt_dataset_record(const lt_dataset *dataset, lt_split split, int64_t index,
                            lt_record *out, lt_err *err)
{
    const lt_split_data *data = &dataset->splits[split];
    if (!data->records)
        return lt_fail(err, LT_ERR_USAGE,
                       "the records of the training split are not kept; only "
                       "those of the validation split are");
    if (index < 0 || index >= data->count)
        return lt_fail(err, LT_ERR_USAGE, "validation record %lld was asked for; there are %lld",
                       (long long)index, (long long)data->count);
    char where[64];
    snprintf(where, sizeof where, "validation record %lld", (long long)index);
    uint64_t begin = data->record_offsets[index];
    json_t *json = NULL;
    LT_TRY(lt_json_parse(data->records + begin, data->record_offsets[index + 1] - begin, where,
                         &json, err));
    lt_status status = lt_record_from_json(json, dataset->report.format, where, out, err);
    json_decref(json);
    return status;
}
