#include "train/assistant.h"

#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "base/rng.h"
#include "train/answer_stream.h"
#include "train/open_model.h"

#define DEFAULT_ROWS 8
#define MAX_STOP_IDS (LT_MAX_EOS + 2)

/* --- lathe.json ------------------------------------------------------------------------------- */

static lt_status read_notes(const json_t *json, const char *where, lt_model_notes *out, lt_err *err)
{
    const char *name = NULL;
    if (!json_is_object(json))
        return lt_fail(err, LT_ERR_FORMAT, "%s: is not a JSON object", where);
    LT_TRY(lt_json_get_string(json, "template", where, &name, err));
    LT_TRY(lt_json_get_int(json, "max_length", 0, INT64_MAX, where, &out->max_length, err));
    if (!name) return LT_OK;
    if (lt_template_parse(name, &out->template_, err) != LT_OK)
        return lt_fail_context(err, "%s", where);
    out->has_template = true;
    return LT_OK;
}

lt_status lt_model_notes_load(const char *directory, lt_model_notes *out, lt_err *err)
{
    *out = (lt_model_notes){0};
    lt_buffer path = {0};
    json_t *json = NULL;
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "lathe.json", err), done);
    if (!lt_path_exists(lt_buffer_text(&path))) goto done;
    LT_TRY_GOTO(status, lt_json_load(lt_buffer_text(&path), &json, err), done);
    status = read_notes(json, lt_buffer_text(&path), out, err);
done:
    json_decref(json);
    lt_buffer_free(&path);
    return status;
}

lt_status lt_model_notes_save(const lt_model_notes *notes, const char *directory, lt_err *err)
{
    lt_buffer path = {0};
    json_t *json = json_pack("{s:s}", "lathe_version", LATHE_VERSION);
    lt_status status = json ? LT_OK : lt_fail_nomem(err, 64, "lathe.json");
    if (status != LT_OK) goto done;
    if (notes->has_template)
        json_object_set_new(json, "template", json_string(lt_template_name(notes->template_)));
    if (notes->max_length > 0)
        json_object_set_new(json, "max_length", json_integer((json_int_t)notes->max_length));
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "lathe.json", err), done);
    status = lt_json_write_file(lt_buffer_text(&path), json, err);
done:
    json_decref(json);
    lt_buffer_free(&path);
    return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

/* Where no template was trained with. */
static void use_chat_template(lt_assistant *assistant)
{
    if (assistant->notes.has_template || !lt_tokenizer_chat_template(assistant->tokenizer)) return;
    assistant->notes.has_template = true;
    assistant->notes.template_ = LT_TEMPLATE_CHAT;
    assistant->untrained_template = true;
}

lt_status lt_assistant_open(const char *directory, const lt_adapter_source *adapters,
                            int64_t adapter_count, const lt_backend *backend, lt_assistant *out,
                            lt_err *err)
{
    lt_opened_model opened;
    *out = (lt_assistant){.owns_model = true};
    LT_TRY(lt_open_model(directory, adapters, adapter_count, true, backend, &opened, err));
    out->model = opened.model;
    out->owned_tokenizer = opened.tokenizer;
    out->tokenizer = opened.tokenizer;
    out->notes = opened.notes;
    use_chat_template(out);
    lt_status status = lt_encoder_create(out->tokenizer, &out->encoder, err);
    if (status != LT_OK) lt_assistant_close(out);
    return status;
}

lt_status lt_assistant_wrap(lt_model *model, const lt_tokenizer *tokenizer,
                            const lt_model_notes *notes, lt_assistant *out, lt_err *err)
{
    *out = (lt_assistant){.model = model, .tokenizer = tokenizer, .notes = *notes};
    use_chat_template(out);
    LT_TRY(lt_check_token_rows(tokenizer, model, "answering held-out prompts", err));
    return lt_encoder_create(tokenizer, &out->encoder, err);
}

/* Whether the model's tokenizer, once it has the template's special tokens, is the dataset's: that
 * is how a dataset's tokenizer is made. */
static lt_status becomes(lt_tokenizer *own, const lt_dataset *dataset, bool *out, lt_err *err)
{
    const char *wanted = lt_tokenizer_hash(lt_dataset_tokenizer(dataset));
    const char *const *special = lt_template_special_tokens(lt_dataset_template(dataset));
    size_t count = 0, added;
    while (special[count])
        count++;
    LT_TRY(lt_tokenizer_add_special_tokens(own, special, count, &added, err));
    *out = strcmp(lt_tokenizer_hash(own), wanted) == 0;
    return LT_OK;
}

/* The dataset's tokenizer instead of the model's own, and rows for the tokens it has more. */
static lt_status adopt_tokenizer(lt_assistant *assistant, const lt_dataset *dataset, lt_err *err)
{
    bool same = false;
    lt_encoder_free(assistant->encoder);
    assistant->encoder = NULL;
    if (assistant->owned_tokenizer)
        LT_TRY(becomes(assistant->owned_tokenizer, dataset, &same, err));
    if (!same)
        return lt_fail(err, LT_ERR_USAGE,
                       "model and dataset do not match: the dataset was prepared with another "
                       "tokenizer; prepare it again with --tokenizer set to the model's directory");
    lt_tokenizer_free(assistant->owned_tokenizer);
    assistant->owned_tokenizer = NULL;
    assistant->tokenizer = lt_dataset_tokenizer(dataset);
    LT_TRY(lt_encoder_create(assistant->tokenizer, &assistant->encoder, err));
    int64_t tokens = lt_tokenizer_vocab_size(assistant->tokenizer);
    if (tokens <= assistant->model->config.vocab_size) return LT_OK;
    if (assistant->model->adapter_count > 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "the dataset's template (%s) has special tokens that neither the model nor "
                       "the adapter has rows for; prepare the data with the template that the "
                       "adapter was trained with",
                       lt_template_name(lt_dataset_template(dataset)));
    return lt_model_grow_vocab(assistant->model, tokens, err);
}

/* Whether ids and, where it is used, the chat template are the dataset's. */
static bool writes_as(const lt_tokenizer *tokenizer, const lt_dataset *dataset)
{
    const lt_tokenizer *wanted = lt_dataset_tokenizer(dataset);
    if (strcmp(lt_tokenizer_hash(tokenizer), lt_tokenizer_hash(wanted)) != 0) return false;
    if (lt_dataset_template(dataset) != LT_TEMPLATE_CHAT) return true;
    const char *own = lt_tokenizer_chat_template(tokenizer);
    const char *theirs = lt_tokenizer_chat_template(wanted);
    return own && theirs && strcmp(own, theirs) == 0;
}

lt_status lt_assistant_use_dataset(lt_assistant *assistant, const lt_dataset *dataset, lt_err *err)
{
    if (!writes_as(assistant->tokenizer, dataset)) LT_TRY(adopt_tokenizer(assistant, dataset, err));
    assistant->notes.has_template = true;
    assistant->notes.template_ = lt_dataset_template(dataset);
    assistant->untrained_template = false;
    return LT_OK;
}

void lt_assistant_close(lt_assistant *assistant)
{
    lt_encoder_free(assistant->encoder);
    lt_tokenizer_free(assistant->owned_tokenizer);
    if (assistant->owns_model) lt_model_free(assistant->model);
    *assistant = (lt_assistant){0};
}

/* --- Prompts ---------------------------------------------------------------------------------- */

static lt_status encode_record(lt_assistant *assistant, const lt_record *record, lt_ids *out,
                               lt_err *err)
{
    if (!assistant->notes.has_template)
        return lt_fail(err, LT_ERR_USAGE,
                       "the model's directory has no lathe.json that names a prompt template, nor "
                       "its tokenizer a chat template: give --template, or the whole text with "
                       "--prompt");
    return lt_template_encode_prompt(assistant->notes.template_, assistant->encoder,
                                     assistant->tokenizer, record, out, err);
}

static lt_status encode_prompt(lt_assistant *assistant, const lt_prompt *prompt, lt_ids *out,
                               lt_err *err)
{
    if (prompt->record) return encode_record(assistant, prompt->record, out, err);
    if (prompt->text)
        return lt_encode(assistant->encoder, prompt->text, strlen(prompt->text),
                         LT_ENCODE_PARSE_SPECIAL | LT_ENCODE_ADD_SPECIAL, out, err);
    if (!prompt->instruction || prompt->instruction[strspn(prompt->instruction, " \t\r\n")] == '\0')
        return lt_fail(err, LT_ERR_USAGE, "the instruction is empty");
    lt_record record = {.format = LT_FORMAT_DOLLY,
                        .instruction = prompt->instruction,
                        .context = prompt->context ? prompt->context : "",
                        .response = "",
                        .where = "the instruction"};
    return encode_record(assistant, &record, out, err);
}

static lt_status check_prompt(const lt_assistant *assistant, const lt_prompt *prompt,
                              const lt_ids *ids, lt_err *err)
{
    int64_t limit = assistant->model->config.max_position_embeddings -
                    lt_adapter_virtual_tokens(prompt->adapter);
    if (ids->count == 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "the prompt is empty, and the tokenizer puts no token in front: there is "
                       "nothing to continue");
    if ((int64_t)ids->count >= limit)
        return lt_fail(err, LT_ERR_LIMIT,
                       "the prompt has %zu tokens, which leaves no room for an answer: the model "
                       "sees %lld at most",
                       ids->count, (long long)limit);
    return LT_OK;
}

/* Says which prompt of several an error is about. */
static lt_status encode_prompts(lt_assistant *assistant, const lt_prompt *prompts, int64_t count,
                                int64_t first_index, lt_ids *out, lt_err *err)
{
    for (int64_t i = 0; i < count; i++) {
        lt_status status = encode_prompt(assistant, &prompts[i], &out[i], err);
        if (status == LT_OK) status = check_prompt(assistant, &prompts[i], &out[i], err);
        if (status == LT_OK) continue;
        if (prompts[i].record && prompts[i].record->where[0])
            return lt_fail_context(err, "%s", prompts[i].record->where);
        return count == 1 ? status
                          : lt_fail_context(err, "prompt %lld", (long long)(first_index + i + 1));
    }
    return LT_OK;
}

/* --- Answers ---------------------------------------------------------------------------------- */

typedef struct answering {
    const lt_answer_settings *settings;
    lt_answer_stream *streams; /* [count] */
    lt_status status;
    lt_err *err;
} answering;

static bool is_cancelled(const lt_answer_settings *settings)
{
    return settings->cancelled && *settings->cancelled;
}

static bool on_token(void *context, int64_t index, int32_t id, bool is_stop)
{
    answering *a = context;
    lt_answer_stream *stream = &a->streams[index];
    if (a->status == LT_OK) a->status = lt_answer_stream_take(stream, id, is_stop, a->err);
    return a->status == LT_OK && !stream->scanner.stopped && !is_cancelled(a->settings);
}

/* The model's eos ids and the token that ends the template's answers; where there is neither, the
 * tokenizer's eos. */
static int64_t collect_stop_ids(const lt_assistant *assistant, bool by_template,
                                int32_t ids[MAX_STOP_IDS])
{
    const lt_model_config *config = &assistant->model->config;
    int64_t count = 0;
    for (int i = 0; i < config->eos_token_count; i++)
        ids[count++] = config->eos_token_ids[i];
    int32_t id =
        by_template ? lt_template_stop_id(assistant->notes.template_, assistant->tokenizer) : -1;
    if (id >= 0) ids[count++] = id;
    id = lt_tokenizer_eos_id(assistant->tokenizer);
    if (id >= 0 && count == 0) ids[count++] = id;
    return count;
}

/* Whether answers end as the template's do. Raw prompts end so when it is the one trained with. */
static bool ends_by_template(const lt_assistant *assistant, const lt_prompt *prompts, int64_t count)
{
    if (!assistant->notes.has_template || !assistant->untrained_template)
        return assistant->notes.has_template;
    for (int64_t i = 0; i < count; i++)
        if (!prompts[i].text) return true;
    return false;
}

/* Sampling draws by (seed, sequence), and sequences count from 0 in every call. */
static uint64_t seed_of_call(const lt_answer_settings *settings)
{
    uint64_t seed = settings->sampling.seed;
    if (settings->first_index == 0) return seed;
    return lt_random_u64(seed, lt_rng_stream(LT_RNG_SAMPLE, (uint64_t)settings->first_index, 1), 0);
}

static lt_status generate(const lt_assistant *assistant, const lt_prompt *prompts,
                          const lt_ids *ids, const lt_adapter *const *adapters, int64_t count,
                          const lt_answer_settings *settings, answering *a)
{
    int32_t stop_ids[MAX_STOP_IDS];
    int64_t limit = assistant->model->config.max_position_embeddings;
    lt_generate_settings generation = {
        .max_new_tokens = settings->max_new_tokens ? settings->max_new_tokens : limit,
        .sampling = settings->sampling,
        .stop_ids = stop_ids,
        .stop_id_count =
            collect_stop_ids(assistant, ends_by_template(assistant, prompts, count), stop_ids),
        .max_rows = settings->max_rows ? settings->max_rows : DEFAULT_ROWS,
        .adapters = adapters,
    };
    generation.sampling.seed = seed_of_call(settings);
    LT_TRY(lt_model_generate(assistant->model, ids, count, &generation, on_token, a, a->err));
    LT_TRY(a->status);
    for (int64_t i = 0; i < count; i++)
        LT_TRY(lt_answer_stream_finish(&a->streams[i], a->err)); /* those that ended by length */
    if (is_cancelled(settings)) return lt_fail(a->err, LT_ERR_INTERRUPTED, "interrupted");
    return LT_OK;
}

lt_status lt_assistant_answer(lt_assistant *assistant, const lt_prompt *prompts, int64_t count,
                              const lt_answer_settings *settings, lt_on_text on_text, void *context,
                              lt_answer *answers, lt_err *err)
{
    if (count < 1) return LT_OK;
    LT_TRY(lt_stop_texts_check(settings, err));
    lt_status status;
    answering a = {.settings = settings, .err = err};
    lt_ids *ids = calloc((size_t)count, sizeof *ids);
    const lt_adapter **adapters = calloc((size_t)count, sizeof *adapters);
    a.streams = calloc((size_t)count, sizeof *a.streams);
    if (!ids || !adapters || !a.streams) {
        status = lt_fail_nomem(err, (size_t)count * sizeof *a.streams, "answers");
        goto done;
    }
    LT_TRY_GOTO(status, encode_prompts(assistant, prompts, count, settings->first_index, ids, err),
                done);
    for (int64_t i = 0; i < count; i++) {
        answers[i].prompt_tokens = (int64_t)ids[i].count;
        adapters[i] = prompts[i].adapter;
        a.streams[i] = (lt_answer_stream){
            .answer = &answers[i], .on_text = on_text, .context = context, .index = i};
        bool continues = prompts[i].text != NULL;
        lt_answer_stream_begin(&a.streams[i], assistant->tokenizer, settings, continues);
        a.streams[i].decoder.started = continues && prompts[i].text[0];
    }
    status = generate(assistant, prompts, ids, adapters, count, settings, &a);
done:
    for (int64_t i = 0; a.streams && i < count; i++)
        lt_answer_stream_free(&a.streams[i]);
    free(a.streams);
    for (int64_t i = 0; ids && i < count; i++)
        lt_ids_free(&ids[i]);
    free(ids);
    free(adapters);
    return status;
}

void lt_answer_free(lt_answer *answer)
{
    lt_buffer_free(&answer->text);
    lt_ids_free(&answer->ids);
    *answer = (lt_answer){0};
}
