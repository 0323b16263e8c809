/* lathe prepare: records to a tokenised dataset. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/common_options.h"
#include "data_pipeline/dataset.h"

typedef struct settings {
    lt_string_list inputs;
    char *tokenizer, *output, *format, *template_, *columns;
    int64_t max_length, seed, threads;
    double validation;
    bool dedup, force;
} settings;

static const lt_option options[] = {
    {"input", LT_OPTION_LIST, offsetof(settings, inputs), .required = true, .metavar = "FILE...",
     .help =
         "JSONL files, files with one JSON array, or plain text (.txt, .md); .gz and .zst too."},
    {"tokenizer", LT_OPTION_STRING, offsetof(settings, tokenizer), .required = true,
     .metavar = "PATH", .help = "Directory with tokenizer.json, or such a file."},
    {"output", LT_OPTION_STRING, offsetof(settings, output), .required = true, .metavar = "DATA.h5",
     .help = "The dataset to write."},
    {"format", LT_OPTION_CHOICE, offsetof(settings, format), .default_text = "auto",
     .choices = "auto|dolly|alpaca|messages|sharegpt|completion|text",
     .help = "Record format; auto decides by the first record's keys."},
    {"template", LT_OPTION_CHOICE, offsetof(settings, template_), .choices = LT_TEMPLATE_CHOICES,
     .help = "How a record is written out; by default the one that goes with the format. chat: the "
             "tokenizer's own chat template."},
    {"max-length", LT_OPTION_INT, offsetof(settings, max_length), .min = 0, .max = INT32_MAX,
     .help = "Drop records of at least this many tokens; 0: the tokenizer's model_max_length, or "
             "1024. Plain text is never dropped."},
    {"validation", LT_OPTION_NUMBER, offsetof(settings, validation), .default_text = "0", .min = 0,
     .max = 1e15, .metavar = "FRACTION_OR_COUNT",
     .help = "Hold out this fraction of the records (below 1), or this many. Of plain-text files "
             "the fraction at the end of each."},
    {"columns", LT_OPTION_STRING, offsetof(settings, columns), .metavar = "FIELD=KEY,...",
     .help = "Keys the file has for the format's fields, as in instruction=question."},
    {"dedup", LT_OPTION_FLAG, offsetof(settings, dedup),
     .help = "Drop records that say the same, or nearly the same, as an earlier one."},
    {"seed", LT_OPTION_INT, offsetof(settings, seed), .default_text = "42", .min = 0, .max = 9e15,
     .help = "Decides the order and the held-out records."},
    {"threads", LT_OPTION_INT, offsetof(settings, threads), .min = 0, .max = 256,
     .help = "Threads; 0: all cores. The result does not depend on it."},
    {"force", LT_OPTION_FLAG, offsetof(settings, force), .help = "Replace an existing output."},
};

static const lt_option_table table = {
    .command = "lathe prepare",
    .synopsis = "lathe prepare --input FILE... --tokenizer PATH --output DATA.h5 [OPTIONS]",
    .description =
        "Turns instruction records or text into token ids with a loss mask, splits them into "
        "training and validation, and stores them with the tokenizer.\n\n"
        "  lathe prepare --input dolly.jsonl --tokenizer pythia-160m --output dolly.h5 \\\n"
        "      --validation 1000\n"
        "  lathe prepare --input qa.jsonl.gz --columns instruction=question,response=answer \\\n"
        "      --tokenizer gpt2 --output qa.h5 --validation 0.05 --dedup\n"
        "  lathe prepare --input book.txt --tokenizer gpt2 --output book.h5 --validation 0.1",
    .options = options,
    .count = sizeof options / sizeof options[0]};

static void print_report(const settings *s, const lt_prepare_report *r)
{
    printf("format %s, template %s\n", lt_record_format_name(r->format),
           lt_template_name(r->template_));
    if (r->added_special_tokens) {
        printf("%lld special tokens added to the tokenizer:", (long long)r->added_special_tokens);
        for (const char *const *token = lt_template_special_tokens(r->template_); *token; token++)
            printf(" %.*s", (int)strcspn(*token, "\n"), *token);
        printf("\n");
    }
    printf("records     %10lld read\n", (long long)r->read);
    if (r->dropped_too_long)
        printf("            %10lld dropped: too long (see --max-length)\n",
               (long long)r->dropped_too_long);
    if (s->dedup)
        printf("            %10lld dropped: duplicates\n"
               "            %10lld dropped: near duplicates\n",
               (long long)r->dropped_duplicates, (long long)r->dropped_near_duplicates);
    printf("documents   %10lld train\n"
           "            %10lld validation\n",
           (long long)r->train, (long long)r->validation);
    printf("tokens      %10lld, of them trained %lld (%.1f %%); longest document %lld\n",
           (long long)r->tokens, (long long)r->trained_tokens,
           r->tokens ? 100.0 * (double)r->trained_tokens / (double)r->tokens : 0.0,
           (long long)r->longest);
    printf("wrote %s in %.1f s\n", s->output, r->seconds);
}

static lt_status run(const void *context, lt_err *err)
{
    const settings *s = context;
    lt_prepare_report report = {0};
    lt_prepare_settings prepare = {
        .inputs = s->inputs,
        .tokenizer = s->tokenizer,
        .output = s->output,
        .has_template = s->template_ != NULL,
        .max_length = s->max_length,
        .validation = s->validation,
        .columns = s->columns,
        .dedup = s->dedup,
        .seed = (uint64_t)s->seed,
        .threads = (int)s->threads,
        .force = s->force,
    };
    LT_TRY(lt_record_format_parse(s->format, &prepare.format, err));
    if (s->template_) LT_TRY(lt_template_parse(s->template_, &prepare.template_, err));
    LT_TRY(lt_prepare(&prepare, &report, err));
    print_report(s, &report);
    return LT_OK;
}

int lt_cmd_prepare(int argc, char **argv)
{
    settings s = {0};
    return lt_cli_run(&table, argc, argv, &s, run);
}
