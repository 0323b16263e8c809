/* What --method and its options ask of an adapter, and whether this model and dataset allow it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "train/trainer.h"

/* --- Options of methods ------------------------------------------------------------------------
 */

/* An option and the methods it belongs to. */
typedef struct method_option {
    const char *name, *methods;
} method_option;

static const method_option method_options[] = {
    {"freeze-layers", "full"},
    {"train", "full"},
    {"freeze", "full"},
    {"base-dtype", "lora prefix prompt p-tuning"},
    {"lora-r", "lora"},
    {"lora-alpha", "lora"},
    {"lora-dropout", "lora"},
    {"lora-target", "lora"},
    {"layers-to-transform", "lora"},
    {"use-rslora", "lora"},
    {"use-dora", "lora"},
    {"modules-to-save", "lora"},
    {"num-virtual-tokens", "prefix prompt p-tuning"},
    {"prefix-projection", "prefix"},
    {"encoder-hidden-size", "prefix p-tuning"},
    {"prompt-tuning-init", "prompt"},
    {"prompt-tuning-init-text", "prompt"},
};

static const lt_option *option_of(const char *name)
{
    const lt_option *option = lt_train_options.options;
    while (strcmp(option->name, name) != 0)
        option++;
    return option;
}

static bool is_default(const lt_option *option, const lt_train_settings *settings)
{
    const char *field = (const char *)settings + option->offset;
    const char *text = option->default_text;
    switch (option->type) {
    case LT_OPTION_FLAG:
        return *(const bool *)field == (text && strcmp(text, "true") == 0);
    case LT_OPTION_INT:
        return *(const int64_t *)field == (text ? strtoll(text, NULL, 10) : 0);
    case LT_OPTION_NUMBER:
        return *(const double *)field == (text ? strtod(text, NULL) : 0);
    default: {
        const char *value = *(char *const *)field;
        return value && text ? strcmp(value, text) == 0 : value == text;
    }
    }
}

/* Is `word` one of the words of `list`? */
static bool lists(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) return true;
    return false;
}

/* An option that would do nothing is a misunderstanding. */
static lt_status refuse_others(const lt_train_settings *s, lt_err *err)
{
    for (size_t i = 0; i < sizeof method_options / sizeof *method_options; i++) {
        const method_option *option = &method_options[i];
        if (lists(option->methods, s->method) || is_default(option_of(option->name), s)) continue;
        return lt_fail(err, LT_ERR_USAGE, "--%s does not go with --method %s; it is for %s",
                       option->name, s->method, option->methods);
    }
    return LT_OK;
}

/* --- LoRA --------------------------------------------------------------------------------------
 */

static lt_status add_layers(lt_adapter_config *config, int64_t first, int64_t last, lt_err *err)
{
    size_t count = config->layers_to_transform_count + (size_t)(last - first + 1);
    int64_t *layers = realloc(config->layers_to_transform, count * sizeof *layers);
    if (!layers) return lt_fail_nomem(err, count * sizeof *layers, "a list of blocks");
    config->layers_to_transform = layers;
    for (int64_t i = first; i <= last; i++)
        layers[config->layers_to_transform_count++] = i;
    return LT_OK;
}

static bool read_number(const char **at, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(*at, &end, 10);
    bool good = end != *at && errno == 0 && *out >= 0;
    *at = end;
    return good;
}

/* "4-11,20" */
static lt_status parse_layers(const char *text, int64_t layers, lt_adapter_config *config,
                              lt_err *err)
{
    for (const char *at = text; at && *at;) {
        int64_t first, last;
        bool good = read_number(&at, &first);
        last = first;
        if (good && *at == '-') {
            at++;
            good = read_number(&at, &last);
        }
        if (!good || last < first || (*at && *at != ','))
            return lt_fail(err, LT_ERR_USAGE,
                           "--layers-to-transform \"%s\" is not a list of blocks like 4-11,20",
                           text);
        if (last >= layers)
            return lt_fail(err, LT_ERR_USAGE,
                           "--layers-to-transform names block %lld; the model's %lld blocks count "
                           "from 0",
                           (long long)last, (long long)layers);
        LT_TRY(add_layers(config, first, last, err));
        at += *at == ',';
    }
    return LT_OK;
}

/* Special tokens that the model has no rows for: only rows that are trained can mean anything. */
static lt_status train_new_rows(lt_trainer *t, lt_err *err)
{
    lt_adapter_config *config = &t->adapter_config;
    size_t before = config->modules_to_save.count;
    if (t->grown_rows == 0) return LT_OK;
    LT_TRY(lt_adapter_choose_saved(t->config.family, "embed,lm_head", config, err));
    if (config->modules_to_save.count == before) return LT_OK;
    return lt_notice(t, err,
                     "warning: the model has no rows for %lld special tokens of the dataset, so "
                     "embedding and head are trained whole (--modules-to-save embed,lm_head). A "
                     "smaller adapter: prepare the data with a template that needs no new tokens "
                     "(--template alpaca)",
                     (long long)t->grown_rows);
}

static lt_status set_up_lora(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    lt_adapter_config *config = &t->adapter_config;
    config->r = s->lora_r;
    config->lora_alpha = s->lora_alpha;
    config->lora_dropout = s->lora_dropout;
    config->use_rslora = s->use_rslora;
    config->use_dora = s->use_dora;
    LT_TRY(lt_adapter_choose_targets(t->config.family, s->lora_target, config, err));
    if (s->modules_to_save)
        LT_TRY(lt_adapter_choose_saved(t->config.family, s->modules_to_save, config, err));
    LT_TRY(parse_layers(s->layers_to_transform, t->config.num_hidden_layers, config, err));
    return train_new_rows(t, err);
}

/* --- Virtual tokens ----------------------------------------------------------------------------
 */

static lt_status encode_initial_text(lt_trainer *t, lt_err *err)
{
    const char *text = t->settings.prompt_tuning_init_text;
    lt_adapter_config *config = &t->adapter_config;
    lt_encoder *encoder = NULL;
    if (!t->dataset)
        return lt_fail(err, LT_ERR_USAGE,
                       "--prompt-tuning-init text needs the dataset's tokenizer: --data");
    if (!text || !*text)
        return lt_fail(
            err, LT_ERR_USAGE,
            "--prompt-tuning-init text needs the text: --prompt-tuning-init-text \"...\"");
    config->prompt_init_text = strdup(text);
    config->tokenizer_name = strdup(t->settings.model);
    if (!config->prompt_init_text || !config->tokenizer_name)
        return lt_fail_nomem(err, strlen(text), "the prompt's text");
    LT_TRY(lt_encoder_create(lt_dataset_tokenizer(t->dataset), &encoder, err));
    lt_status status = lt_encode(encoder, text, strlen(text), LT_ENCODE_ADD_SPECIAL,
                                 &config->prompt_init_ids, err);
    lt_encoder_free(encoder);
    return status;
}

static lt_status set_up_prompt_init(lt_trainer *t, lt_err *err)
{
    const char *init = t->settings.prompt_tuning_init;
    bool text = strcmp(init, "text") == 0;
    t->adapter_config.prompt_init = text                         ? LT_PROMPT_TEXT
                                    : strcmp(init, "vocab") == 0 ? LT_PROMPT_VOCAB
                                                                 : LT_PROMPT_RANDOM;
    if (text) return encode_initial_text(t, err);
    if (t->settings.prompt_tuning_init_text)
        return lt_fail(err, LT_ERR_USAGE,
                       "--prompt-tuning-init-text goes with --prompt-tuning-init text");
    return LT_OK;
}

static lt_status set_up_virtual_tokens(lt_trainer *t, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    lt_adapter_config *config = &t->adapter_config;
    if (s->num_virtual_tokens < 1)
        return lt_fail(err, LT_ERR_USAGE,
                       "--method %s with --num-virtual-tokens 0 trains nothing; at least 1 is "
                       "needed",
                       s->method);
    if (t->grown_rows > 0)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s has %lld special tokens that the model has no rows for, and --method %s "
                       "trains no rows; prepare the data with a template that needs none "
                       "(--template alpaca), or take --method lora",
                       s->data, (long long)t->grown_rows, s->method);
    config->num_virtual_tokens = s->num_virtual_tokens;
    config->prefix_projection = s->prefix_projection;
    config->encoder_hidden_size = s->encoder_hidden_size;
    if (s->encoder_hidden_size > 0 && config->kind == LT_ADAPTER_PREFIX && !s->prefix_projection)
        return lt_fail(err, LT_ERR_USAGE, "--encoder-hidden-size goes with --prefix-projection");
    return config->kind == LT_ADAPTER_PROMPT ? set_up_prompt_init(t, err) : LT_OK;
}

/* --- All of it ---------------------------------------------------------------------------------
 */

static lt_status note_serving(lt_trainer *t, lt_err *err)
{
    lt_buffer notes = {0};
    lt_status status = lt_adapter_serving_notes(&t->adapter_config, &notes, err);
    const char *at = lt_buffer_text(&notes);
    while (*at && status == LT_OK) {
        int length = (int)strcspn(at, "\n");
        status = lt_notice(t, err, "warning: %.*s", length, at);
        at += length + (at[length] == '\n');
    }
    lt_buffer_free(&notes);
    return status;
}

lt_status lt_adapter_setup(lt_trainer *t, lt_err *err)
{
    static const lt_adapter_kind kinds[] = {LT_ADAPTER_LORA, LT_ADAPTER_PREFIX, LT_ADAPTER_PROMPT,
                                            LT_ADAPTER_P_TUNING};
    const lt_train_settings *s = &t->settings;
    LT_TRY(refuse_others(s, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(s->method, lt_adapter_kind_name(kinds[i])) != 0) continue;
        t->has_adapter = true;
        t->adapter_config.kind = kinds[i];
    }
    if (!t->has_adapter) return LT_OK;
    t->adapter_config.base_model = strdup(s->model);
    if (!t->adapter_config.base_model) return lt_fail_nomem(err, strlen(s->model), "a name");
    if (t->adapter_config.kind == LT_ADAPTER_LORA)
        LT_TRY(set_up_lora(t, err));
    else
        LT_TRY(set_up_virtual_tokens(t, err));
    return note_serving(t, err);
}
