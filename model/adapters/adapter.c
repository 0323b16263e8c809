/* The life of an adapter: rows, memory, initial values, its end. What differs between methods is in
 * their own files. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/adapters/internal.h"
#include "model/init.h"
#include "model/memory.h"
#include "model/sharding.h"

static const lt_adapter_method *const methods[] = {&lt_method_lora, &lt_method_prefix,
                                                   &lt_method_prompt, &lt_method_p_tuning};

const lt_adapter_method *lt_adapter_method_of(lt_adapter_kind kind)
{
    for (size_t i = 0; i < LT_COUNT_OF(methods); i++)
        if (methods[i]->kind == kind) return methods[i];
    return NULL;
}

const lt_adapter_method *lt_adapter_method_by_peft_type(const char *peft_type)
{
    for (size_t i = 0; i < LT_COUNT_OF(methods); i++)
        if (strcmp(methods[i]->peft_type, peft_type) == 0) return methods[i];
    return NULL;
}

/* --- Questions -------------------------------------------------------------------------------- */

const char *lt_adapter_name(const lt_adapter *adapter)
{
    return adapter->name;
}

const char *lt_adapter_kind_name(lt_adapter_kind kind)
{
    return lt_adapter_method_of(kind)->name;
}

const lt_adapter_config *lt_adapter_config_of(const lt_adapter *adapter)
{
    return &adapter->config;
}

lt_adapter *lt_adapter_find(const lt_model *model, const char *name)
{
    for (int i = 0; i < model->adapter_count; i++)
        if (strcmp(model->adapters[i]->name, name) == 0) return model->adapters[i];
    return NULL;
}

int64_t lt_adapter_virtual_tokens(const lt_adapter *adapter)
{
    return adapter ? adapter->virtual_tokens : 0;
}

lt_dtype lt_adapter_file_dtype(const lt_adapter *adapter)
{
    return adapter->file_dtype;
}

const lt_adapter *lt_adapter_in_products(const lt_adapter *adapter)
{
    return adapter && adapter->method->linear_forward ? adapter : NULL;
}

/* --- Rows and memory -------------------------------------------------------------------------- */

lt_status lt_adapter_add_rows(lt_model *model, lt_adapter *adapter, lt_param *rows, int row_count,
                              lt_err *err)
{
    for (int i = 0; i < row_count; i++) {
        rows[i].adapter = adapter->index;
        rows[i].dtype = model->backend->real;
        rows[i].decay = rows[i].ndim == 2;
    }
    adapter->first_param = model->param_count;
    adapter->param_count = row_count;
    return lt_params_append(model, rows, row_count, &adapter->weight_count, err);
}

void lt_adapter_carve(lt_model *model, lt_adapter *adapter, lt_arena *arena)
{
    lt_dtype real = model->backend->real;
    void *base = lt_arena_alloc(arena, (size_t)adapter->weight_count, lt_dtype_size(real));
    for (int i = 0; i < adapter->param_count && base; i++) {
        lt_param *param = &model->params[adapter->first_param + i];
        param->weight = lt_param_view(param, base, param->offset, real);
    }
    if (adapter->method->carve) adapter->method->carve(model, adapter, arena);
}

static lt_status allocate(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    lt_arena plan;
    lt_arena_measure(&plan, "adapter");
    lt_adapter_carve(model, adapter, &plan);
    LT_TRY(lt_check_memory(model->backend, plan.peak, "the adapter", err));
    LT_TRY(lt_arena_reserve(&adapter->weights, "adapter", plan.peak, model->backend->memory, err));
    lt_adapter_carve(model, adapter, &adapter->weights);
    return LT_OK;
}

static void free_adapter(lt_adapter *adapter)
{
    if (!adapter) return;
    lt_arena_release(&adapter->weights);
    lt_adapter_config_free(&adapter->config);
    free(adapter->linears);
    free(adapter->name);
    free(adapter);
}

/* The last one, and its rows. */
static void detach(lt_model *model)
{
    lt_adapter *adapter = model->adapters[--model->adapter_count];
    if (adapter->param_count > 0) model->param_count = adapter->first_param;
    if (model->active == adapter) model->active = NULL;
    (void)lt_params_lay_out_gradients(model, NULL);
    free_adapter(adapter);
}

void lt_adapters_free(lt_model *model)
{
    while (model->adapter_count > 0)
        detach(model);
    free(model->adapters);
    model->adapters = NULL;
}

lt_status lt_adapter_attach(lt_model *model, const lt_adapter_config *config, const char *name,
                            lt_err *err)
{
    if (lt_adapter_find(model, name))
        return lt_fail(err, LT_ERR_USAGE,
                       "two adapters are called \"%s\"; give them names: --adapter NAME=DIR", name);
    if (model->gradients.base)
        return lt_fail(err, LT_ERR_USAGE,
                       "an adapter can only be added before memory for gradients is allocated");
    size_t bytes = (size_t)(model->adapter_count + 1) * sizeof *model->adapters;
    lt_adapter **adapters = realloc(model->adapters, bytes);
    if (!adapters) return lt_fail_nomem(err, bytes, "an adapter");
    model->adapters = adapters;
    lt_adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter) return lt_fail_nomem(err, sizeof *adapter, "an adapter");
    adapters[model->adapter_count] = adapter;
    adapter->index = model->adapter_count++;
    adapter->method = lt_adapter_method_of(config->kind);
    adapter->embed = adapter->head = -1;
    adapter->file_dtype = LT_F32;
    lt_status status;
    LT_TRY_GOTO(status, lt_copy_string(name, &adapter->name, err), done);
    LT_TRY_GOTO(status, lt_adapter_config_copy(config, &adapter->config, err), done);
    status = adapter->method->attach(model, adapter, err);
done:
    if (status != LT_OK) detach(model);
    return status;
}

/* Base and other adapters frozen, this one trained or not. */
static lt_status freeze_others(lt_model *model, const lt_adapter *adapter, bool train, lt_err *err)
{
    for (int i = 0; i < model->param_count; i++)
        model->params[i].trainable = train && model->params[i].adapter == adapter->index;
    return lt_params_lay_out_gradients(model, err);
}

lt_status lt_adapter_train(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    model->active = adapter;
    return freeze_others(model, adapter, true, err);
}

lt_status lt_adapter_create(lt_model *model, const lt_adapter_config *config, const char *name,
                            uint64_t seed, lt_adapter **out, lt_err *err)
{
    LT_TRY(lt_adapter_attach(model, config, name, err));
    lt_adapter *adapter = model->adapters[model->adapter_count - 1];
    lt_status status;
    LT_TRY_GOTO(status, allocate(model, adapter, err), done);
    for (int i = 0; i < adapter->param_count; i++)
        LT_TRY_GOTO(status, lt_fill_param(model, adapter->first_param + i, seed, err), done);
    if (adapter->method->initialise)
        LT_TRY_GOTO(status, adapter->method->initialise(model, adapter, seed, err), done);
    status = lt_adapter_train(model, adapter, err); /* last: a failure leaves the model as it was */
done:
    if (status != LT_OK) detach(model);
    *out = status == LT_OK ? adapter : NULL;
    return status;
}

lt_status lt_adapter_load(lt_model *model, const char *directory, const char *name,
                          lt_adapter **out, lt_err *err)
{
    lt_adapter_config config = {0};
    lt_adapter *adapter = NULL;
    lt_status status;
    *out = NULL;
    LT_TRY_GOTO(status, lt_adapter_config_load(directory, &config, err), done);
    status = lt_adapter_attach(model, &config, name, err);
    if (status != LT_OK) {
        lt_fail_context(err, "%s", directory);
        goto done;
    }
    adapter = model->adapters[model->adapter_count - 1];
    LT_TRY_GOTO(status, allocate(model, adapter, err), done);
    LT_TRY_GOTO(status, lt_adapter_restore(model, adapter, directory, err), done);
    LT_TRY_GOTO(status, freeze_others(model, adapter, false, err), done);
    if (!model->active) model->active = adapter;
    *out = adapter;
done:
    if (status != LT_OK && adapter) detach(model);
    lt_adapter_config_free(&config);
    return status;
}

/* --- Merging ---------------------------------------------------------------------------------- */

/* The model's own row instead of the adapter's copy of it. */
static lt_status replace_row(lt_model *model, const char *name, lt_tensor from, lt_err *err)
{
    const lt_param *param = lt_model_param(model, name);
    lt_convert_args copy = {.x = from, .y = param->weight};
    return lt_convert(model->backend, &copy, err);
}

lt_status lt_adapter_merge(lt_model *model, lt_adapter *adapter, lt_err *err)
{
    if (!adapter->method->merge)
        return lt_fail(err, LT_ERR_UNSUPPORTED,
                       "a %s adapter can not be merged: it adds virtual tokens, which no weight of "
                       "the model can hold. Use it beside its base: lathe generate --model BASE "
                       "--adapter DIR, or PeftModel.from_pretrained",
                       adapter->method->name);
    if (model->adapter_count != 1 || model->matrix_dtype != LT_F32 || model->gradients.base)
        return lt_fail(err, LT_ERR_USAGE,
                       "an adapter is merged into a model in f32 that has no other adapter and "
                       "no memory for gradients");
    LT_TRY(lt_check_whole(model, "nothing can be merged into them", err));
    LT_TRY(adapter->method->merge(model, adapter, err));
    lt_tensor none = {0};
    lt_tensor embed = adapter->embed < 0 ? none : model->params[adapter->embed].weight;
    lt_tensor head = adapter->head < 0 ? none : model->params[adapter->head].weight;
    model->param_count = adapter->first_param;
    adapter->param_count = 0; /* its memory lives on until it is detached */
    lt_status status = LT_OK;
    if (embed.data || head.data) LT_TRY_GOTO(status, lt_model_untie(model, err), done);
    if (embed.data)
        LT_TRY_GOTO(status, replace_row(model, "embed_tokens.weight", embed, err), done);
    if (head.data) status = replace_row(model, "lm_head.weight", head, err);
done:
    detach(model);
    return status;
}

/* --- Serving ---------------------------------------------------------------------------------- */

lt_status lt_adapter_serving_notes(const lt_adapter_config *config, lt_buffer *out, lt_err *err)
{
    enum { VLLM_DEFAULT_RANK = 16 };
    if (config->kind != LT_ADAPTER_LORA)
        return lt_buffer_printf(out, err,
                                "a %s adapter is served by Lathe and by PEFT; vLLM and llama.cpp "
                                "can not load it\n",
                                lt_adapter_kind_name(config->kind));
    if (config->use_dora)
        LT_TRY(lt_buffer_append_text(out,
                                     "vLLM and llama.cpp can not load DoRA: merge it with lathe "
                                     "merge before serving\n",
                                     err));
    if (config->modules_to_save.count > 0)
        LT_TRY(
            lt_buffer_append_text(out,
                                  "vLLM and llama.cpp can not load an adapter with "
                                  "modules_to_save (embedding or head rows): merge it with lathe "
                                  "merge before serving\n",
                                  err));
    if (config->r > VLLM_DEFAULT_RANK)
        LT_TRY(lt_buffer_printf(out, err,
                                "vLLM serves ranks up to 16 unless it is started with "
                                "--max-lora-rank %lld\n",
                                (long long)config->r));
    return LT_OK;
}
