#include "train/chat_session.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/answer_stream.h"

/* New ids that one step reads at most, and the smallest cache. */
enum { STEP_TOKENS = 256, LEAST_CAPACITY = 512, MAX_STOP_IDS = LT_MAX_EOS + 1 };

struct lt_chat_session {
    lt_assistant *assistant; /* borrowed */
    const lt_adapter *adapter;
    lt_chat_template *chat;
    lt_workspace *workspace;
    lt_kv_cache *cache; /* one row; NULL before the first answer */
    int64_t capacity;   /* of the cache, virtual tokens included */
    lt_ids held;        /* what the cache holds behind the virtual tokens */
    int32_t stop_ids[MAX_STOP_IDS];
    int64_t stop_id_count;
};

/* --- Opening ---------------------------------------------------------------------------------- */

static lt_status compile_template(lt_chat_session *session, lt_err *err)
{
    const lt_assistant *assistant = session->assistant;
    if (assistant->notes.has_template)
        return lt_chat_template_of(assistant->notes.template_, assistant->tokenizer, &session->chat,
                                   err);
    return lt_fail(err, LT_ERR_USAGE,
                   "neither the model's directory (lathe.json) nor its tokenizer names a template: "
                   "give --template");
}

/* The model's eos ids and what closes the template's answers; where there is neither, the
 * tokenizer's eos. */
static void collect_stop_ids(lt_chat_session *session)
{
    const lt_model_config *config = &session->assistant->model->config;
    int32_t closing = lt_chat_template_stop_id(session->chat);
    int32_t eos = lt_tokenizer_eos_id(session->assistant->tokenizer);
    for (int i = 0; i < config->eos_token_count; i++)
        session->stop_ids[session->stop_id_count++] = config->eos_token_ids[i];
    if (closing < 0) closing = eos;
    if (closing >= 0) session->stop_ids[session->stop_id_count++] = closing;
}

lt_status lt_chat_session_create(lt_assistant *assistant, const lt_adapter *adapter,
                                 lt_chat_session **out, lt_err *err)
{
    *out = NULL;
    lt_chat_session *session = calloc(1, sizeof *session);
    if (!session) return lt_fail_nomem(err, sizeof *session, "a conversation");
    session->assistant = assistant;
    session->adapter = adapter;
    lt_workspace_settings settings = {.rows = 1, .length = STEP_TOKENS, .head_chunk = 1};
    lt_status status = compile_template(session, err);
    if (status == LT_OK)
        status = lt_workspace_create(assistant->model, &settings, &session->workspace, err);
    if (status != LT_OK) {
        lt_chat_session_free(session);
        return status;
    }
    collect_stop_ids(session);
    *out = session;
    return LT_OK;
}

void lt_chat_session_free(lt_chat_session *session)
{
    if (!session) return;
    lt_chat_template_free(session->chat);
    lt_workspace_free(session->workspace);
    lt_kv_cache_free(session->cache);
    lt_ids_free(&session->held);
    free(session);
}

/* --- Fitting ---------------------------------------------------------------------------------- */

static bool has_role(const json_t *messages, size_t index, const char *role)
{
    const char *own = json_string_value(json_object_get(json_array_get(messages, index), "role"));
    return own && strcmp(own, role) == 0;
}

/* The messages in front that always stay. */
static size_t system_messages(const json_t *messages)
{
    size_t count = 0;
    while (has_role(messages, count, "system") || has_role(messages, count, "developer"))
        count++;
    return count;
}

/* Where the exchange after the one at `from` begins; 0: that was the last. */
static size_t next_exchange(const json_t *messages, size_t from)
{
    for (size_t i = from + 1; i < json_array_size(messages); i++)
        if (has_role(messages, i, "user")) return i;
    return 0;
}

/* Encodes the conversation without the messages from its system messages to `from`. */
static lt_status encode_rest(lt_chat_session *session, const lt_conversation *conversation,
                             size_t from, lt_ids *ids, lt_err *err)
{
    size_t kept = system_messages(conversation->messages);
    json_t *messages = json_copy((json_t *)conversation->messages);
    if (!messages) return lt_fail_nomem(err, 256, "a conversation");
    for (size_t i = from; i > kept; i--)
        json_array_remove(messages, kept);
    lt_conversation rest = *conversation;
    rest.messages = messages;
    rest.add_generation_prompt = true;
    ids->count = 0;
    lt_status status = lt_chat_template_encode(session->chat, session->assistant->encoder, &rest,
                                               "the conversation", ids, NULL, err);
    json_decref(messages);
    return status;
}

/* What the model sees behind an adapter's virtual tokens. */
static int64_t room_of(const lt_chat_session *session)
{
    return session->assistant->model->config.max_position_embeddings -
           lt_adapter_virtual_tokens(session->adapter);
}

static lt_status fit(lt_chat_session *session, const lt_conversation *conversation,
                     int64_t max_new_tokens, lt_ids *ids, int64_t *left_out, lt_err *err)
{
    int64_t room = room_of(session), answer = lt_max_i64(room / 4, 1);
    if (max_new_tokens > 0) answer = lt_min_i64(answer, max_new_tokens);
    const json_t *messages = conversation->messages;
    size_t kept = json_is_array(messages) ? system_messages(messages) : 0;
    for (size_t from = kept;;) {
        LT_TRY(encode_rest(session, conversation, from, ids, err));
        *left_out = (int64_t)(from - kept);
        if ((int64_t)ids->count + answer <= room) break;
        size_t next = next_exchange(messages, from);
        if (next == 0) break;
        from = next;
    }
    if (ids->count == 0)
        return lt_fail(err, LT_ERR_USAGE, "the template makes no text of the conversation");
    if ((int64_t)ids->count < room) return LT_OK;
    return lt_fail(err, LT_ERR_LIMIT,
                   "the message does not fit, even without those before it: with the template it "
                   "has %zu tokens, and the model sees %lld; ask for less at a time",
                   ids->count, (long long)room);
}

/* --- Reading and writing ---------------------------------------------------------------------- */

/* A cache with room for so many tokens; a larger one has to be filled anew. */
static lt_status reserve(lt_chat_session *session, int64_t tokens, lt_err *err)
{
    if (session->cache && tokens <= session->capacity) return LT_OK;
    const lt_model *model = session->assistant->model;
    int64_t capacity = lt_max_i64(lt_max_i64(tokens, 2 * session->capacity), LEAST_CAPACITY);
    capacity = lt_min_i64(capacity, model->config.max_position_embeddings);
    lt_kv_cache_free(session->cache);
    session->cache = NULL;
    session->held.count = 0;
    LT_TRY(lt_kv_cache_create(model, 1, capacity, &session->cache, err));
    session->capacity = capacity;
    return lt_kv_cache_start(session->cache, 0, session->adapter, err);
}

/* Takes back what the cache holds beyond the common beginning with `ids`. Their last one is read in
 * any case: the answer comes out of it. */
static int64_t keep_common(lt_chat_session *session, const lt_ids *ids)
{
    size_t common = 0;
    while (common + 1 < ids->count && common < session->held.count &&
           session->held.data[common] == ids->data[common])
        common++;
    session->held.count = common;
    lt_kv_cache_truncate(session->cache, 0,
                         lt_adapter_virtual_tokens(session->adapter) + (int64_t)common);
    return (int64_t)common;
}

/* Reads what the cache does not hold of `ids`, at most STEP_TOKENS of it, and chooses what would
 * come next. */
static lt_status step(lt_chat_session *session, const lt_ids *ids, const lt_sampling *sampling,
                      int32_t *next, lt_err *err)
{
    size_t held = session->held.count;
    int64_t count = lt_min_i64((int64_t)(ids->count - held), STEP_TOKENS);
    lt_decode_row row = {.history = ids->data, .history_count = (int64_t)held + count};
    LT_TRY(lt_model_decode_next(session->assistant->model, session->workspace, session->cache,
                                ids->data + held, &count, count, &row, sampling, next, err));
    return lt_ids_append(&session->held, ids->data + held, (size_t)count, err);
}

static bool is_stop_id(const lt_chat_session *session, int32_t id)
{
    for (int64_t i = 0; i < session->stop_id_count; i++)
        if (session->stop_ids[i] == id) return true;
    return false;
}

static bool is_cancelled(const lt_answer_settings *settings)
{
    return settings->cancelled && *settings->cancelled;
}

/* Reads `ids` and writes the answer behind them. */
static lt_status write_answer(lt_chat_session *session, lt_ids *ids,
                              const lt_answer_settings *settings, lt_answer_stream *stream,
                              lt_err *err)
{
    size_t prompt = ids->count;
    int64_t room = room_of(session), most = settings->max_new_tokens;
    while (!is_cancelled(settings)) {
        int32_t id;
        LT_TRY(step(session, ids, &settings->sampling, &id, err));
        if (session->held.count < ids->count) continue; /* the prompt is still being read */
        bool stop = is_stop_id(session, id);
        LT_TRY(lt_ids_push(ids, id, err));
        LT_TRY(lt_answer_stream_take(stream, id, stop, err));
        bool full =
            (most > 0 && (int64_t)(ids->count - prompt) >= most) || (int64_t)ids->count >= room;
        if (stop || full || stream->scanner.stopped) break;
    }
    LT_TRY(lt_answer_stream_finish(stream, err));
    return is_cancelled(settings) ? lt_fail(err, LT_ERR_INTERRUPTED, "interrupted") : LT_OK;
}

lt_status lt_chat_session_answer(lt_chat_session *session, const lt_conversation *conversation,
                                 const lt_answer_settings *settings, lt_on_text on_text,
                                 void *context, lt_chat_reply *reply, lt_err *err)
{
    lt_ids ids = {0};
    lt_answer_stream stream = {.answer = &reply->answer, .on_text = on_text, .context = context};
    lt_status status;
    LT_TRY(lt_stop_texts_check(settings, err));
    lt_answer_stream_begin(&stream, session->assistant->tokenizer, settings, false);
    LT_TRY_GOTO(status,
                fit(session, conversation, settings->max_new_tokens, &ids, &reply->left_out, err),
                done);
    reply->answer.prompt_tokens = (int64_t)ids.count;
    int64_t virtual_tokens = lt_adapter_virtual_tokens(session->adapter), room = room_of(session);
    int64_t new_tokens = settings->max_new_tokens ? settings->max_new_tokens : room;
    int64_t whole = lt_min_i64((int64_t)ids.count + lt_min_i64(new_tokens, room), room);
    LT_TRY_GOTO(status, reserve(session, virtual_tokens + whole, err), done);
    reply->reused = keep_common(session, &ids);
    status = write_answer(session, &ids, settings, &stream, err);
done:
    lt_answer_stream_free(&stream);
    lt_ids_free(&ids);
    return status;
}
