/* lathe tokenizer: trains one, and turns text into ids and back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "data_pipeline/tokenizer.h"

#define MAX_INPUT_BYTES ((size_t)4 << 30)

static lt_status read_standard_input(lt_buffer *out, lt_err *err)
{
    char chunk[1 << 16];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, stdin)) > 0) {
        LT_TRY(lt_buffer_append(out, chunk, got, err));
        if (out->size > MAX_INPUT_BYTES)
            return lt_fail(err, LT_ERR_LIMIT, "standard input has more than 4 GiB");
    }
    return ferror(stdin) ? lt_fail(err, LT_ERR_IO, "standard input can not be read") : LT_OK;
}

/* Words of the command line as one text, with single spaces between. */
static lt_status join_words(const lt_string_list *words, lt_buffer *out, lt_err *err)
{
    for (size_t i = 0; i < words->count; i++) {
        if (i > 0) LT_TRY(lt_buffer_append(out, " ", 1, err));
        LT_TRY(lt_buffer_append_text(out, words->items[i], err));
    }
    return LT_OK;
}

static lt_status flush_output(lt_err *err)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return lt_fail(err, LT_ERR_IO, "the output can not be written");
    return LT_OK;
}

/* --- train ------------------------------------------------------------------------------------
 */

typedef struct train_settings {
    lt_string_list input, special_tokens;
    char *output;
    int64_t vocab_size, min_frequency, threads;
} train_settings;

/* clang-format off */
static const lt_option train_options[] = {
    {"input", LT_OPTION_LIST, offsetof(train_settings, input), .required = true, .metavar = "FILE",
     .help = "Text files; of .jsonl files every string of every record is used."},
    {"vocab-size", LT_OPTION_INT, offsetof(train_settings, vocab_size), .required = true,
     .min = 257, .max = 16777215, .help = "Tokens in all, bytes and special tokens included."},
    {"output", LT_OPTION_STRING, offsetof(train_settings, output), .required = true,
     .metavar = "DIR", .help = "Directory to make; must not exist or be empty."},
    {"min-frequency", LT_OPTION_INT, offsetof(train_settings, min_frequency), .default_text = "2",
     .min = 1, .max = 1e15, .help = "Pairs that are seen less often are not merged."},
    {"special-tokens", LT_OPTION_LIST, offsetof(train_settings, special_tokens),
     .metavar = "TOKEN", .help = "Ids from 0 on, in this order; the first one ends texts "
                                 "(default: <|endoftext|>)."},
    {"threads", LT_OPTION_INT, offsetof(train_settings, threads), .min = 0, .max = 4096,
     .help = "Threads; 0: all cores. The result does not depend on it."},
};
/* clang-format on */

static const lt_option_table train_table = {
    .command = "lathe tokenizer train",
    .synopsis = "lathe tokenizer train --input FILE... --vocab-size N --output DIR [OPTIONS]",
    .description = "Trains a byte-level BPE tokenizer (as GPT-2's) that Hugging Face loads too.\n\n"
                   "  lathe tokenizer train --input data.jsonl --vocab-size 8192 --output tok",
    .options = train_options,
    .count = sizeof train_options / sizeof train_options[0]};

static lt_status write_tokenizer(const lt_tokenizer *tokenizer, const char *path, lt_err *err)
{
    lt_new_directory directory;
    LT_TRY(lt_make_parent_directories(path, err));
    LT_TRY(lt_new_directory_begin(&directory, path, err));
    lt_status status = lt_tokenizer_save(tokenizer, directory.temporary, err);
    if (status == LT_OK) status = lt_new_directory_commit(&directory, false, err);
    lt_new_directory_abort(&directory);
    return status;
}

static lt_status train(const void *context, lt_err *err)
{
    const train_settings *s = context;
    static const char *const end_of_text[] = {"<|endoftext|>"};
    lt_bpe_train_settings settings = {
        .vocab_size = s->vocab_size,
        .min_frequency = s->min_frequency,
        .special_tokens = end_of_text,
        .special_token_count = 1,
        .threads = (int)s->threads,
    };
    if (s->special_tokens.count > 0) {
        settings.special_tokens = (const char *const *)s->special_tokens.items;
        settings.special_token_count = s->special_tokens.count;
    }
    lt_tokenizer *tokenizer = NULL;
    LT_TRY(lt_require_new_directory(s->output, err));
    lt_status status = lt_tokenizer_train((const char *const *)s->input.items, s->input.count,
                                          &settings, &tokenizer, err);
    if (status == LT_OK) status = write_tokenizer(tokenizer, s->output, err);
    if (status == LT_OK) {
        int64_t made = lt_tokenizer_vocab_size(tokenizer);
        printf("made         %s\n", s->output);
        printf("vocabulary   %" PRId64 " tokens\n", made);
        if (made < s->vocab_size)
            printf("note         no pair is left that occurs at least %" PRId64
                   " times, so there are fewer than the %" PRId64 " tokens asked for\n",
                   s->min_frequency, s->vocab_size);
        status = flush_output(err);
    }
    lt_tokenizer_free(tokenizer);
    return status;
}

static int run_train(int argc, char **argv)
{
    train_settings s = {0};
    return lt_cli_run(&train_table, argc, argv, &s, train);
}

/* --- encode -----------------------------------------------------------------------------------
 */

typedef struct encode_settings {
    char *tokenizer, *input;
    lt_string_list text;
    bool special;
} encode_settings;

/* clang-format off */
static const lt_option encode_options[] = {
    {"tokenizer", LT_OPTION_STRING, offsetof(encode_settings, tokenizer), .required = true,
     .metavar = "PATH", .help = "Tokenizer directory or file."},
    {"input", LT_OPTION_STRING, offsetof(encode_settings, input), .metavar = "FILE",
     .help = "File whose whole contents are the text."},
    {"special", LT_OPTION_FLAG, offsetof(encode_settings, special),
     .help = "Add the special tokens that the tokenizer puts around a text."},
    {"text", LT_OPTION_LIST, offsetof(encode_settings, text), .metavar = "TEXT",
     .help = "The text; standard input when there is neither TEXT nor --input."},
};
/* clang-format on */

static const lt_option_table encode_table = {
    .command = "lathe tokenizer encode",
    .synopsis = "lathe tokenizer encode --tokenizer PATH [--input FILE | TEXT] [--special]",
    .description = "Prints the token ids of a text on one line. Added tokens in the text are "
                   "recognised, as Hugging Face does.\n\n"
                   "  lathe tokenizer encode --tokenizer tok \"Hello, world!\"",
    .options = encode_options,
    .count = sizeof encode_options / sizeof encode_options[0],
    .positional = &encode_options[3]};

static lt_status read_text(const encode_settings *s, lt_buffer *text, lt_err *err)
{
    if (s->input && s->text.count > 0)
        return lt_fail(err, LT_ERR_USAGE, "give either --input or a TEXT, not both");
    if (s->input) return lt_read_file(s->input, MAX_INPUT_BYTES, text, err);
    if (s->text.count > 0) return join_words(&s->text, text, err);
    return read_standard_input(text, err);
}

static lt_status encode(const void *context, lt_err *err)
{
    const encode_settings *s = context;
    lt_tokenizer *tokenizer = NULL;
    lt_encoder *encoder = NULL;
    lt_buffer text = {0};
    lt_ids ids = {0};
    lt_status status;
    unsigned flags = LT_ENCODE_PARSE_SPECIAL | (s->special ? LT_ENCODE_ADD_SPECIAL : 0u);
    LT_TRY_GOTO(status, read_text(s, &text, err), done);
    LT_TRY_GOTO(status, lt_tokenizer_load(s->tokenizer, &tokenizer, err), done);
    LT_TRY_GOTO(status, lt_encoder_create(tokenizer, &encoder, err), done);
    status = lt_encode(encoder, lt_buffer_text(&text), text.size, flags, &ids, err);
    if (status != LT_OK) {
        status = lt_fail_context(err, "%s", s->input ? s->input : "the text");
        goto done;
    }
    for (size_t i = 0; i < ids.count; i++)
        printf("%s%" PRId32, i ? " " : "", ids.data[i]);
    putchar('\n');
    status = flush_output(err);
done:
    lt_ids_free(&ids);
    lt_buffer_free(&text);
    lt_encoder_free(encoder);
    lt_tokenizer_free(tokenizer);
    return status;
}

static int run_encode(int argc, char **argv)
{
    encode_settings s = {0};
    return lt_cli_run(&encode_table, argc, argv, &s, encode);
}

/* --- decode -----------------------------------------------------------------------------------
 */

typedef struct decode_settings {
    char *tokenizer;
    lt_string_list ids;
    bool skip_special;
} decode_settings;

/* clang-format off */
static const lt_option decode_options[] = {
    {"tokenizer", LT_OPTION_STRING, offsetof(decode_settings, tokenizer), .required = true,
     .metavar = "PATH", .help = "Tokenizer directory or file."},
    {"skip-special", LT_OPTION_FLAG, offsetof(decode_settings, skip_special),
     .help = "Leave special tokens out of the text."},
    {"ids", LT_OPTION_LIST, offsetof(decode_settings, ids), .metavar = "ID",
     .help = "Token ids, separated by spaces; standard input when there are none."},
};
/* clang-format on */

static const lt_option_table decode_table = {
    .command = "lathe tokenizer decode",
    .synopsis = "lathe tokenizer decode --tokenizer PATH ID...",
    .description = "Prints the text of token ids, exactly: a newline is added on a terminal only."
                   "\n\n  lathe tokenizer decode --tokenizer tok 15496 11 995 0",
    .options = decode_options,
    .count = sizeof decode_options / sizeof decode_options[0],
    .positional = &decode_options[2]};

static lt_status parse_ids(const char *text, lt_ids *out, lt_err *err)
{
    for (;;) {
        char *end;
        text += strspn(text, " \t\r\n");
        if (!*text) return LT_OK;
        long long id = strtoll(text, &end, 10);
        if (end == text || !strchr(" \t\r\n", *end) || id < 0 || id > INT32_MAX)
            return lt_fail(err, LT_ERR_USAGE, "\"%.*s\" is not a token id",
                           (int)(strcspn(text, " \t\r\n") < 40 ? strcspn(text, " \t\r\n") : 40),
                           text);
        LT_TRY(lt_ids_push(out, (int32_t)id, err));
        text = end;
    }
}

static lt_status decode(const void *context, lt_err *err)
{
    const decode_settings *s = context;
    lt_tokenizer *tokenizer = NULL;
    lt_buffer numbers = {0}, text = {0};
    lt_ids ids = {0};
    lt_status status;
    LT_TRY_GOTO(status,
                s->ids.count > 0 ? join_words(&s->ids, &numbers, err)
                                 : read_standard_input(&numbers, err),
                done);
    LT_TRY_GOTO(status, parse_ids(lt_buffer_text(&numbers), &ids, err), done);
    LT_TRY_GOTO(status, lt_tokenizer_load(s->tokenizer, &tokenizer, err), done);
    LT_TRY_GOTO(status, lt_decode(tokenizer, ids.data, ids.count, s->skip_special, &text, err),
                done);
    fwrite(lt_buffer_text(&text), 1, text.size, stdout);
    if (isatty(STDOUT_FILENO)) putchar('\n');
    status = flush_output(err);
done:
    lt_ids_free(&ids);
    lt_buffer_free(&numbers);
    lt_buffer_free(&text);
    lt_tokenizer_free(tokenizer);
    return status;
}

static int run_decode(int argc, char **argv)
{
    decode_settings s = {0};
    return lt_cli_run(&decode_table, argc, argv, &s, decode);
}

/* --- The command ------------------------------------------------------------------------------
 */

static void print_help(FILE *out)
{
    fputs("usage: lathe tokenizer train|encode|decode [OPTIONS]\n\n"
          "  train    make a tokenizer from text files\n"
          "  encode   text to token ids\n"
          "  decode   token ids to text\n\n"
          "'lathe tokenizer train --help' and the like list the options.\n",
          out);
}

int lt_cmd_tokenizer(int argc, char **argv)
{
    static const char *const names[] = {"train", "encode", "decode"};
    static int (*const run[])(int, char **) = {run_train, run_encode, run_decode};
    if (argc < 1) {
        print_help(stderr);
        return LT_EXIT_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        print_help(stdout);
        return LT_EXIT_OK;
    }
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(argv[0], names[i]) == 0) return run[i](argc - 1, argv + 1);
    }
    lt_err err = {0};
    const char *nearest = lt_nearest_name(argv[0], names, 3);
    lt_status status =
        nearest ? lt_fail(&err, LT_ERR_USAGE,
                          "unknown command 'tokenizer %.40s'; did you mean '%s'?", argv[0], nearest)
                : lt_fail(&err, LT_ERR_USAGE, "unknown command 'tokenizer %.40s'", argv[0]);
    return lt_cli_fail(status, &err);
}
