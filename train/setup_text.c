/* What a run is about to do, for a person: several lines and the memory table. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/trainer.h"

/* "124.4 M", as a value: the text lives as long as the expression it is printed by. */
typedef struct count_text {
    char text[24];
} count_text;

static count_text human(int64_t count)
{
    count_text out;
    double value = (double)count;
    if (count < 10000)
        snprintf(out.text, sizeof out.text, "%" PRId64, count);
    else if (value < 1e6)
        snprintf(out.text, sizeof out.text, "%.1f k", value / 1e3);
    else if (value < 1e9)
        snprintf(out.text, sizeof out.text, "%.1f M", value / 1e6);
    else
        snprintf(out.text, sizeof out.text, "%.2f G", value / 1e9);
    return out;
}

static lt_status describe_lora(const lt_adapter_config *c, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_printf(out, err, "adapter      rank %" PRId64 ", alpha %g%s%s, dropout %g, on",
                            c->r, c->lora_alpha, c->use_rslora ? " (rslora)" : "",
                            c->use_dora ? ", DoRA" : "", c->lora_dropout));
    for (size_t i = 0; i < c->target_modules.count; i++)
        LT_TRY(lt_buffer_printf(out, err, "%s %s", i ? "," : "", c->target_modules.items[i]));
    for (size_t i = 0; i < c->modules_to_save.count; i++)
        LT_TRY(
            lt_buffer_printf(out, err, "%s %s", i ? "," : "; whole:", c->modules_to_save.items[i]));
    return lt_buffer_append_text(out, "\n", err);
}

/* What the method is set to, and a line for each kind of trained parameter. Full tuning of all of
 * them needs no list. */
static lt_status describe_trained(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_adapter_config *c = &t->adapter_config;
    if (t->has_adapter && c->kind == LT_ADAPTER_LORA)
        LT_TRY(describe_lora(c, out, err));
    else if (t->has_adapter)
        LT_TRY(lt_buffer_printf(out, err, "adapter      %" PRId64 " virtual tokens%s\n",
                                c->num_virtual_tokens,
                                c->prefix_projection ? ", through a projection" : ""));
    bool all = t->plan.model.trainable_parameters == t->plan.model.parameters;
    const char *at = all ? "" : lt_buffer_text(&t->inventory);
    for (bool first = true; *at; first = false) {
        int length = (int)strcspn(at, "\n");
        LT_TRY(lt_buffer_printf(out, err, "%-13s%.*s\n", first ? "trained" : "", length, at));
        at += length + (at[length] == '\n');
    }
    return LT_OK;
}

static lt_status describe_model(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_model_config *c = &t->config;
    const char *name =
        json_string_value(json_object_get(c->source, "model_type")); /* config.json as it is */
    LT_TRY(lt_buffer_printf(out, err, "model        %s\n", t->settings.model));
    LT_TRY(lt_buffer_printf(out, err,
                            "             %s, %" PRId64 " layers, hidden size %" PRId64 ", %" PRId64
                            " heads, %" PRId64 " positions, vocabulary %" PRId64 "\n",
                            name ? name : "decoder", c->num_hidden_layers, c->hidden_size,
                            c->num_attention_heads, c->max_position_embeddings, c->vocab_size));
    if (t->grown_rows > 0)
        LT_TRY(lt_buffer_printf(out, err,
                                "             grown by %" PRId64 " vocabulary rows for the "
                                "dataset's special tokens; new rows start as the mean of the old\n",
                                t->grown_rows));
    LT_TRY(lt_buffer_printf(
        out, err, "parameters   %s, %s of them trained (%.2f %%; %s",
        human(t->plan.model.parameters).text, human(t->plan.model.trainable_parameters).text,
        100.0 * (double)t->plan.model.trainable_parameters / (double)t->plan.model.parameters,
        t->settings.method));
    if (t->settings.freeze_layers > 0)
        LT_TRY(lt_buffer_printf(out, err, "; embeddings and %" PRId64 " layers frozen",
                                t->settings.freeze_layers));
    LT_TRY(lt_buffer_append_text(out, ")\n", err));
    return describe_trained(t, out, err);
}

static lt_status describe_left_out(const lt_loader *loader, const char *split, int64_t max_length,
                                   lt_buffer *out, lt_err *err)
{
    int64_t left_out = loader ? lt_loader_left_out(loader) : 0;
    if (left_out == 0) return LT_OK;
    return lt_buffer_printf(out, err,
                            "             %" PRId64 " %s documents left out: longer than %" PRId64
                            " tokens, or without a trained token\n",
                            left_out, split, max_length);
}

static lt_status describe_data(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_prepare_report *report = lt_dataset_report(t->dataset);
    const lt_train_settings *s = &t->settings;
    LT_TRY(lt_buffer_printf(out, err,
                            "data         %s\n             %s documents to train on, %s held out; "
                            "%s tokens, loss on %s; template %s\n",
                            s->data, human(report->train).text, human(report->validation).text,
                            human(report->tokens).text, human(report->trained_tokens).text,
                            lt_template_name(report->template_)));
    LT_TRY(describe_left_out(t->loader, "training", s->max_length, out, err));
    return describe_left_out(t->eval_loader, "held-out", s->max_length, out, err);
}

static lt_status describe_batch(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    int64_t rows = s->micro_batch_size * s->gradient_accumulation_steps * t->world_size;
    char processes[48] = "";
    if (t->world_size > 1)
        snprintf(processes, sizeof processes, " x %" PRId64 " processes", t->world_size);
    return lt_buffer_printf(out, err,
                            "batch        %" PRId64 " rows x %" PRId64 " accumulated%s = %" PRId64
                            " rows a step, at most %" PRId64 " tokens each, packing %s\n",
                            s->micro_batch_size, s->gradient_accumulation_steps, processes, rows,
                            s->max_length, s->packing ? "on" : "off");
}

/* How many, by whom they were started, over what they exchange, and what they divide. */
static lt_status describe_processes(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    static const char *const divided[2][LT_SHARD_LEVELS] = {
        {"nothing is divided", "the optimizer's state is divided",
         "gradients and the optimizer's state are divided",
         "weights, gradients and the optimizer's state are divided"},
        {"nothing is divided", "nothing is divided", "nothing is divided",
         "the frozen model is divided"}};
    if (t->world_size == 1) return LT_OK;
    LT_TRY(lt_buffer_printf(out, err, "processes    %" PRId64, t->world_size));
    if (t->place.world_size == 1)
        LT_TRY(lt_buffer_append_text(out, ", planned for only", err));
    else
        LT_TRY(lt_buffer_printf(out, err, ", by %s, exchange by %s",
                                lt_launcher_name(t->place.launcher), lt_comm_name(t->comm)));
    return lt_buffer_printf(out, err, "; --shard %s: %s\n", lt_shard_name(t->sharding.level),
                            divided[t->has_adapter][t->sharding.level]);
}

static lt_status describe_schedule(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    const lt_schedule *schedule = &t->schedule;
    LT_TRY(lt_buffer_printf(out, err,
                            "steps        %" PRId64 ", %" PRId64 " an epoch (%.3g epochs)\n",
                            schedule->total_steps, t->steps_per_epoch,
                            (double)schedule->total_steps / (double)t->steps_per_epoch));
    LT_TRY(lt_buffer_printf(
        out, err, "             evaluation every %" PRId64 "%s, checkpoint every %" PRId64 "\n",
        t->eval_steps, t->eval_loader ? "" : " (nothing is held out: none)", t->save_steps));
    LT_TRY(lt_buffer_printf(out, err,
                            "schedule     %s to %.3g, %" PRId64 " warm-up steps, ends at %.3g\n",
                            s->lr_scheduler, s->learning_rate, schedule->warmup_steps,
                            lt_schedule_learning_rate(schedule, schedule->total_steps - 1)));
    return lt_buffer_printf(out, err,
                            "optimizer    %s, betas %g %g, epsilon %g, weight decay %g on "
                            "matrices, gradient norm at most %g\n",
                            s->optimizer, s->adam_beta1, s->adam_beta2, s->adam_epsilon,
                            s->weight_decay, s->max_grad_norm > 0 ? s->max_grad_norm : INFINITY);
}

static lt_status describe_dropout(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_train_settings *s = &t->settings;
    const lt_model_config *c = &t->config;
    bool used = s->embd_pdrop > 0 || s->resid_pdrop > 0 || s->attn_pdrop > 0;
    bool in_config = c->embd_pdrop > 0 || c->resid_pdrop > 0 || c->attn_pdrop > 0;
    if (used)
        return lt_buffer_printf(out, err, "dropout      embeddings %g, residual %g, attention %g\n",
                                s->embd_pdrop, s->resid_pdrop, s->attn_pdrop);
    if (!in_config) return lt_buffer_append_text(out, "dropout      none\n", err);
    return lt_buffer_printf(out, err,
                            "dropout      none; the rates in the model's config (embeddings %g, "
                            "residual %g, attention %g) are only used when asked for: "
                            "--embd-pdrop, --resid-pdrop, --attn-pdrop\n",
                            c->embd_pdrop, c->resid_pdrop, c->attn_pdrop);
}

/* Where it computes and why there, and whose matrix products a GPU uses. */
static lt_status describe_machine(const lt_trainer *t, lt_buffer *out, lt_err *err)
{
    const lt_backend *backend = t->backend;
    LT_TRY(lt_buffer_printf(out, err, "machine      %s", backend->name));
    if (backend->device == LT_DEVICE_CPU)
        LT_TRY(lt_buffer_printf(out, err, ", %d threads", backend->threads));
    if (backend->matmul)
        LT_TRY(lt_buffer_printf(out, err, ", matrix products %s", backend->matmul));
    LT_TRY(lt_buffer_printf(out, err, ", recompute %s\n", t->settings.recompute));
    if (!*t->device.note) return LT_OK;
    return lt_buffer_printf(out, err, "             %s\n", t->device.note);
}

lt_status lt_trainer_describe(lt_trainer *t, lt_err *err)
{
    lt_buffer *out = &t->setup;
    LT_TRY(describe_model(t, out, err));
    if (t->shape_only) {
        LT_TRY(describe_batch(t, out, err));
        LT_TRY(describe_machine(t, out, err));
        LT_TRY(describe_processes(t, out, err));
        LT_TRY(lt_describe_memory(t, out, err));
        return lt_describe_clusters(t, out, err);
    }
    LT_TRY(describe_data(t, out, err));
    LT_TRY(describe_batch(t, out, err));
    LT_TRY(describe_schedule(t, out, err));
    LT_TRY(describe_dropout(t, out, err));
    LT_TRY(describe_machine(t, out, err));
    LT_TRY(describe_processes(t, out, err));
    LT_TRY(lt_buffer_printf(out, err, "output       %s\n", t->settings.output));
    if (t->checkpoint.size > 0)
        LT_TRY(lt_buffer_printf(out, err, "resumed      from %s, step %" PRId64 "\n",
                                lt_buffer_text(&t->checkpoint), t->state.step));
    LT_TRY(lt_describe_memory(t, out, err));
    return lt_describe_clusters(t, out, err);
}
