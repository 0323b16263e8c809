#include "train/open_model.h"

#include <string.h>

#include "train/export.h"

/* --- Tokenizer and notes ---------------------------------------------------------------------- */

/* Takes the directory's tokenizer when there is none yet, else compares. */
static lt_status take_tokenizer(const char *directory, const char *before, lt_tokenizer **tokenizer,
                                lt_err *err)
{
    lt_tokenizer *own = NULL;
    if (!lt_has_tokenizer(directory)) return LT_OK;
    LT_TRY(lt_tokenizer_load(directory, &own, err));
    if (!*tokenizer) {
        *tokenizer = own;
        return LT_OK;
    }
    bool same = strcmp(lt_tokenizer_hash(own), lt_tokenizer_hash(*tokenizer)) == 0;
    lt_tokenizer_free(own);
    return same ? LT_OK
                : lt_fail(err, LT_ERR_USAGE,
                          "the adapters %s and %s have different tokenizers and can not be used "
                          "together; use them one at a time",
                          before, directory);
}

static lt_status take_notes(const char *directory, const char *before, lt_model_notes *notes,
                            lt_err *err)
{
    lt_model_notes own;
    LT_TRY(lt_model_notes_load(directory, &own, err));
    if (!own.has_template) return LT_OK;
    if (notes->has_template && notes->template_ != own.template_)
        return lt_fail(err, LT_ERR_USAGE,
                       "the adapters %s and %s were trained with different templates (%s, %s) and "
                       "can not be used together; use them one at a time",
                       before, directory, lt_template_name(notes->template_),
                       lt_template_name(own.template_));
    *notes = own;
    return LT_OK;
}

/* A GGUF file has its tokenizer inside. How it is talked to says a note of ours, else the chat
 * template. */
static lt_status read_gguf(const lt_gguf *file, lt_opened_model *out, lt_err *err)
{
    if (out->tokenizer) return LT_OK; /* an adapter's */
    LT_TRY(lt_tokenizer_from_gguf(file, &out->tokenizer, err));
    if (out->notes.has_template || !out->tokenizer) return LT_OK;
    LT_TRY(lt_model_notes_from_gguf(file, &out->notes, err));
    if (out->notes.has_template || !lt_tokenizer_chat_template(out->tokenizer)) return LT_OK;
    out->notes.has_template = true;
    out->notes.template_ = LT_TEMPLATE_CHAT;
    return LT_OK;
}

static lt_status take_from_gguf(const char *path, bool needed, lt_opened_model *out, lt_err *err)
{
    lt_gguf file;
    LT_TRY(lt_gguf_open(path, &file, err));
    lt_status status = read_gguf(&file, out, err);
    lt_gguf_close(&file);
    LT_TRY(status);
    if (needed && !out->tokenizer)
        return lt_fail(err, LT_ERR_USAGE, "%s: has no tokenizer, which is needed here", path);
    return LT_OK;
}

static lt_status find_tokenizer(const char *directory, const lt_adapter_source *adapters,
                                int64_t count, bool needed, lt_opened_model *out, lt_err *err)
{
    const char *before = NULL;
    for (int64_t i = 0; i < count; i++) {
        LT_TRY(take_tokenizer(adapters[i].directory, before, &out->tokenizer, err));
        LT_TRY(take_notes(adapters[i].directory, before, &out->notes, err));
        before = adapters[i].directory;
    }
    if (lt_is_gguf_file(directory)) return take_from_gguf(directory, needed, out, err);
    if (!out->notes.has_template) LT_TRY(lt_model_notes_load(directory, &out->notes, err));
    if (out->tokenizer || (!needed && !lt_has_tokenizer(directory))) return LT_OK;
    return lt_tokenizer_load(directory, &out->tokenizer, err);
}

lt_status lt_check_token_rows(const lt_tokenizer *tokenizer, const lt_model *model,
                              const char *where, lt_err *err)
{
    int64_t tokens = lt_tokenizer_vocab_size(tokenizer), rows = model->config.vocab_size;
    if (tokens <= rows) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "%s: tokenizer and model do not match: the tokenizer has %lld tokens, the "
                   "model's embedding %lld rows",
                   where, (long long)tokens, (long long)rows);
}

/* Only an adapter can bring tokens that the model has no rows for: it brings the rows too. */
static lt_status fit_rows(const char *directory, bool may_grow, lt_opened_model *out, lt_err *err)
{
    if (!out->tokenizer) return LT_OK;
    int64_t tokens = lt_tokenizer_vocab_size(out->tokenizer);
    if (may_grow && tokens > out->model->config.vocab_size)
        return lt_model_grow_vocab(out->model, tokens, err);
    return lt_check_token_rows(out->tokenizer, out->model, directory, err);
}

/* --- Opening ---------------------------------------------------------------------------------- */

lt_status lt_open_model(const char *directory, const lt_adapter_source *adapters,
                        int64_t adapter_count, bool need_tokenizer, const lt_backend *backend,
                        lt_opened_model *out, lt_err *err)
{
    lt_status status;
    *out = (lt_opened_model){0};
    LT_TRY_GOTO(status,
                find_tokenizer(directory, adapters, adapter_count, need_tokenizer, out, err), done);
    LT_TRY_GOTO(status, lt_model_load(directory, backend, &out->model, err), done);
    LT_TRY_GOTO(status, fit_rows(directory, adapter_count > 0, out, err), done);
    for (int64_t i = 0; i < adapter_count; i++) {
        lt_adapter *adapter;
        LT_TRY_GOTO(
            status,
            lt_adapter_load(out->model, adapters[i].directory, adapters[i].name, &adapter, err),
            done);
    }
done:
    if (status != LT_OK) lt_close_model(out);
    return status;
}

void lt_close_model(lt_opened_model *opened)
{
    lt_tokenizer_free(opened->tokenizer);
    lt_model_free(opened->model);
    *opened = (lt_opened_model){0};
}
