/* What this run's steps would take on clusters that have names (train/scaling.h), and what would
 * make them better. Every GPU has the batch of this run's settings. */
#include <string.h>

#include "base/checked.h"
#include "train/scaling.h"
#include "train/trainer.h"

enum { MAX_CLUSTERS = 8, MOST_ACCUMULATED = 64 };

#define GOOD_EFFICIENCY 0.9
#define WORTH_SAYING    1.05 /* times as fast */

/* Of an adapter only the frozen model can be divided. */
static lt_shard level_asked_for(const lt_trainer *t)
{
    lt_shard level = lt_shard_by_name(t->settings.shard);
    return t->has_adapter && level != LT_SHARD_PARAMETERS ? LT_SHARD_NONE : level;
}

/* --- The work of a step ------------------------------------------------------------------------
 */

/* Elements that multiply something, of a block. */
static double block_matrices(const lt_model_config *c)
{
    double hidden = (double)c->hidden_size, head = (double)c->head_dim;
    double queries = (double)c->num_attention_heads * head;
    double keys_and_values = 2 * (double)c->num_key_value_heads * head;
    return hidden * (2 * queries + keys_and_values) +
           hidden * (double)c->intermediate_size * (c->gated_mlp ? 3 : 2);
}

/* Of a unit, trained or not. */
typedef struct unit_elements {
    double weights, gradients;
} unit_elements;

/* How the plan's elements lie in units. Both ends are one number there: an untied model's are
 * alike, a tied one's head has a norm only. */
typedef struct layout {
    int64_t first_trained;
    unit_elements embeddings, block, head;
} layout;

static layout lay_out(const lt_trainer *t, const lt_memory_plan *m)
{
    double layers = (double)t->config.num_hidden_layers;
    double ends = (double)m->ends_elements, block = (double)m->block_elements;
    double gradients = t->has_adapter ? 0 : (double)m->gradient_count;
    layout l = {.first_trained = t->has_adapter ? 0 : t->settings.freeze_layers};
    double trained_blocks = layers - (double)l.first_trained;
    l.block.weights = block;
    l.block.gradients = trained_blocks > 0 ? gradients / trained_blocks : 0;
    if (l.block.gradients > block) l.block.gradients = block;
    double of_ends = gradients - trained_blocks * l.block.gradients;
    double share = t->config.tie_word_embeddings ? 1 : 0.5; /* of the embeddings */
    l.embeddings.weights = share * ends;
    l.head.weights = ends - l.embeddings.weights;
    l.embeddings.gradients = l.first_trained > 0 ? 0 : share * of_ends;
    l.head.gradients = of_ends - l.embeddings.gradients;
    return l;
}

/* Products of `tokens` with `matrices` elements, of which a share is trained, and attention: 2
 * operations an element and token forward, 2 back to the tokens, 2 more to a trained weight.
 * Attention is counted in full, as published utilisations count it. */
static lt_unit_work products(double tokens, double matrices, double trained, double attention)
{
    double forward = 2 * tokens * matrices + tokens * attention;
    return (lt_unit_work){.forward = forward,
                          .backward =
                              forward + 2 * tokens * matrices * trained + tokens * attention};
}

static double element_size(const lt_trainer *t, bool gradient)
{
    const lt_backend *b = t->backend;
    bool half = strcmp(t->settings.gradient_dtype, "bfloat16") == 0;
    if (gradient) return (double)lt_dtype_size(half ? LT_BF16 : b->statistics);
    return (double)lt_dtype_size(lt_has_half_base(&t->settings) ? LT_BF16 : b->real);
}

static void exchange_units(const lt_trainer *t, const layout *l, lt_step_work *w)
{
    double weight = element_size(t, false), gradient = element_size(t, true);
    const unit_elements *const from[] = {&l->embeddings, &l->block, &l->head};
    lt_unit_work *const to[] = {&w->embeddings, &w->block, &w->head};
    for (int i = 0; i < 3; i++) {
        to[i]->weight_bytes = from[i]->weights * weight;
        to[i]->gradient_bytes = from[i]->gradients * gradient;
    }
}

/* Everything the optimizer reads and writes: its state twice, gradients for the norm and the step,
 * weights. */
static double optimizer_bytes(const lt_trainer *t, const lt_train_plan *plan)
{
    const lt_optimizer_memory *o = &plan->optimizer;
    double weight = (double)lt_dtype_size(t->backend->real) * (o->master > 0 ? 1 : 2);
    return 2 * (double)(o->master + o->moments) +
           (double)plan->model.own_count * (2 * element_size(t, true) + weight);
}

static lt_step_work work_of(const lt_trainer *t, const lt_train_plan *plan, lt_shard level)
{
    const lt_train_settings *s = &t->settings;
    const lt_model_config *c = &t->config;
    const layout l = lay_out(t, &plan->model);
    bool lora = t->has_adapter && t->adapter_config.kind == LT_ADAPTER_LORA;
    double tokens = (double)(s->micro_batch_size * s->max_length),
           layers = (double)c->num_hidden_layers;
    double attention = 4 * (double)s->max_length * (double)(c->num_attention_heads * c->head_dim);
    double head = (double)c->vocab_size * (double)c->hidden_size;
    double updates = lora ? (double)plan->model.trainable_parameters / layers : 0;
    lt_step_work w = {.shard = level,
                      .micro_batches = s->gradient_accumulation_steps,
                      .layers = c->num_hidden_layers,
                      .first_trained = l.first_trained,
                      .tied = c->tie_word_embeddings,
                      .adapter_bytes = t->has_adapter ? (double)plan->model.gradient_count *
                                                            element_size(t, true)
                                                      : 0,
                      .optimizer_bytes = optimizer_bytes(t, plan),
                      .tokens = tokens * (double)s->gradient_accumulation_steps,
                      .memory = plan->device};
    w.block = products(tokens, block_matrices(c), l.block.gradients / l.block.weights, attention);
    w.block.forward += 2 * tokens * updates;
    w.block.backward += 4 * tokens * updates;
    if (t->workspace_settings.recompute == LT_RECOMPUTE_BLOCK) w.block.backward += w.block.forward;
    w.head = products(tokens, head, l.embeddings.gradients + l.head.gradients >= head, 0);
    exchange_units(t, &l, &w);
    return w;
}

/* --- Clusters and advice -----------------------------------------------------------------------
 */

/* What of this run may be different. */
typedef struct variant {
    const lt_cluster *cluster;
    lt_shard level;
    int64_t accumulated; /* times as many micro-batches */
} variant;

static lt_status work_on(const lt_trainer *t, variant v, lt_step_work *out, lt_err *err)
{
    const lt_sharding sharding = {.level = v.level, .world_size = v.cluster->devices};
    lt_train_plan plan;
    LT_TRY(lt_trainer_plan_for(t, &sharding, &plan, err));
    *out = work_of(t, &plan, v.level);
    out->micro_batches *= v.accumulated;
    out->tokens *= (double)v.accumulated;
    return LT_OK;
}

/* The fastest of the other levels that fit; false: none does. */
static bool find_level(const lt_trainer *t, variant v, lt_shard *best, lt_step_work *work)
{
    double shortest = 0;
    for (int level = LT_SHARD_NONE; level < LT_SHARD_LEVELS; level++) {
        const variant other = {v.cluster, (lt_shard)level, 1};
        lt_step_work w;
        if (other.level == v.level || work_on(t, other, &w, NULL) != LT_OK) continue;
        double seconds = lt_predict_step(v.cluster, &w).total;
        if (w.memory > v.cluster->memory || (shortest > 0 && seconds >= shortest)) continue;
        shortest = seconds;
        *best = other.level;
        *work = w;
    }
    return shortest > 0;
}

/* The least accumulation with which nearly all of the exchange hides, or the most there is. */
static void advise_accumulation(const lt_trainer *t, variant v, const lt_step_work *now, char *out,
                                size_t size)
{
    double before = lt_predict_step(v.cluster, now).total / now->tokens;
    for (v.accumulated = 2; v.accumulated <= MOST_ACCUMULATED; v.accumulated *= 2) {
        lt_step_work w = *now;
        w.micro_batches *= v.accumulated;
        w.tokens *= (double)v.accumulated;
        lt_step_time time = lt_predict_step(v.cluster, &w);
        double gain = before / (time.total / w.tokens);
        if (time.efficiency < GOOD_EFFICIENCY && v.accumulated < MOST_ACCUMULATED) continue;
        if (gain < WORTH_SAYING) return;
        snprintf(out, size,
                 "--gradient-accumulation-steps %lld (%lld rows a step) would give %.2f times as "
                 "many tokens/s",
                 (long long)w.micro_batches,
                 (long long)(w.micro_batches * t->settings.micro_batch_size * v.cluster->devices),
                 gain);
        return;
    }
}

static void advise(const lt_trainer *t, variant v, const lt_step_work *now, char *out, size_t size)
{
    const lt_step_time time = lt_predict_step(v.cluster, now);
    double room = (double)v.cluster->memory / 1e9;
    bool fits = now->memory <= v.cluster->memory;
    lt_shard level = v.level;
    lt_step_work other = *now;
    out[0] = '\0';
    if (fits && time.efficiency >= GOOD_EFFICIENCY) return;
    bool found = find_level(t, v, &level, &other);
    double gain = found ? time.total / lt_predict_step(v.cluster, &other).total : 0;
    if (!fits && found)
        snprintf(out, size, "does not fit %.0f GB; --shard %s does, with %.1f", room,
                 lt_shard_name(level), (double)other.memory / 1e9);
    else if (!fits)
        snprintf(out, size,
                 "does not fit %.0f GB at any --shard; what helps: more GPUs%s, a smaller "
                 "--micro-batch-size",
                 room,
                 t->workspace_settings.recompute == LT_RECOMPUTE_BLOCK ? ""
                                                                       : ", --recompute block");
    else if (gain >= WORTH_SAYING)
        snprintf(out, size, "--shard %s would be %.2f times as fast, with %.1f GB",
                 lt_shard_name(level), gain, (double)other.memory / 1e9);
    else
        advise_accumulation(t, v, now, out, size);
}

static lt_status add_cluster(const lt_trainer *t, const lt_cluster *cluster, lt_scaling_row *row,
                             lt_err *err)
{
    const variant v = {cluster, level_asked_for(t), 1};
    row->cluster = cluster;
    LT_TRY(work_on(t, v, &row->work, err));
    advise(t, v, &row->work, row->advice, sizeof row->advice);
    return LT_OK;
}

static lt_status unknown_cluster(const char *name, int length, lt_err *err)
{
    char names[256] = "";
    size_t used = 0;
    for (const lt_cluster *c = lt_clusters; c->name && used < sizeof names; c++)
        used +=
            (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", c->name);
    return lt_fail(err, LT_ERR_USAGE, "--cluster %.*s: there is no such cluster; there are %s",
                   length, name, names);
}

/* "8xH100,64xH100". */
static lt_status choose_clusters(const char *names, const lt_cluster *chosen[MAX_CLUSTERS],
                                 int *count, lt_err *err)
{
    for (const char *at = names;; at++) {
        char name[32];
        int length = (int)strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", length, at);
        const lt_cluster *found = lt_cluster_by_name(name);
        if (!found) return unknown_cluster(at, length, err);
        if (*count == MAX_CLUSTERS)
            return lt_fail(err, LT_ERR_USAGE, "--cluster takes at most %d names", MAX_CLUSTERS);
        chosen[(*count)++] = found;
        at += length;
        if (!*at) return LT_OK;
    }
}

static lt_status check_purpose(const lt_trainer *t, lt_err *err)
{
    if (!t->settings.cluster) return LT_OK;
    if (!t->settings.dry_run)
        return lt_fail(err, LT_ERR_USAGE, "--cluster is an estimate: it goes with --dry-run");
    if (t->backend->device != LT_DEVICE_CUDA)
        return lt_fail(
            err, LT_ERR_USAGE,
            "--cluster is an estimate for GPUs, and this is a plan for the CPU (--device "
            "cpu)");
    return LT_OK;
}

lt_status lt_describe_clusters(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_cluster *chosen[MAX_CLUSTERS];
    lt_scaling_row rows[MAX_CLUSTERS];
    const char *names = t->settings.cluster;
    int count = 0;
    LT_TRY(check_purpose(t, err));
    bool asked = names || (t->settings.dry_run && t->world_size > 1);
    if (!asked || t->backend->device != LT_DEVICE_CUDA) return LT_OK;
    if (names) LT_TRY(choose_clusters(names, chosen, &count, err));
    for (const lt_cluster *c = lt_clusters; !names && c->name; c++)
        chosen[count++] = c;
    if (t->optimizer_settings.offload)
        return lt_buffer_append_text(
            out, "clusters     no estimate: the optimizer's state is in host memory\n", err);
    for (int i = 0; i < count; i++)
        LT_TRY(add_cluster(t, chosen[i], &rows[i], err));
    return lt_describe_scaling(rows, count, out, err);
}
