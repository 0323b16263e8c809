/* `lathe inspect DATA.h5`: what a dataset holds, for a reader who wants to know whether training on
 * it makes sense. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "data_pipeline/store.h"

/* How the trained part of a sample is marked: bold green on a terminal, brackets elsewhere. */
typedef struct marks {
    const char *begin, *end;
} marks;

static void print_facts(const lt_dataset *dataset, const char *path, FILE *out)
{
    const lt_prepare_report *r = &dataset->report;
    const lt_tokenizer *tokenizer = dataset->tokenizer;
    const char *stop = lt_tokenizer_token(tokenizer, lt_template_stop_id(r->template_, tokenizer));
    fprintf(out, "%s: dataset made by lathe prepare, hash verified\n\n", path);
    fprintf(out, "  record format    %s\n", lt_record_format_name(r->format));
    fprintf(out, "  template         %s (answers end with %s)\n", lt_template_name(r->template_),
            stop ? stop : "nothing");
    fprintf(out, "  tokenizer        %lld tokens, hash %s\n",
            (long long)lt_tokenizer_vocab_size(tokenizer), lt_tokenizer_hash(tokenizer));
    if (r->added_special_tokens)
        fprintf(out, "                   %lld special tokens added for the template\n",
                (long long)r->added_special_tokens);
    fprintf(out, "  source hash      %s\n", dataset->source_hash);
    fprintf(out, "  seed             %llu\n", (unsigned long long)dataset->seed);
    fprintf(out, "  tokens           %lld, of them trained %lld (%.1f %%)\n", (long long)r->tokens,
            (long long)r->trained_tokens,
            r->tokens ? 100.0 * (double)r->trained_tokens / (double)r->tokens : 0.0);
}

static void print_counts(const lt_dataset *dataset, FILE *out)
{
    const lt_prepare_report *r = &dataset->report;
    fprintf(out, "\n  records read     %lld\n", (long long)r->read);
    fprintf(out, "  train            %lld documents, %lld tokens, longest %lld\n",
            (long long)r->train, (long long)dataset->splits[LT_SPLIT_TRAIN].token_count,
            (long long)lt_dataset_longest(dataset, LT_SPLIT_TRAIN));
    fprintf(out, "  validation       %lld documents, %lld tokens, longest %lld\n",
            (long long)r->validation, (long long)dataset->splits[LT_SPLIT_VALIDATION].token_count,
            (long long)lt_dataset_longest(dataset, LT_SPLIT_VALIDATION));
    int64_t dropped = r->dropped_too_long + r->dropped_duplicates + r->dropped_near_duplicates;
    fprintf(out, "  dropped          %lld\n", (long long)dropped);
    if (r->dropped_too_long)
        fprintf(out, "    %8lld  too long (%lld tokens or more)\n", (long long)r->dropped_too_long,
                (long long)dataset->max_length);
    if (r->dropped_duplicates)
        fprintf(out, "    %8lld  the same as an earlier record\n",
                (long long)r->dropped_duplicates);
    if (r->dropped_near_duplicates)
        fprintf(out, "    %8lld  nearly the same as an earlier record\n",
                (long long)r->dropped_near_duplicates);
}

static void print_bar(FILE *out, int64_t count, int64_t most)
{
    enum { WIDTH = 40 };
    int64_t length = most ? (count * WIDTH + most - 1) / most : 0;
    for (int64_t i = 0; i < length; i++)
        fputc('#', out);
    fputc('\n', out);
}

/* Documents of both splits by length, in powers of two. */
static void print_lengths(const lt_dataset *dataset, FILE *out)
{
    int64_t counts[64] = {0}, most = 0;
    int first = 63, last = 0;
    for (int s = 0; s < 2; s++) {
        const lt_split_data *split = &dataset->splits[s];
        for (int64_t i = 0; i < split->count; i++) {
            uint64_t length = split->offsets[i + 1] - split->offsets[i];
            int bin = 63 - __builtin_clzll(length); /* documents are never empty */
            counts[bin]++;
            most = lt_max_i64(most, counts[bin]);
            if (bin < first) first = bin;
            if (bin > last) last = bin;
        }
    }
    fputs("\n  length in tokens    documents\n", out);
    for (int bin = first; bin <= last; bin++) {
        fprintf(out, "  %7llu - %-7llu %9lld  ", 1ull << bin, (2ull << bin) - 1,
                (long long)counts[bin]);
        print_bar(out, counts[bin], most);
    }
}

static void print_categories(const lt_dataset *dataset, FILE *out)
{
    int64_t *counts = calloc(dataset->category_count + 1, sizeof *counts);
    if (!counts || dataset->category_count == 0) {
        free(counts);
        return;
    }
    enum { SHOWN = 20 };
    for (int s = 0; s < 2; s++) {
        const lt_split_data *split = &dataset->splits[s];
        for (int64_t i = 0; i < split->count; i++)
            if (split->category[i] != LT_NO_CATEGORY) counts[split->category[i]]++;
    }
    fputs("\n  category                   documents\n", out);
    for (size_t i = 0; i < dataset->category_count && i < SHOWN; i++)
        fprintf(out, "  %-26s %9lld\n", dataset->categories[i], (long long)counts[i]);
    if (dataset->category_count > SHOWN)
        fprintf(out, "  and %zu more categories\n", dataset->category_count - SHOWN);
    free(counts);
}

/* The document's text with the trained stretches between marks. Each stretch is decoded as one, so
 * that characters of several tokens stay whole. */
static lt_status print_document(const lt_dataset *dataset, lt_split split, int64_t index,
                                const marks *mark, FILE *out, lt_err *err)
{
    lt_document document = lt_dataset_document(dataset, split, index);
    lt_buffer text = {0};
    lt_status status = LT_OK;
    fprintf(out, "\n--- %s %lld%s%s%s: %lld tokens ---\n",
            split == LT_SPLIT_TRAIN ? "train" : "validation", (long long)index,
            document.category ? " (" : "", document.category ? document.category : "",
            document.category ? ")" : "", (long long)document.length);
    for (int64_t begin = 0, end; begin < document.length && status == LT_OK; begin = end) {
        for (end = begin + 1; end < document.length && document.mask[end] == document.mask[begin];)
            end++;
        lt_buffer_clear(&text);
        status = lt_decode(dataset->tokenizer, document.tokens + begin, (size_t)(end - begin),
                           false, &text, err);
        if (status != LT_OK) break;
        bool trained = document.mask[begin];
        if (trained) fputs(mark->begin, out);
        fwrite(lt_buffer_text(&text), 1, text.size, out);
        if (trained) fputs(mark->end, out);
    }
    fputc('\n', out);
    lt_buffer_free(&text);
    return status;
}

static lt_status print_samples(const lt_dataset *dataset, int64_t samples, FILE *out, lt_err *err)
{
    bool terminal = isatty(fileno(out));
    marks mark = terminal ? (marks){"\033[1;32m", "\033[0m"} : (marks){"[[", "]]"};
    if (samples > 0)
        fprintf(out, "\nSamples; what is trained is %s.\n", terminal ? "green" : "in [[ ]]");
    for (int s = 0; s < 2; s++) {
        int64_t count = lt_min_i64(samples, dataset->splits[s].count);
        for (int64_t i = 0; i < count; i++)
            LT_TRY(print_document(dataset, (lt_split)s, i, &mark, out, err));
    }
    return LT_OK;
}

lt_status lt_inspect_dataset(const char *path, int64_t samples, FILE *out, lt_err *err)
{
    lt_dataset *dataset = NULL;
    LT_TRY(lt_dataset_open(path, &dataset, err));
    print_facts(dataset, path, out);
    print_counts(dataset, out);
    print_lengths(dataset, out);
    print_categories(dataset, out);
    lt_status status = print_samples(dataset, samples, out, err);
    lt_dataset_close(dataset);
    return status;
}
