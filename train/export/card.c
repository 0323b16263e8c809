/* README.md: a model card as the Hugging Face Hub shows it. */
#include "train/export/card.h"

#include <stdlib.h>
#include <string.h>

#include "model/families/families.h"
#include "train/export/internal.h"

typedef struct card {
    const lt_opened_model *opened;
    const lt_export_settings *settings;
    const lt_card_facts *facts;
    lt_buffer *notes, *out; /* notes: or NULL */
    lt_err *err;
} card;

#define SAY(c, ...) LT_TRY(lt_buffer_printf((c)->out, (c)->err, __VA_ARGS__))

static bool is_adapter(const card *c)
{
    return c->settings->format == LT_EXPORT_PEFT;
}

/* The last part of the target's path: what the model is called. */
static void name_of(const card *c, int *size, const char **name)
{
    const char *path = c->settings->output;
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    *name = path + start;
    *size = (int)(end - start);
}

/* A cell of a table: '|' would end it, and a line feed the row. */
static lt_status cell(const card *c, const char *text)
{
    for (; *text; text++) {
        if (*text == '|') LT_TRY(lt_buffer_append_text(c->out, "\\", c->err));
        LT_TRY(lt_buffer_append(c->out, *text == '\n' ? " " : text, 1, c->err));
    }
    return LT_OK;
}

static lt_status row(const card *c, const char *name, const char *value)
{
    SAY(c, "| %s | ", name);
    LT_TRY(cell(c, value));
    return lt_buffer_append_text(c->out, " |\n", c->err);
}

/* --- Front matter ----------------------------------------------------------------------------- */

static lt_status front_matter(const card *c)
{
    const char *base = lt_buffer_text(&c->facts->base);
    SAY(c, "---\n");
    if (*base) SAY(c, "base_model: %s\n", base);
    SAY(c, "library_name: %s\n", is_adapter(c) ? "peft" : "transformers");
    SAY(c, "pipeline_tag: text-generation\ntags:\n- lathe\n");
    if (is_adapter(c)) {
        const lt_adapter *adapter = c->opened->model->adapters[0];
        SAY(c, "- %s\n", lt_adapter_kind_name(lt_adapter_config_of(adapter)->kind));
        if (*base) SAY(c, "- base_model:adapter:%s\n", base);
    }
    return lt_buffer_append_text(c->out, "---\n\n", c->err);
}

/* --- The model -------------------------------------------------------------------------------- */

static lt_status describe_model(const card *c)
{
    const lt_model_config *config = &c->opened->model->config;
    SAY(c, "| | |\n|---|---|\n");
    if (c->facts->base.size > 0) LT_TRY(row(c, "Base model", c->facts->base.data));
    SAY(c, "| Architecture | %s: %lld layers, hidden size %lld, %lld heads |\n",
        config->family->architecture, (long long)config->num_hidden_layers,
        (long long)config->hidden_size, (long long)config->num_attention_heads);
    SAY(c, "| Parameters%s | %lld |\n", is_adapter(c) ? ", the base model's included" : "",
        (long long)lt_model_parameter_count(c->opened->model, false));
    SAY(c, "| Context | %lld tokens |\n", (long long)config->max_position_embeddings);
    SAY(c, "| Vocabulary | %lld |\n", (long long)config->vocab_size);
    SAY(c, "| Number type | %s |\n", lt_dtype_name(c->settings->dtype));
    return lt_buffer_append_text(c->out, "\n", c->err);
}

/* Without a tokenizer there is none to load, and no server to start. */
static lt_status use_of_model(const card *c, const char *name, int size)
{
    bool tokenizer = c->opened->tokenizer;
    SAY(c, "```python\nfrom transformers import AutoModelForCausalLM%s\n\n",
        tokenizer ? ", AutoTokenizer" : "");
    if (tokenizer) SAY(c, "tokenizer = AutoTokenizer.from_pretrained(\"%.*s\")\n", size, name);
    SAY(c, "model = AutoModelForCausalLM.from_pretrained(\"%.*s\")\n```\n\n", size, name);
    if (tokenizer) SAY(c, "```sh\nvllm serve %.*s\n```\n\n", size, name);
    return LT_OK;
}

static lt_status use_of_adapter(const card *c, const char *name, int size)
{
    const char *base = c->facts->base.size > 0 ? c->facts->base.data : "BASE";
    bool tokenizer = c->opened->tokenizer;
    SAY(c,
        "```python\nfrom peft import PeftModel\nfrom transformers import "
        "AutoModelForCausalLM%s\n\n",
        tokenizer ? ", AutoTokenizer" : "");
    if (tokenizer) SAY(c, "tokenizer = AutoTokenizer.from_pretrained(\"%.*s\")\n", size, name);
    SAY(c, "model = AutoModelForCausalLM.from_pretrained(\"%s\")\n", base);
    if (tokenizer)
        SAY(c, "model.resize_token_embeddings(max(model.config.vocab_size, len(tokenizer)))\n");
    SAY(c, "model = PeftModel.from_pretrained(model, \"%.*s\")\n```\n\n", size, name);
    const lt_adapter_config *config = lt_adapter_config_of(c->opened->model->adapters[0]);
    if (config->kind == LT_ADAPTER_LORA && !config->use_dora && config->modules_to_save.count == 0)
        SAY(c, "```sh\nvllm serve %s --enable-lora --lora-modules %.*s=%.*s\n```\n\n", base, size,
            name, size, name);
    return LT_OK;
}

static lt_status describe_use(const card *c, const char *name, int size)
{
    const lt_model_notes *notes = &c->opened->notes;
    SAY(c, "## Use\n\n");
    LT_TRY(is_adapter(c) ? use_of_adapter(c, name, size) : use_of_model(c, name, size));
    if (notes->has_template)
        SAY(c, "It was trained on conversations in the form of the template `%s`%s.\n\n",
            lt_template_name(notes->template_),
            c->opened->tokenizer ? ", which `tokenizer.apply_chat_template` writes" : "");
    return LT_OK;
}

/* --- Training --------------------------------------------------------------------------------- */

static lt_status number_row(const card *c, const json_t *object, const char *key, const char *name)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_integer(value))
        SAY(c, "| %s | %lld |\n", name, (long long)json_integer_value(value));
    else if (json_is_real(value))
        SAY(c, "| %s | %.6g |\n", name, json_real_value(value));
    return LT_OK;
}

static lt_status describe_run(const card *c)
{
    const json_t *state = c->facts->state, *own = json_object_get(state, "lathe");
    const char *data = json_string_value(json_object_get(own, "dataset_hash"));
    const char *model = json_string_value(json_object_get(own, "model_hash"));
    lt_buffer value = {0};
    lt_status status = LT_OK;
    SAY(c, "## Training\n\n| | |\n|---|---|\n");
    if (lt_card_setting(c->facts, "method", &value)) status = row(c, "Method", value.data);
    lt_buffer_free(&value);
    LT_TRY(status);
    if (data) LT_TRY(row(c, "Data (XXH3-128 of the dataset)", data));
    if (model) LT_TRY(row(c, "Start (XXH3-128 of configuration and weights)", model));
    LT_TRY(number_row(c, state, "global_step", "Steps"));
    LT_TRY(number_row(c, state, "epoch", "Epochs"));
    LT_TRY(number_row(c, own, "input_tokens", "Tokens read"));
    LT_TRY(number_row(c, own, "trained_tokens", "Tokens trained on"));
    LT_TRY(number_row(c, own, "skipped_steps", "Steps not taken"));
    LT_TRY(number_row(c, own, "train_loss", "Training loss"));
    LT_TRY(number_row(c, own, "eval_loss", "Validation loss"));
    LT_TRY(number_row(c, state, "best_metric", "Best validation loss"));
    LT_TRY(number_row(c, state, "best_global_step", "Best step"));
    return lt_buffer_append_text(c->out, "\n", c->err);
}

/* Another setting, when it is above 0, decides instead. */
static bool is_overruled(const card *c, const char *key)
{
    static const char *const by[][2] = {{"epochs", "max_steps"}, {"warmup_ratio", "warmup_steps"}};
    lt_buffer value = {0};
    bool overruled = false;
    for (size_t i = 0; i < sizeof by / sizeof *by; i++)
        if (strcmp(by[i][0], key) == 0 && lt_card_setting(c->facts, by[i][1], &value))
            overruled = strtod(value.data, NULL) > 0;
    lt_buffer_free(&value);
    return overruled;
}

/* Settings that say how it was trained, and none that says where. */
static lt_status describe_settings(const card *c)
{
    static const char *const general[] = {
        "epochs",       "max_steps",    "micro_batch_size", "gradient_accumulation_steps",
        "max_length",   "packing",      "optimizer",        "learning_rate",
        "lr_scheduler", "warmup_steps", "warmup_ratio",     "min_lr_ratio",
        "weight_decay", "adam_beta1",   "adam_beta2",       "adam_epsilon",
        "dtype",        "seed",         "max_grad_norm",    NULL};
    static const char *const lora[] = {"lora_r",          "lora_alpha", "lora_dropout",
                                       "lora_target",     "use_rslora", "use_dora",
                                       "modules_to_save", "base_dtype", NULL};
    static const char *const prompt[] = {"num_virtual_tokens", "prefix_projection",
                                         "prompt_tuning_init", "base_dtype", NULL};
    lt_buffer value = {0};
    lt_status status = LT_OK;
    bool is_lora = lt_card_setting(c->facts, "method", &value) && strcmp(value.data, "lora") == 0;
    bool is_full = value.size > 0 && strcmp(value.data, "full") == 0;
    const char *const *lists[] = {general, is_lora ? lora : is_full ? NULL : prompt};
    SAY(c, "| Setting | |\n|---|---|\n");
    for (int i = 0; i < 2; i++)
        for (const char *const *key = lists[i]; key && *key && status == LT_OK; key++)
            if (!is_overruled(c, *key) && lt_card_setting(c->facts, *key, &value))
                status = row(c, *key, value.data);
    lt_buffer_free(&value);
    LT_TRY(status);
    return lt_buffer_append_text(c->out, "\n", c->err);
}

/* --- Evaluation ------------------------------------------------------------------------------- */

/* "acc,none" has its error under "acc_stderr,none". Answers may be filtered in several ways:
 * "exact_match,strict-match". */
static lt_status metric_row(const card *c, const json_t *task, const char *name, const char *key,
                            double value)
{
    const char *comma = strchr(key, ',');
    int length = comma ? (int)(comma - key) : (int)strlen(key);
    const char *filter = comma && strcmp(comma, ",none") != 0 ? comma + 1 : "";
    lt_buffer spread = {0};
    lt_status status =
        lt_buffer_printf(&spread, c->err, "%.*s_stderr%s", length, key, comma ? comma : "");
    const json_t *error = json_object_get(task, lt_buffer_text(&spread));
    lt_buffer_free(&spread);
    LT_TRY(status);
    SAY(c, "| ");
    LT_TRY(cell(c, name));
    SAY(c, " | %.*s%s", length, key, *filter ? ", " : "");
    LT_TRY(cell(c, filter));
    SAY(c, " | %.4f | ", value);
    if (json_is_real(error)) SAY(c, "%.4f", json_real_value(error));
    return lt_buffer_append_text(c->out, " |\n", c->err);
}

/* Numbers of another model would be a false card; only the user can know what name is which. */
static lt_status note_what_was_evaluated(const card *c)
{
    const lt_export_settings *s = c->settings;
    const json_t *file = c->facts->evaluation, *config = json_object_get(file, "config");
    const char *model = json_string_value(json_object_get(file, "model_name"));
    const char *adapter =
        json_string_value(json_object_get(json_object_get(config, "model_args"), "peft"));
    bool same_adapter = !adapter == !s->adapter_directory &&
                        (!adapter || strcmp(adapter, s->adapter_directory) == 0);
    if (!c->notes || !s->evaluation || !s->model_name || !model) return LT_OK;
    if (strcmp(model, s->model_name) == 0 && same_adapter) return LT_OK;
    return lt_buffer_printf(c->notes, c->err, "the card's evaluation is of %s%s%s\n", model,
                            adapter ? " + " : "", adapter ? adapter : "");
}

static lt_status describe_evaluation(const card *c)
{
    LT_TRY(note_what_was_evaluated(c));
    json_t *results = json_object_get(c->facts->evaluation, "results"), *task, *value;
    const char *name, *key;
    SAY(c, "## Evaluation\n\n| Task | Metric | Value | Standard error |\n|---|---|---|---|\n");
    json_object_foreach(results, name, task)
    {
        json_object_foreach(task, key, value)
        {
            if (json_is_real(value) && !strstr(key, "_stderr"))
                LT_TRY(metric_row(c, task, name, key, json_real_value(value)));
        }
    }
    return lt_buffer_append_text(c->out, "\n", c->err);
}

/* --- The whole -------------------------------------------------------------------------------- */

static lt_status write_all(const card *c)
{
    const char *name;
    int size;
    name_of(c, &size, &name);
    LT_TRY(front_matter(c));
    SAY(c, "# %.*s\n\n", size, name);
    SAY(c, "%s written by Lathe " LATHE_VERSION ".\n\n",
        is_adapter(c) ? "An adapter for a language model," : "A language model,");
    LT_TRY(describe_model(c));
    LT_TRY(describe_use(c, name, size));
    if (c->facts->state) LT_TRY(describe_run(c));
    if (c->facts->config.size > 0) LT_TRY(describe_settings(c));
    return c->facts->evaluation ? describe_evaluation(c) : LT_OK;
}

lt_status lt_model_card(const lt_opened_model *opened, const lt_export_settings *settings,
                        lt_buffer *notes, lt_buffer *out, lt_err *err)
{
    lt_card_facts facts;
    LT_TRY(lt_card_facts_find(opened, settings, &facts, err));
    const card c = {.opened = opened,
                    .settings = settings,
                    .facts = &facts,
                    .notes = notes,
                    .out = out,
                    .err = err};
    lt_status status = write_all(&c);
    lt_card_facts_free(&facts);
    return status;
}
