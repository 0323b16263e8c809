#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/formats/numbers.h"
#include "model/init.h"
#include "model/memory.h"
#include "model/params.h"
#include "model/sharding.h"

/* --- Rotary tables -----------------------------------------------------------------------------
 */

/* The angle per position of pair i. All steps in f32, as transformers does them: at position 2000
 * an angle computed more exactly would already differ from the one the model was trained with. */
static float rope_frequency(const lt_model_config *config, int64_t i)
{
    float exponent = (float)(2 * i) / (float)config->rotary_dim;
    float frequency = 1.0f / (float)pow((double)(float)config->rope_theta, (double)exponent);
    float factor = (float)config->rope_factor;
    if (config->rope_type == LT_ROPE_LINEAR) return frequency / factor;
    if (config->rope_type != LT_ROPE_LLAMA3) return frequency;

    /* Llama 3.1: long waves are stretched, short ones kept, those between are blended */
    float low = (float)config->rope_low_freq_factor, high = (float)config->rope_high_freq_factor;
    float original = (float)config->rope_original_max_position;
    float wavelength = (float)(2 * M_PI) / frequency;
    if (wavelength > original / low) return frequency / factor;
    if (wavelength < original / high) return frequency;
    float smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

static lt_status fill_rope_rows(lt_model *model, const float *frequencies, int64_t first,
                                int64_t count, float *scratch, void *staged, lt_err *err)
{
    int64_t half = model->config.rotary_dim / 2;
    lt_dtype dtype = model->backend->statistics;
    size_t size = lt_dtype_size(dtype), offset = (size_t)(first * half) * size;
    for (int table = 0; table < 2; table++) {
        for (int64_t p = 0; p < count; p++) {
            for (int64_t i = 0; i < half; i++) {
                double angle = (float)(first + p) * frequencies[i];
                scratch[p * half + i] = (float)(table == 0 ? cos(angle) : sin(angle));
            }
        }
        lt_numbers_from_f32(scratch, count * half, dtype, staged);
        lt_tensor *to = table == 0 ? &model->rope_cos : &model->rope_sin;
        LT_TRY(model->backend->upload(model->backend, (char *)to->data + offset, staged,
                                      (size_t)(count * half) * size, err));
    }
    return LT_OK;
}

static lt_status fill_rope_tables(lt_model *model, lt_err *err)
{
    enum { ROWS = 64 };
    int64_t half = model->config.rotary_dim / 2, positions = model->config.max_position_embeddings;
    if (!model->rope_cos.data) return LT_OK;
    lt_status status = LT_OK;
    float *frequencies = calloc((size_t)half, sizeof *frequencies);
    float *scratch = calloc((size_t)(ROWS * half), sizeof *scratch);
    void *staged = calloc((size_t)(ROWS * half), lt_dtype_size(model->backend->statistics));
    if (!frequencies || !scratch || !staged) {
        status = lt_fail_nomem(err, (unsigned long long)(ROWS * half * 16), "rotary tables");
        goto done;
    }
    for (int64_t i = 0; i < half; i++)
        frequencies[i] = rope_frequency(&model->config, i);
    for (int64_t first = 0; first < positions; first += ROWS) {
        int64_t count = positions - first < ROWS ? positions - first : ROWS;
        LT_TRY_GOTO(status, fill_rope_rows(model, frequencies, first, count, scratch, staged, err),
                    done);
    }

done:
    free(frequencies);
    free(scratch);
    free(staged);
    return status;
}

/* --- Models ------------------------------------------------------------------------------------
 */

lt_status lt_model_new(lt_model_config *config, const lt_backend *backend,
                       const lt_model_load_settings *settings, lt_model **out, lt_err *err)
{
    *out = NULL;
    lt_model *model = calloc(1, sizeof *model);
    if (!model) {
        lt_model_config_free(config);
        return lt_fail_nomem(err, sizeof *model, "a model");
    }
    model->config = *config;
    memset(config, 0, sizeof *config);
    model->backend = backend;
    model->matrix_dtype = settings->matrices;
    model->sharding = settings->sharding;
    model->gradient_dtype = backend ? backend->statistics : LT_F32;
    lt_status status = LT_OK;
    int64_t vocab = settings->vocab_size;
    if (vocab > 0)
        LT_TRY_GOTO(status, lt_check_vocab_growth(model->config.vocab_size, vocab, err), done);
    if (vocab > 0) model->config.vocab_size = vocab;
    status = lt_params_build(model, err);

done:
    if (status != LT_OK)
        lt_model_free(model);
    else
        *out = model;
    return status;
}

lt_status lt_model_allocate_weights(lt_model *model, lt_err *err)
{
    lt_arena plan;
    lt_arena_measure(&plan, "weights");
    lt_params_carve_weights(model, &plan);
    LT_TRY(lt_check_memory(model->backend, plan.peak, "the model's weights", err));
    LT_TRY(lt_arena_reserve(&model->weights, "weights", plan.peak, model->backend->memory, err));
    lt_params_carve_weights(model, &model->weights);
    return fill_rope_tables(model, err);
}

/* --- Reading -----------------------------------------------------------------------------------
 */

bool lt_is_vocabulary_row(const lt_param *param)
{
    return strcmp(param->name, "embed_tokens.weight") == 0 ||
           strcmp(param->name, "lm_head.weight") == 0;
}

lt_param lt_param_in_file(const lt_param *param, int64_t vocab)
{
    lt_param stored = *param;
    if (lt_is_vocabulary_row(param)) stored.shape[0] = vocab;
    return stored;
}

static lt_status read_rows(lt_model *model, int first, int count, int64_t vocab, lt_read_rows read,
                           const void *context, lt_err *err)
{
    LT_TRY(read(context, first, count, err));
    for (int i = first; i < first + count; i++)
        if (lt_is_vocabulary_row(&model->params[i]))
            LT_TRY(lt_fill_new_rows(model->backend, model->params[i].weight, vocab, err));
    return LT_OK;
}

static lt_status clear(const lt_model *model, lt_tensor room, lt_err *err)
{
    return room.data ? lt_zero(model->backend, &(lt_zero_args){.y = room}, err) : LT_OK;
}

static lt_status keep_part(const lt_model *model, lt_tensor room, lt_tensor part, lt_err *err)
{
    if (!room.data) return LT_OK;
    int64_t count = part.shape[0];
    lt_tensor own = lt_tensor_slice(room, 0, model->sharding.rank * count, count);
    return lt_convert(model->backend, &(lt_convert_args){.x = own, .y = part}, err);
}

lt_status lt_model_read_weights(lt_model *model, int64_t vocab, lt_read_rows read,
                                const void *context, lt_err *err)
{
    LT_TRY(lt_model_allocate_weights(model, err));
    if (!lt_has_weight_rooms(model))
        return read_rows(model, 0, model->param_count, vocab, read, context, err);
    for (int i = 0; i < model->config.num_hidden_layers + 2; i++) {
        const lt_unit *unit = &model->units[i];
        lt_tensor room = lt_unit_weights(model, unit), half = lt_unit_half_weights(model, unit);
        LT_TRY(clear(model, room, err)); /* gaps where another unit has rows */
        LT_TRY(clear(model, half, err));
        LT_TRY(read_rows(model, unit->first_param, unit->param_count, vocab, read, context, err));
        LT_TRY(keep_part(model, room, lt_unit_weight_part(model, unit), err));
        LT_TRY(keep_part(model, half, lt_unit_half_part(model, unit), err));
    }
    return LT_OK;
}
