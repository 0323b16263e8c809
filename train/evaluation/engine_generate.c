/* Tasks that are answered by text: prompts, generation as lm-eval's generate_until (greedy, cut at
 * stop texts), and what the answers are worth. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "train/evaluation/engine_internal.h"
#include "train/evaluation/words.h"

/* Rows decoded side by side when the user names no number. */
enum { CPU_ROWS = 8, GPU_ROWS = 64 };

typedef struct answering {
    lt_ids ids; /* new ones, a stop id not included */
    lt_stream_decoder decoder;
    lt_buffer seen;   /* their text, to find stop texts in */
    lt_buffer prompt; /* as text, for the sample */
    lt_buffer answer;
    int64_t cut; /* tokens of the prompt that did not fit */
    bool finished, stopped;
} answering;

typedef struct generation {
    lt_engine *engine;
    const int64_t *docs; /* [count] */
    answering *answers;  /* [count], as are prompts */
    lt_ids *prompts;
    const lt_adapter **adapters;
    int64_t count;
    lt_ids stop_ids;
    const char **stop_texts; /* [stop_text_count]; the last one is EOS as text */
    size_t stop_text_count;
    lt_buffer eos;
    json_t *arguments; /* generation settings, for samples */
    lt_answer_rules *rules;
    lt_status status; /* of what was done between tokens */
} generation;

static const lt_task_doc *doc_of(const generation *g, int64_t i)
{
    return &g->engine->task->docs[g->docs[i]];
}

/* --- Stops ------------------------------------------------------------------------------------ */

static lt_status add_stop_id(generation *g, int32_t id)
{
    for (size_t i = 0; i < g->stop_ids.count; i++)
        if (g->stop_ids.data[i] == id) return LT_OK;
    return id < 0 ? LT_OK : lt_ids_push(&g->stop_ids, id, g->engine->err);
}

/* lm-eval looks for stop texts in text with special tokens spelled out: one that is a special token
 * ends the answer too. */
static lt_status collect_stop_ids(generation *g)
{
    const lt_engine *e = g->engine;
    const lt_model_config *config = &e->assistant->model->config;
    const lt_tokenizer *tokenizer = e->assistant->tokenizer;
    for (int i = 0; i < config->eos_token_count; i++)
        LT_TRY(add_stop_id(g, config->eos_token_ids[i]));
    LT_TRY(add_stop_id(g, lt_tokenizer_eos_id(tokenizer)));
    bool templated = e->settings->apply_chat_template;
    for (int64_t i = 0; i < g->count; i++)
        templated = templated || doc_of(g, i)->messages || doc_of(g, i)->record >= 0;
    if (templated) LT_TRY(add_stop_id(g, lt_engine_stop_of_template(e)));
    for (size_t i = 0; i < e->task->stop_text_count; i++) {
        int32_t id = lt_tokenizer_token_id(tokenizer, e->task->stop_texts[i]);
        if (id >= 0 && lt_tokenizer_is_special(tokenizer, id)) LT_TRY(add_stop_id(g, id));
    }
    return LT_OK;
}

static lt_status collect_stop_texts(generation *g)
{
    const lt_engine *e = g->engine;
    const lt_task *task = e->task;
    int32_t eos = lt_tokenizer_eos_id(e->assistant->tokenizer);
    g->stop_texts = calloc(task->stop_text_count + 1, sizeof *g->stop_texts);
    if (!g->stop_texts) return lt_fail_nomem(e->err, 64, "stop texts");
    for (size_t i = 0; i < task->stop_text_count; i++)
        if (*task->stop_texts[i]) g->stop_texts[g->stop_text_count++] = task->stop_texts[i];
    if (eos >= 0) LT_TRY(lt_decode(e->assistant->tokenizer, &eos, 1, false, &g->eos, e->err));
    if (g->eos.size > 0) g->stop_texts[g->stop_text_count++] = g->eos.data;
    return LT_OK;
}

static lt_status describe_settings(generation *g)
{
    const lt_task *task = g->engine->task;
    json_t *until = json_array();
    for (size_t i = 0; i < task->stop_text_count; i++)
        json_array_append_new(until, json_string(task->stop_texts[i]));
    g->arguments = json_pack("{s:o, s:I, s:b, s:f}", "until", until, "max_gen_toks",
                             (json_int_t)task->max_new_tokens, "do_sample", 0, "temperature", 0.0);
    return g->arguments ? LT_OK : lt_fail_nomem(g->engine->err, 256, "samples");
}

/* --- Prompts ---------------------------------------------------------------------------------- */

static int64_t positions_of(const lt_engine *e)
{
    const lt_model *model = e->assistant->model;
    int64_t limit =
        model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    return e->settings->max_length > 0 ? lt_min_i64(limit, e->settings->max_length) : limit;
}

static lt_status encode_record(generation *g, int64_t i)
{
    const lt_engine *e = g->engine;
    const lt_assistant *a = e->assistant;
    lt_record record = {0};
    if (!a->notes.has_template)
        return lt_fail(e->err, LT_ERR_USAGE, "the model has no template for the dataset's records");
    LT_TRY(lt_dataset_record(e->settings->dataset, LT_SPLIT_VALIDATION, doc_of(g, i)->record,
                             &record, e->err));
    lt_status status = lt_template_encode_prompt(a->notes.template_, a->encoder, a->tokenizer,
                                                 &record, &g->prompts[i], e->err);
    if (status == LT_OK)
        status = lt_decode(a->tokenizer, g->prompts[i].data, g->prompts[i].count, false,
                           &g->answers[i].prompt, e->err);
    lt_record_free(&record);
    return status;
}

static lt_status encode_prompt(generation *g, int64_t i)
{
    lt_engine *e = g->engine;
    const lt_task_doc *doc = doc_of(g, i);
    lt_buffer *text = &g->answers[i].prompt;
    if (doc->record >= 0) return encode_record(g, i);
    if (doc->messages)
        LT_TRY(lt_engine_render(e, doc->messages, doc->where, text));
    else if (e->settings->apply_chat_template)
        LT_TRY(lt_engine_render_user(e, doc, doc->prompt, text));
    else
        LT_TRY(lt_buffer_append_text(text, doc->prompt, e->err));
    return lt_read_text(&e->reader, lt_buffer_text(text), text->size, &g->prompts[i], e->err);
}

/* Too long a prompt loses its beginning, so that the answer has its room. */
static void cut_prompt(generation *g, int64_t i, int64_t room)
{
    lt_ids *ids = &g->prompts[i];
    int64_t cut = (int64_t)ids->count - room;
    if (cut <= 0) return;
    memmove(ids->data, ids->data + cut, (size_t)room * sizeof *ids->data);
    ids->count = (size_t)room;
    g->answers[i].cut = cut;
}

static lt_status make_prompts(generation *g)
{
    lt_engine *e = g->engine;
    int64_t positions = positions_of(e), room = positions - e->task->max_new_tokens;
    if (room < 1)
        return lt_fail(e->err, LT_ERR_USAGE,
                       "%s: answers of up to %lld tokens leave no room for a prompt: the model "
                       "sees %lld; ask for fewer with --max-new-tokens",
                       e->task->name, (long long)e->task->max_new_tokens, (long long)positions);
    for (int64_t i = 0; i < g->count; i++) {
        lt_status status = encode_prompt(g, i);
        if (status == LT_OK && g->prompts[i].count == 0)
            status = lt_fail(e->err, LT_ERR_USAGE, "the prompt is empty");
        if (status != LT_OK) return lt_fail_context(e->err, "%s", doc_of(g, i)->where);
        cut_prompt(g, i, room);
        lt_stream_decoder_init(&g->answers[i].decoder, e->assistant->tokenizer, true);
        g->adapters[i] = e->assistant->model->active;
    }
    return LT_OK;
}

/* --- What an answer is worth ------------------------------------------------------------------ */

static lt_status rouge_of(const lt_task_doc *doc, lt_metric metric, const char *text, double *out,
                          lt_err *err)
{
    lt_rouge rouge;
    LT_TRY(lt_rouge_scores(text, (const char *const *)doc->references, doc->reference_count, &rouge,
                           err));
    *out = metric == LT_METRIC_ROUGE1   ? rouge.rouge1
           : metric == LT_METRIC_ROUGE2 ? rouge.rouge2
           : metric == LT_METRIC_ROUGEL ? rouge.rougeL
                                        : rouge.rougeLsum;
    return LT_OK;
}

static bool needs_reference(lt_metric metric)
{
    return metric == LT_METRIC_EXACT_MATCH || metric == LT_METRIC_F1 || metric == LT_METRIC_BLEU ||
           (metric >= LT_METRIC_ROUGE1 && metric <= LT_METRIC_ROUGELSUM);
}

/* `filtered` is compared with references, the answer itself is looked at for all else. *has: the
 * metric can be told of this document. */
static lt_status value_of(const generation *g, int64_t i, lt_metric metric, const char *filtered,
                          double judged, double *out, bool *has)
{
    const lt_task_doc *doc = doc_of(g, i);
    const answering *a = &g->answers[i];
    const char *const *references = (const char *const *)doc->references;
    const char *answer = lt_buffer_text(&a->answer);
    lt_err *err = g->engine->err;
    *has = doc->reference_count > 0 || !needs_reference(metric);
    if (!*has) return LT_OK;
    switch (metric) {
    case LT_METRIC_EXACT_MATCH:
        return lt_answer_matches(g->rules, filtered, references, doc->reference_count, out, err);
    case LT_METRIC_F1:
        return lt_f1(filtered, references, doc->reference_count, out, err);
    case LT_METRIC_ROUGE1:
    case LT_METRIC_ROUGE2:
    case LT_METRIC_ROUGEL:
    case LT_METRIC_ROUGELSUM:
        return rouge_of(doc, metric, filtered, out, err);
    case LT_METRIC_BLEU:
        return lt_bleu_counts(filtered, references, doc->reference_count, out, err);
    case LT_METRIC_REPETITION:
        return lt_repetition(answer, out, err);
    case LT_METRIC_LENGTH:
        *out = lt_word_count(answer);
        return LT_OK;
    case LT_METRIC_STOPPED:
        *out = a->stopped ? 1 : 0;
        return LT_OK;
    case LT_METRIC_GROUNDED:
        *has = doc->context != NULL;
        return *has ? lt_groundedness(answer, doc->context, out, err) : LT_OK;
    case LT_METRIC_JUDGE:
        *out = judged;
        return LT_OK;
    default:
        return lt_fail(err, LT_ERR_USAGE, "%s: the metric \"%s\" does not suit answers",
                       g->engine->task->name, lt_metric_of(metric)->name);
    }
}

static json_t *references_of(const lt_task_doc *doc)
{
    json_t *list = json_array();
    for (size_t i = 0; i < doc->reference_count; i++)
        json_array_append_new(list, json_string(doc->references[i]));
    return list;
}

static void add_facts(lt_sample *sample, const lt_task_doc *doc, const answering *a)
{
    lt_sample_set(sample, "answer", json_string(lt_buffer_text(&a->answer)));
    lt_sample_set(sample, "references", references_of(doc));
    if (doc->context) lt_sample_set(sample, "context", json_string(doc->context));
    lt_sample_set(sample, "finish_reason", json_string(a->stopped ? "stop" : "length"));
}

static lt_status hand_out_filtered(generation *g, int64_t i, int filter, double judged)
{
    const lt_engine *e = g->engine;
    const lt_task *task = e->task;
    const answering *a = &g->answers[i];
    lt_buffer filtered = {0};
    lt_sample sample = lt_sample_begin(e, g->docs[i], task->filters[filter].name);
    lt_status status;
    LT_TRY_GOTO(status,
                lt_answer_filter(g->rules, filter, lt_buffer_text(&a->answer), &filtered, e->err),
                done);
    lt_sample_add_answer(&sample, lt_buffer_text(&a->prompt), g->arguments,
                         lt_buffer_text(&a->answer), lt_buffer_text(&filtered));
    for (int m = 0; m < task->metric_count; m++) {
        double values[LT_METRIC_MAX_WIDTH] = {0};
        bool has;
        LT_TRY_GOTO(
            status,
            value_of(g, i, task->metrics[m], lt_buffer_text(&filtered), judged, values, &has),
            done);
        if (has) lt_sample_add_metric(&sample, task->metrics[m], values);
    }
    add_facts(&sample, doc_of(g, i), a);
    status = lt_sample_end(&sample, e, a->cut);
done:
    lt_sample_drop(&sample);
    lt_buffer_free(&filtered);
    return status;
}

static lt_status hand_out(generation *g, int64_t i, double judged)
{
    for (int filter = 0; filter < g->engine->task->filter_count; filter++)
        LT_TRY(hand_out_filtered(g, i, filter, judged));
    lt_engine_progress(g->engine, 1);
    return LT_OK;
}

static lt_status judge_all(generation *g)
{
    const lt_engine *e = g->engine;
    size_t n = (size_t)g->count;
    lt_judged *answers = calloc(n + 1, sizeof *answers);
    double *values = calloc(n + 1, sizeof *values);
    lt_status status = LT_OK;
    if (!answers || !values) status = lt_fail_nomem(e->err, n * sizeof *answers, "a judge");
    for (size_t i = 0; status == LT_OK && i < n; i++) {
        const lt_task_doc *doc = doc_of(g, (int64_t)i);
        const char *asked = json_string_value(json_object_get(doc->source, "instruction"));
        answers[i] = (lt_judged){
            .instruction = asked ? asked : lt_buffer_text(&g->answers[i].prompt),
            .context = doc->context,
            .answer = lt_buffer_text(&g->answers[i].answer),
            .reference = doc->reference_count > 0 ? doc->references[0] : NULL,
            .where = doc->where,
        };
    }
    if (status == LT_OK)
        status = lt_judge_answers(e->settings->judge, e->judge, answers, g->count, values, e->err);
    for (int64_t i = 0; status == LT_OK && i < g->count; i++)
        status = hand_out(g, i, values[i]);
    free(answers);
    free(values);
    return status;
}

/* --- Generating ------------------------------------------------------------------------------- */

/* Texts are C strings from here on. */
static void replace_nul(lt_buffer *text)
{
    for (size_t i = 0; i < text->size; i++)
        if (text->data[i] == '\0') text->data[i] = ' ';
}

/* lm_eval/models/utils.py, postprocess_generated_text: one stop text after the other. */
static void cut_at_stops(const generation *g, lt_buffer *text)
{
    for (size_t i = 0; text->size > 0 && i < g->stop_text_count; i++) {
        char *found = strstr(text->data, g->stop_texts[i]);
        if (!found) continue;
        text->size = (size_t)(found - text->data);
        *found = '\0';
    }
}

static lt_status finish(generation *g, int64_t i)
{
    answering *a = &g->answers[i];
    const lt_engine *e = g->engine;
    a->finished = true;
    LT_TRY(lt_stream_decoder_finish(&a->decoder, &a->seen, e->err));
    lt_buffer_free(&a->seen);
    LT_TRY(lt_decode(e->assistant->tokenizer, a->ids.data, a->ids.count, true, &a->answer, e->err));
    replace_nul(&a->answer);
    cut_at_stops(g, &a->answer);
    if (doc_of(g, i)->record >= 0) /* white space at its end is the template's */
        a->answer.size = lt_size_without_trailing_space(lt_buffer_text(&a->answer), a->answer.size);
    if (a->answer.data) a->answer.data[a->answer.size] = '\0';
    return e->judge ? LT_OK : hand_out(g, i, 0);
}

/* Looks only where text has come. */
static bool has_stop_text(const generation *g, const answering *a, size_t before)
{
    for (size_t i = 0; i < g->stop_text_count; i++) {
        size_t size = strlen(g->stop_texts[i]);
        size_t from = before + 1 > size ? before + 1 - size : 0;
        if (a->seen.size >= from + size &&
            memmem(a->seen.data + from, a->seen.size - from, g->stop_texts[i], size))
            return true;
    }
    return false;
}

static lt_status take_token(generation *g, int64_t i, int32_t id, bool is_stop)
{
    answering *a = &g->answers[i];
    const lt_engine *e = g->engine;
    size_t before = a->seen.size;
    if (is_stop) {
        a->stopped = true;
        return finish(g, i);
    }
    LT_TRY(lt_ids_push(&a->ids, id, e->err));
    LT_TRY(lt_stream_decoder_push(&a->decoder, id, &a->seen, e->err));
    a->stopped = has_stop_text(g, a, before);
    bool full = (int64_t)a->ids.count >= e->task->max_new_tokens;
    return a->stopped || full ? finish(g, i) : LT_OK;
}

static bool on_token(void *context, int64_t i, int32_t id, bool is_stop)
{
    generation *g = context;
    if (g->status == LT_OK) g->status = take_token(g, i, id, is_stop);
    return g->status == LT_OK && !g->answers[i].finished;
}

/* As many rows as a quarter of the free memory holds keys and values of. */
static int64_t choose_rows(const generation *g)
{
    const lt_model *model = g->engine->assistant->model;
    const lt_model_config *c = &model->config;
    if (g->engine->settings->batch_size > 0) return g->engine->settings->batch_size;
    int64_t rows = model->backend->device == LT_DEVICE_CUDA ? GPU_ROWS : CPU_ROWS, longest = 1;
    for (int64_t i = 0; i < g->count; i++)
        longest = lt_max_i64(longest, (int64_t)g->prompts[i].count);
    double row_bytes = 2.0 * (double)lt_dtype_size(model->backend->real) *
                       (double)c->num_hidden_layers *
                       (double)(c->num_key_value_heads * c->head_dim) *
                       (double)(longest + g->engine->task->max_new_tokens);
    double available = (double)model->backend->available_memory(model->backend);
    while (rows > 1 && (double)rows * row_bytes > available / 4)
        rows /= 2;
    return rows;
}

static lt_status generate(generation *g)
{
    const lt_engine *e = g->engine;
    const lt_generate_settings settings = {.max_new_tokens = e->task->max_new_tokens,
                                           .stop_ids = g->stop_ids.data,
                                           .stop_id_count = (int64_t)g->stop_ids.count,
                                           .max_rows = choose_rows(g),
                                           .adapters = g->adapters,
                                           .cancelled = e->settings->cancelled};
    LT_TRY(lt_model_generate(e->assistant->model, g->prompts, g->count, &settings, on_token, g,
                             e->err));
    LT_TRY(g->status);
    return e->judge ? judge_all(g) : LT_OK;
}

static lt_status begin_generation(generation *g)
{
    size_t n = (size_t)g->count + 1;
    g->answers = calloc(n, sizeof *g->answers);
    g->prompts = calloc(n, sizeof *g->prompts);
    g->adapters = calloc(n, sizeof *g->adapters);
    if (!g->answers || !g->prompts || !g->adapters)
        return lt_fail_nomem(g->engine->err, n * sizeof *g->answers, "answers");
    LT_TRY(lt_answer_rules_create(g->engine->task, &g->rules, g->engine->err));
    LT_TRY(describe_settings(g));
    LT_TRY(make_prompts(g));
    LT_TRY(collect_stop_texts(g));
    return collect_stop_ids(g);
}

static void end_generation(generation *g)
{
    for (int64_t i = 0; g->answers && g->prompts && i < g->count; i++) {
        answering *a = &g->answers[i];
        if (a->decoder.tokenizer && !a->finished)
            lt_stream_decoder_finish(&a->decoder, &a->seen, NULL);
        lt_ids_free(&a->ids);
        lt_buffer_free(&a->seen);
        lt_buffer_free(&a->prompt);
        lt_buffer_free(&a->answer);
        lt_ids_free(&g->prompts[i]);
    }
    free(g->answers);
    free(g->prompts);
    free((void *)g->adapters);
    free((void *)g->stop_texts);
    lt_ids_free(&g->stop_ids);
    lt_buffer_free(&g->eos);
    json_decref(g->arguments);
    lt_answer_rules_free(g->rules);
}

lt_status lt_engine_generate(lt_engine *e, const int64_t *docs, int64_t count)
{
    generation g = {.engine = e, .docs = docs, .count = count};
    lt_status status = begin_generation(&g);
    if (status == LT_OK) status = generate(&g);
    end_generation(&g);
    return status;
}
