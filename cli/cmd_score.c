/* lathe score: how likely a model finds a text, token by token. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fsio.h"
#include "base/json.h"
#include "cli/adapters.h"
#include "cli/chat_history.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "data_pipeline/chat_template.h"
#include "train/open_model.h"

#define MAX_INPUT_BYTES ((size_t)1 << 28)

typedef struct settings {
    char *model, *text, *ids, *input, *messages;
    lt_string_list adapter;
    int64_t top, threads;
    bool bos, json;
    char *device, *dtype, *matmul;
} settings;

static const lt_option options[] = {
    LT_MODEL_OPTION(settings, NULL),
    LT_ADAPTER_OPTION(settings, LT_OPTION_LIST),
    {"text", LT_OPTION_STRING, offsetof(settings, text), .metavar = "TEXT",
     .help = "The text to score."},
    {"ids", LT_OPTION_STRING, offsetof(settings, ids), .metavar = "\"ID ...\"",
     .help = "Token ids to score, instead of a text."},
    {"input", LT_OPTION_STRING, offsetof(settings, input), .metavar = "FILE",
     .help = "File whose whole contents are the text to score."},
    {"messages", LT_OPTION_STRING, offsetof(settings, messages), .metavar = "FILE",
     .help = "JSON list of messages, or an object with one under \"messages\": scores what the "
             "assistant wrote of the conversation, in the model's template."},
    {"top", LT_OPTION_INT, offsetof(settings, top), .min = 0, .max = 1000,
     .help = "Also show the likeliest tokens at each place, this many."},
    {"bos", LT_OPTION_FLAG, offsetof(settings, bos),
     .help = "Put the model's begin-of-text token in front, so that the first token has a "
             "probability too."},
    {"json", LT_OPTION_FLAG, offsetof(settings, json),
     .help = "Print one JSON object instead of a table."},
    LT_DEVICE_OPTION(settings, "auto"),
    LT_DTYPE_OPTION(settings),
    LT_MATMUL_OPTION(settings),
    {"threads", LT_OPTION_INT, offsetof(settings, threads), .min = 0, .max = 4096,
     .help = "CPU threads; 0: all cores."},
};

static const lt_option_table table = {
    .command = "lathe score",
    .synopsis = "lathe score --model DIR [--adapter DIR] (--text TEXT | --ids \"ID ...\" | --input "
                "FILE | --messages FILE) [OPTIONS]",
    .description = "Prints the natural-log probability of each token given those before it, their "
                   "sum, and the perplexity.\n\n"
                   "  lathe score --model out/final --text \"The sky is blue.\" --top 3",
    .options = options,
    .count = sizeof options / sizeof options[0]};

typedef struct alternative {
    int32_t id;
    double log_probability;
} alternative;

typedef struct scores {
    lt_ids ids;
    lt_buffer mask;            /* [ids] 1: counts, 0: does not; or empty: all but the first do */
    double *log_probabilities; /* [ids]; of the first: not meaningful */
    alternative *top;          /* [ids, settings.top]; of the first: not meaningful */
    double sum;
} scores;

/* --- Ids ------------------------------------------------------------------------------------- */

static lt_status parse_ids(const char *text, lt_ids *out, lt_err *err)
{
    const char *at = text;
    for (;;) {
        char *end;
        at += strspn(at, " ,\t\n");
        if (!*at) return LT_OK;
        long long id = strtoll(at, &end, 10);
        if (end == at || id < 0 || id > INT32_MAX)
            return lt_fail(err, LT_ERR_USAGE, "--ids: \"%.20s\" is not a token id", at);
        LT_TRY(lt_ids_push(out, (int32_t)id, err));
        at = end;
    }
}

static lt_status encode(const lt_tokenizer *tokenizer, const char *text, size_t size, lt_ids *out,
                        lt_err *err)
{
    lt_encoder *encoder = NULL;
    LT_TRY(lt_encoder_create(tokenizer, &encoder, err));
    lt_status status =
        lt_encode(encoder, text, size, LT_ENCODE_PARSE_SPECIAL | LT_ENCODE_ADD_SPECIAL, out, err);
    lt_encoder_free(encoder);
    return status;
}

static lt_status read_ids(const settings *s, const lt_model *model, const lt_tokenizer *tokenizer,
                          lt_ids *out, lt_err *err)
{
    lt_buffer file = {0};
    lt_status status = LT_OK;
    int32_t bos = model->config.bos_token_id;
    if (s->bos) {
        if (bos < 0) return lt_fail(err, LT_ERR_USAGE, "--bos: %s has no bos_token_id", s->model);
        LT_TRY(lt_ids_push(out, bos, err));
    }
    if (s->ids) {
        status = parse_ids(s->ids, out, err);
    } else if (s->text) {
        status = encode(tokenizer, s->text, strlen(s->text), out, err);
    } else {
        LT_TRY_GOTO(status, lt_read_file(s->input, MAX_INPUT_BYTES, &file, err), done);
        status = encode(tokenizer, lt_buffer_text(&file), file.size, out, err);
    }
    /* a tokenizer that puts it there itself has done so already */
    if (status == LT_OK && s->bos && out->count > 1 && out->data[1] == bos)
        memmove(out->data, out->data + 1, --out->count * sizeof *out->data);
done:
    lt_buffer_free(&file);
    return status;
}

/* A conversation in the template that the model was trained with, else in its tokenizer's own. */
static lt_status read_messages(const settings *s, const lt_opened_model *opened, scores *out,
                               lt_err *err)
{
    lt_chat_template *chat = NULL;
    lt_encoder *encoder = NULL;
    lt_conversation conversation = {0};
    json_t *messages = NULL;
    const lt_model_notes *notes = &opened->notes;
    lt_template template_ = notes->has_template ? notes->template_ : LT_TEMPLATE_CHAT;
    if (s->bos)
        return lt_fail(err, LT_ERR_USAGE,
                       "--bos does not go with --messages: the template says "
                       "what a conversation begins with");
    lt_status status;
    LT_TRY_GOTO(status, lt_chat_read_messages(s->messages, &messages, err), done);
    LT_TRY_GOTO(status, lt_chat_template_of(template_, opened->tokenizer, &chat, err), done);
    LT_TRY_GOTO(status, lt_encoder_create(opened->tokenizer, &encoder, err), done);
    conversation.messages = messages;
    LT_TRY_GOTO(status,
                lt_chat_template_encode(chat, encoder, &conversation, s->messages, &out->ids,
                                        &out->mask, err),
                done);
    if (out->mask.size > 0) out->mask.data[0] = 0; /* predicted from nothing */
    if (!memchr(lt_buffer_text(&out->mask), 1, out->mask.size))
        status = lt_fail(err, LT_ERR_FORMAT, "%s: the assistant wrote nothing in it", s->messages);
done:
    json_decref(messages);
    lt_encoder_free(encoder);
    lt_chat_template_free(chat);
    return status;
}

static bool counts(const scores *s, size_t i)
{
    return s->mask.size > 0 ? s->mask.data[i] : i > 0;
}

static size_t count_scored(const scores *s)
{
    size_t count = 0;
    for (size_t i = 0; i < s->ids.count; i++)
        count += counts(s, i);
    return count;
}

static lt_status check_ids(const lt_ids *ids, const lt_model *model, lt_err *err)
{
    const lt_model_config *config = &model->config;
    int64_t room = config->max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    if (ids->count == 0) return lt_fail(err, LT_ERR_USAGE, "there is nothing to score");
    if ((int64_t)ids->count > room)
        return lt_fail(err, LT_ERR_LIMIT, "%zu tokens are too many: the model sees %lld at most",
                       ids->count, (long long)room);
    for (size_t i = 0; i < ids->count; i++)
        if (ids->data[i] >= config->vocab_size)
            return lt_fail(err, LT_ERR_USAGE,
                           "token id %d is outside the model's vocabulary of %lld", ids->data[i],
                           (long long)config->vocab_size);
    return LT_OK;
}

/* --- Scores ---------------------------------------------------------------------------------- */

/* The `count` largest of logits[0..vocab), falling; of equal ones the lower ids first. */
static void take_top(const float *logits, int64_t vocab, double log_sum, int64_t count,
                     alternative *top)
{
    int64_t have = 0;
    for (int64_t id = 0; id < vocab; id++) {
        double x = (double)logits[id] - log_sum;
        if (have == count && !(x > top[count - 1].log_probability)) continue;
        int64_t at = have < count ? have++ : count - 1;
        for (; at > 0 && x > top[at - 1].log_probability; at--)
            top[at] = top[at - 1];
        top[at] = (alternative){(int32_t)id, x};
    }
}

static double log_sum_exp(const float *logits, int64_t vocab)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        largest = fmax(largest, (double)logits[i]);
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - largest);
    return largest + log(sum);
}

/* With alternatives every logit is needed; without, only the losses, which take no memory. */
static lt_status score_with_top(const lt_model *model, lt_workspace *workspace,
                                const lt_batch *batch, int64_t top, scores *out, lt_err *err)
{
    int64_t vocab = model->config.vocab_size;
    size_t count, bytes;
    if (!lt_mul_size((size_t)batch->length, (size_t)vocab, &count) ||
        !lt_mul_size(count, sizeof(float), &bytes))
        return lt_fail_nomem(err, UINT64_MAX, "the logits of every token");
    float *logits = malloc(bytes);
    if (!logits) return lt_fail_nomem(err, bytes, "the logits of every token");
    lt_status status = lt_model_logits(model, workspace, batch, logits, err);
    for (int64_t i = 1; status == LT_OK && i < batch->length; i++) {
        const float *row = logits + (i - 1) * vocab;
        double log_sum = log_sum_exp(row, vocab);
        out->log_probabilities[i] = (double)row[batch->input_ids[i]] - log_sum;
        take_top(row, vocab, log_sum, top, out->top + i * top);
    }
    free(logits);
    return status;
}

static lt_status score_by_loss(const lt_model *model, lt_workspace *workspace,
                               const lt_batch *batch, scores *out, lt_err *err)
{
    lt_loss loss = {0};
    LT_TRY(lt_model_evaluate(model, workspace, batch, &loss, out->log_probabilities, err));
    /* the loss at i is that of token i + 1 */
    for (int64_t i = batch->length - 1; i > 0; i--)
        out->log_probabilities[i] = -out->log_probabilities[i - 1];
    return LT_OK;
}

static lt_status score(const lt_model *model, int64_t top, scores *out, lt_err *err)
{
    lt_status status = LT_OK;
    lt_workspace *workspace = NULL;
    int64_t n = (int64_t)out->ids.count;
    int32_t *arrays = calloc((size_t)n * 3, sizeof *arrays);
    out->log_probabilities = calloc((size_t)n, sizeof *out->log_probabilities);
    out->top = calloc((size_t)(n * lt_max_i64(top, 1)), sizeof *out->top);
    if (!arrays || !out->log_probabilities || !out->top) {
        status = lt_fail_nomem(err, (unsigned long long)(n * (top + 1)) * sizeof *out->top,
                               "the scores");
        goto done;
    }
    lt_batch batch = {.rows = 1,
                      .length = n,
                      .input_ids = out->ids.data,
                      .targets = arrays,
                      .positions = arrays + n,
                      .first_key = arrays + 2 * n};
    for (int64_t i = 0; i < n; i++) {
        arrays[i] = i + 1 < n ? out->ids.data[i + 1] : LT_IGNORE;
        arrays[n + i] = (int32_t)i;
    }
    lt_workspace_settings room = {.rows = 1, .length = n};
    LT_TRY_GOTO(status, lt_workspace_create(model, &room, &workspace, err), done);
    status = top > 0 ? score_with_top(model, workspace, &batch, top, out, err)
                     : score_by_loss(model, workspace, &batch, out, err);
    for (int64_t i = 1; status == LT_OK && i < n; i++) {
        if (!isfinite(out->log_probabilities[i]))
            status = lt_fail(err, LT_ERR_NUMERIC, "the probability of token %lld is not finite",
                             (long long)i);
        if (counts(out, (size_t)i)) out->sum += out->log_probabilities[i];
    }
done:
    lt_workspace_free(workspace);
    free(arrays);
    return status;
}

/* --- Output ---------------------------------------------------------------------------------- */

/* The text of one token; NULL when there is no tokenizer or it has no such token. */
static const char *token_text(const lt_tokenizer *tokenizer, int32_t id, lt_buffer *text)
{
    lt_buffer_clear(text);
    if (!tokenizer || id >= lt_tokenizer_vocab_size(tokenizer)) return NULL;
    return lt_decode(tokenizer, &id, 1, false, text, NULL) == LT_OK ? lt_buffer_text(text) : NULL;
}

static json_t *token_json(const lt_tokenizer *tokenizer, int32_t id, lt_buffer *text)
{
    const char *piece = token_text(tokenizer, id, text);
    return piece ? json_stringn(piece, text->size) : json_null();
}

static json_t *top_json(const lt_tokenizer *tokenizer, const alternative *top, int64_t count,
                        lt_buffer *text)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:i, s:o, s:f}", "id", (int)top[i].id, "token",
                                              token_json(tokenizer, top[i].id, text),
                                              "log_probability", top[i].log_probability));
    return list;
}

static lt_status print_json(const scores *s, const lt_tokenizer *tokenizer, int64_t top,
                            lt_err *err)
{
    lt_buffer text = {0}, out = {0};
    json_t *ids = json_array(), *tokens = json_array(), *logs = json_array(), *tops = json_array();
    for (size_t i = 0; i < s->ids.count; i++) {
        const alternative *row = s->top + (int64_t)i * top;
        json_array_append_new(ids, json_integer(s->ids.data[i]));
        json_array_append_new(tokens, token_json(tokenizer, s->ids.data[i], &text));
        bool shown = counts(s, i);
        json_array_append_new(logs, shown ? json_real(s->log_probabilities[i]) : json_null());
        if (top > 0)
            json_array_append_new(tops, shown ? top_json(tokenizer, row, top, &text) : json_null());
    }
    size_t scored = count_scored(s);
    json_t *root =
        json_pack("{s:o, s:o, s:o, s:f, s:I, s:o}", "ids", ids, "tokens", tokens,
                  "log_probabilities", logs, "sum", s->sum, "scored", (json_int_t)scored,
                  "perplexity", scored ? json_real(exp(-s->sum / (double)scored)) : json_null());
    if (top > 0) json_object_set(root, "top", tops);
    json_decref(tops);
    lt_status status = root ? lt_json_dump(root, 2, &out, err)
                            : lt_fail_nomem(err, s->ids.count * 64, "the JSON output");
    if (status == LT_OK) fwrite(out.data, 1, out.size, stdout);
    json_decref(root);
    lt_buffer_free(&text);
    lt_buffer_free(&out);
    return status;
}

/* A piece in quotes, with control characters and quotes escaped as in C; "#id" without one. */
static void print_piece(const lt_tokenizer *tokenizer, int32_t id, lt_buffer *text)
{
    const char *piece = token_text(tokenizer, id, text);
    if (!piece) {
        printf("#%d", id);
        return;
    }
    putchar('"');
    for (size_t i = 0; i < text->size; i++) {
        unsigned char c = (unsigned char)piece[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_table(const scores *s, const lt_tokenizer *tokenizer, int64_t top)
{
    lt_buffer text = {0};
    size_t scored = count_scored(s);
    printf("%6s %8s %10s  token%s\n", "place", "id", "log p", top > 0 ? "; likeliest" : "");
    for (size_t i = 0; i < s->ids.count; i++) {
        if (s->mask.size > 0 && !counts(s, i)) continue;
        if (i == 0)
            printf("%6zu %8d %10s  ", i, s->ids.data[i], "-");
        else
            printf("%6zu %8d %10.4f  ", i, s->ids.data[i], s->log_probabilities[i]);
        print_piece(tokenizer, s->ids.data[i], &text);
        for (int64_t k = 0; i > 0 && k < top; k++) {
            const alternative *a = &s->top[(int64_t)i * top + k];
            fputs(k == 0 ? ";  " : "  ", stdout);
            print_piece(tokenizer, a->id, &text);
            printf(" %.4f", a->log_probability);
        }
        putchar('\n');
    }
    printf("sum %.4f over %zu tokens", s->sum, scored);
    if (scored) printf(", perplexity %.4f", exp(-s->sum / (double)scored));
    putchar('\n');
    lt_buffer_free(&text);
}

/* --- The command ----------------------------------------------------------------------------- */

static lt_status run(const void *context, lt_err *err)
{
    const settings *s = context;
    lt_status status = LT_OK;
    lt_buffer directory = {0};
    lt_device_opened device = {0};
    const lt_device_choice machine = LT_DEVICE_CHOICE(s);
    lt_opened_model opened = {0};
    lt_cli_adapters adapters = {0};
    scores result = {0};
    if (!!s->text + !!s->ids + !!s->input + !!s->messages != 1)
        return lt_fail(err, LT_ERR_USAGE, "give one of --text, --ids, --input and --messages");
    if (s->adapter.count > 1)
        return lt_fail(err, LT_ERR_USAGE, "a text is scored with one --adapter at a time");
    LT_TRY_GOTO(status, lt_cli_read_adapters(&s->adapter, &adapters, err), done);
    LT_TRY_GOTO(status, lt_model_resolve(s->model, &directory, err), done);
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    /* ids need a tokenizer only for display */
    LT_TRY_GOTO(status,
                lt_open_model(lt_buffer_text(&directory), adapters.sources, adapters.count, !s->ids,
                              device.backend, &opened, err),
                done);
    LT_TRY_GOTO(status,
                s->messages ? read_messages(s, &opened, &result, err)
                            : read_ids(s, opened.model, opened.tokenizer, &result.ids, err),
                done);
    LT_TRY_GOTO(status, check_ids(&result.ids, opened.model, err), done);
    int64_t top = lt_min_i64(s->top, opened.model->config.vocab_size);
    LT_TRY_GOTO(status, score(opened.model, top, &result, err), done);
    if (s->json)
        status = print_json(&result, opened.tokenizer, top, err);
    else
        print_table(&result, opened.tokenizer, top);
done:
    lt_ids_free(&result.ids);
    lt_buffer_free(&result.mask);
    free(result.log_probabilities);
    free(result.top);
    lt_close_model(&opened);
    lt_cli_free_adapters(&adapters);
    lt_backend_free(device.backend);
    lt_buffer_free(&directory);
    return status;
}

int lt_cmd_score(int argc, char **argv)
{
    settings s = {0};
    return lt_cli_run(&table, argc, argv, &s, run);
}
