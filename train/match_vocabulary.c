/* Do the dataset's tokenizer and the model belong together? Ids mean nothing to a model that was
 * trained with other ones, and nothing later would notice. */
#include <string.h>

#include "train/trainer.h"

/* Does `tokenizer`, once it has the template's special tokens, equal the dataset's? That is how
 * lathe prepare made the dataset's from it. */
static lt_status extends(lt_tokenizer *tokenizer, const lt_trainer *trainer, bool *out, lt_err *err)
{
    const char *wanted = lt_tokenizer_hash(lt_dataset_tokenizer(trainer->dataset));
    *out = strcmp(lt_tokenizer_hash(tokenizer), wanted) == 0;
    if (*out) return LT_OK;
    const char *const *special = lt_template_special_tokens(lt_dataset_template(trainer->dataset));
    size_t count = 0, added;
    while (special[count])
        count++;
    LT_TRY(lt_tokenizer_add_special_tokens(tokenizer, special, count, &added, err));
    *out = strcmp(lt_tokenizer_hash(tokenizer), wanted) == 0;
    return LT_OK;
}

static lt_status compare_with_models_own(const lt_trainer *trainer, lt_err *err)
{
    const char *directory = lt_buffer_text(&trainer->model_directory);
    if (!lt_has_tokenizer(directory)) return LT_OK;
    lt_tokenizer *own = NULL;
    bool same = false;
    if (lt_tokenizer_load(directory, &own, err) != LT_OK)
        return lt_fail_context(err, "the model's own tokenizer");
    lt_status status = extends(own, trainer, &same, err);
    if (status == LT_OK && !same)
        status = lt_fail(err, LT_ERR_USAGE,
                         "model and dataset do not match: %s was prepared with another tokenizer "
                         "(%lld tokens) than the one in %s (%lld tokens); prepare the data again "
                         "with --tokenizer %s",
                         trainer->settings.data,
                         (long long)lt_tokenizer_vocab_size(lt_dataset_tokenizer(trainer->dataset)),
                         directory, (long long)lt_tokenizer_vocab_size(own), directory);
    lt_tokenizer_free(own);
    return status;
}

/* Rows may be missing for special tokens, which a model can learn; for an ordinary token, tokenizer
 * and model are not of one piece. */
static lt_status check_missing_rows(const lt_trainer *trainer, lt_err *err)
{
    const lt_tokenizer *tokenizer = lt_dataset_tokenizer(trainer->dataset);
    int64_t tokens = lt_tokenizer_vocab_size(tokenizer), rows = trainer->config.vocab_size;
    for (int64_t id = rows; id < tokens; id++) {
        const char *spelling = lt_tokenizer_token(tokenizer, (int32_t)id);
        if (!spelling || lt_tokenizer_is_special(tokenizer, (int32_t)id)) continue;
        return lt_fail(err, LT_ERR_USAGE,
                       "tokenizer and model do not match: the tokenizer of %s has %lld tokens, the "
                       "model %s has %lld rows, and token %lld (\"%s\") without a row is not a "
                       "special one",
                       trainer->settings.data, (long long)tokens,
                       lt_buffer_text(&trainer->model_directory), (long long)rows, (long long)id,
                       spelling);
    }
    return LT_OK;
}

lt_status lt_vocabulary_match(lt_trainer *trainer, lt_err *err)
{
    const lt_tokenizer *tokenizer = lt_dataset_tokenizer(trainer->dataset);
    int64_t tokens = lt_tokenizer_vocab_size(tokenizer);
    LT_TRY(compare_with_models_own(trainer, err));
    LT_TRY(check_missing_rows(trainer, err));
    if (tokens > trainer->config.vocab_size) {
        trainer->grown_rows = tokens - trainer->config.vocab_size;
        trainer->config.vocab_size = tokens;
    }
    return LT_OK;
}
