#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/formats/numbers.h"
#include "model/memory.h"
#include "model/params.h"

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

lt_status lt_model_new(lt_model_config *config, const lt_backend *backend, lt_dtype matrices,
                       lt_model **out, lt_err *err)
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
    model->matrix_dtype = matrices;
    model->gradient_dtype = backend ? backend->statistics : LT_F32;
    lt_status status = lt_params_build(model, err);
    if (status != LT_OK) {
        lt_model_free(model);
        return status;
    }
    *out = model;
    return LT_OK;
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
