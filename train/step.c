/* One optimizer step. Losses, token counts and gradients of its micro-batches are sums, over all
 * processes too; they are divided once, by the trained tokens of the whole step, when the gradient
 * is clipped. Nothing here waits for the device. */
#include <string.h>

#include "base/rng.h"
#include "train/trainer.h"

/* What a batch holds, padding apart. */
typedef struct batch_content {
    int64_t tokens;
    double attended; /* pairs of a query and a key it sees, within documents */
} batch_content;

/* Padding sees only itself, is no target, and nothing follows it. */
static bool is_padding(const lt_batch *batch, int64_t row, int64_t at)
{
    int64_t cell = row * batch->length + at;
    if (batch->positions[cell] != 0 || batch->targets[cell] != LT_IGNORE) return false;
    return at + 1 == batch->length || batch->positions[cell + 1] != 1;
}

static batch_content count_content(const lt_batch *batch)
{
    batch_content content = {0};
    for (int64_t row = 0; row < batch->rows; row++) {
        for (int64_t at = 0; at < batch->length; at++) {
            if (is_padding(batch, row, at)) continue;
            content.tokens++;
            content.attended += batch->positions[row * batch->length + at] + 1;
        }
    }
    return content;
}

/* The lowest block that the gradient has to reach. */
static int lowest_trained(const lt_model *model)
{
    int lowest = (int)model->config.num_hidden_layers;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].trainable && model->params[i].layer < lowest)
            lowest = model->params[i].layer;
    return lowest > 0 ? lowest : 0;
}

static bool head_is_trained(const lt_model *model)
{
    const char *head = model->config.tie_word_embeddings ? "embed_tokens.weight" : "lm_head.weight";
    for (int i = 0; i < model->param_count; i++) {
        const lt_param *p = &model->params[i];
        bool copy = p->adapter >= 0 && p->layer == model->config.num_hidden_layers;
        if (p->trainable && (copy || strcmp(p->name, head) == 0)) return true;
    }
    return false;
}

/* Multiply-adds count 2. Forward takes every weight once; backward as often for the gradient of the
 * activations, from the first trained block on, and again for that of trained weights. The head
 * works on trained tokens only. */
static double necessary_flops(const lt_trainer *t, const batch_content *content, int64_t trained)
{
    const lt_model *model = t->model;
    const lt_model_config *c = &model->config;
    int lowest = lowest_trained(model);
    double flops = 0, tokens = (double)content->tokens;
    for (int i = 0; i < model->param_count; i++) {
        const lt_param *p = &model->params[i];
        bool in_block = p->layer >= 0 && p->layer < c->num_hidden_layers;
        bool of_tokens = p->adapter < 0 || lt_adapter_virtual_tokens(t->adapter) == 0;
        if (p->ndim != 2 || !in_block || !of_tokens) continue;
        int passes = 1 + (p->layer >= lowest) + p->trainable;
        flops += 2.0 * (double)p->shape[0] * (double)p->shape[1] * passes * tokens;
    }
    double head = (double)c->vocab_size * (double)c->hidden_size;
    double width = (double)c->num_attention_heads * (double)c->head_dim;
    double passes = 3.0 * (double)c->num_hidden_layers - 2.0 * lowest;
    double attended = content->attended + tokens * (double)lt_adapter_virtual_tokens(t->adapter);
    return flops + (head_is_trained(model) ? 6.0 : 4.0) * head * (double)trained +
           4.0 * width * passes * attended;
}

/* Masks of a micro-batch, which no other one has: its number is the same whoever computes it. */
static lt_dropout_mask dropout_of(const lt_trainer *t, int64_t micro_batch)
{
    const int64_t number = t->state.step * t->settings.gradient_accumulation_steps + micro_batch;
    const int64_t own = number * lt_comm_size(t->comm) + lt_comm_rank(t->comm);
    return (lt_dropout_mask){.seed = (uint64_t)t->settings.seed,
                             .stream = lt_rng_stream(LT_RNG_DROPOUT, (uint64_t)own, 0)};
}

/* The gradients of one step's micro-batches, as many on every process, some of which may have no
 * rows of the last; a step ends with its epoch at the latest. */
static lt_status accumulate(lt_trainer *t, lt_step_info *info, lt_err *err)
{
    const int64_t accumulation = t->settings.gradient_accumulation_steps;
    lt_loader_position position = lt_loader_tell(t->loader);
    const int64_t epoch = position.epoch;
    for (int64_t i = 0; i < accumulation && position.epoch == epoch; i++) {
        lt_batch batch;
        LT_TRY(lt_loader_next(t->loader, &batch, err));
        position = lt_loader_tell(t->loader);
        const bool first = i == 0, last = i + 1 == accumulation || position.epoch != epoch;
        lt_sharder_begin_micro_batch(t->sharder, first, last);
        LT_TRY(lt_model_forward_backward(t->model, t->workspace, &batch, dropout_of(t, i),
                                         lt_sharder_accumulate(t->sharder, first), NULL, err));
        const batch_content content = count_content(&batch);
        info->input_tokens += content.tokens;
        info->trained_tokens += batch.trained_tokens;
        info->flops += necessary_flops(t, &content, batch.trained_tokens);
    }
    t->state.epoch = position.epoch;
    t->state.epoch_batch = position.batch;
    return LT_OK;
}

/* Losses, counts and gradients of all processes, and the squares of these. */
static lt_status add_up(lt_trainer *t, lt_step_slot slot, lt_err *err)
{
    LT_TRY(lt_workspace_move_loss(t->workspace, slot.totals, err));
    LT_TRY(lt_sharder_finish_gradients(t->sharder, err));
    LT_TRY(lt_optimizer_sum_squares(&t->optimizer, t->model, err));
    return lt_sharder_sum(t->sharder, slot.totals, t->optimizer.squares, err);
}

/* Where the step's results go, to be read later. */
static lt_status update(lt_trainer *t, const lt_step_info *info, lt_step_slot slot, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    const lt_optimizer_step step = {.tokens = lt_tensor_slice(slot.totals, 0, 1, 1),
                                    .learning_rate = info->learning_rate,
                                    .beta1 = s->adam_beta1,
                                    .beta2 = s->adam_beta2,
                                    .epsilon = s->adam_epsilon,
                                    .weight_decay = s->weight_decay,
                                    .max_grad_norm = s->max_grad_norm,
                                    .number = info->step,
                                    .loss = lt_tensor_slice(slot.totals, 0, 0, 1),
                                    .norm = slot.norm};
    LT_TRY(lt_optimizer_apply(&t->optimizer, &step, err));
    return lt_sharder_begin_weights(t->sharder, err);
}

lt_status lt_trainer_step(lt_trainer *t, lt_err *err)
{
    const int64_t number = t->state.step + 1, last = t->schedule.total_steps;
    lt_step_slot slot;
    lt_step_info *info = lt_results_begin_step(&t->results, &slot);
    *info = (lt_step_info){.step = number,
                           .total_steps = last,
                           .epoch = (double)number / (double)t->steps_per_epoch,
                           .learning_rate = lt_schedule_learning_rate(&t->schedule, t->state.step),
                           .logging = number % t->settings.logging_steps == 0 || number == 1 ||
                                      number == last};
    lt_comm_heartbeat(t->comm, number, "forward and backward");
    LT_TRY(accumulate(t, info, err));
    lt_comm_heartbeat(t->comm, number, "optimizer");
    LT_TRY(add_up(t, slot, err));
    LT_TRY(update(t, info, slot, err));
    t->results.count++;
    t->state.step = number;
    return LT_OK;
}
