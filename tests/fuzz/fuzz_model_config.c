/* Any bytes as config.json: refused, or a table of parameters and a memory plan can be made of it,
 * and what is written back is accepted and means the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/formats/hf_save.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void plan(const lt_model_config *config)
{
    static lt_backend *backend;
    if (!backend && lt_backend_create(&(lt_backend_settings){.isa = "ref", .threads = 1}, &backend,
                                      NULL) != LT_OK)
        abort();
    const lt_plan_settings settings = {.workspace = {.rows = 2, .length = 4, .training = true},
                                       .trainable = {.freeze_layers = 1}};
    lt_memory_plan bytes;
    lt_err err = {0};
    lt_status status = lt_model_plan(config, backend, &settings, &bytes, &err);
    if (status == LT_OK && (bytes.parameters <= 0 || bytes.weights == 0)) abort();
    if (status != LT_OK && !err.message[0]) abort();
}

static void write_back(const lt_model_config *config)
{
    json_t *written, *generation;
    lt_model_config again;
    if (lt_config_to_json(config, LT_BF16, &written, &generation, NULL) != LT_OK) abort();
    if (lt_model_config_parse(written, "written", &again, NULL) != LT_OK) abort();
    if (again.family != config->family || again.hidden_size != config->hidden_size ||
        again.vocab_size != config->vocab_size || again.head_dim != config->head_dim ||
        again.eos_token_count != config->eos_token_count)
        abort();
    lt_model_config_free(&again);
    json_decref(written);
    json_decref(generation);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json;
    lt_model_config config;
    lt_err err = {0};
    if (lt_json_parse((const char *)data, size, "fuzz", &json, NULL) != LT_OK) return 0;
    if (lt_model_config_parse(json, "fuzz", &config, &err) == LT_OK) {
        plan(&config);
        write_back(&config);
        lt_model_config_free(&config);
    } else if (!err.message[0]) {
        abort();
    }
    json_decref(json);
    return 0;
}
