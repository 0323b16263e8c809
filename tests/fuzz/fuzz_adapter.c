/* Any bytes as a PEFT directory beside a tiny model: refused with a reason and the model as it was,
 * or the adapter computes, can be saved, and what was saved is accepted again.
 *
 * The first byte chooses the model. adapter_config.json follows up to the first NUL; what comes
 * behind it is adapter_model.safetensors: one byte n, then with n = 0 the whole file, else the
 * header's JSON, and its length goes in front and 32 n bytes of data behind. Without a NUL the
 * tensors are made to fit the configuration. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "model/adapters/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const families[] = {"gpt2", "llama", "gpt_neox"};
static char directory[64], copy[80];
static lt_backend *backend;
static FILE *nowhere;

static void must(lt_status status)
{
    if (status != LT_OK) abort();
}

static void remove_directory(void)
{
    lt_remove_tree(directory, NULL);
}

static void begin(void)
{
    const lt_backend_settings settings = {.isa = "ref", .threads = 1};
    if (backend) return;
    must(lt_backend_create(&settings, &backend, NULL));
    nowhere = fopen("/dev/null", "w");
    snprintf(directory, sizeof directory, "%s/lathe-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!nowhere || !mkdtemp(directory)) abort();
    snprintf(copy, sizeof copy, "%s/copy", directory);
    must(lt_make_directories(copy, NULL));
    atexit(remove_directory);
}

static lt_model *make_model(const char *family)
{
    /* a quarter of GPT-NeoX's heads is rotated */
    const lt_model_shape shape = {.family = family,
                                  .layers = 2,
                                  .hidden_size = strcmp(family, "gpt_neox") == 0 ? 16 : 8,
                                  .heads = 2,
                                  .max_position = 16,
                                  .vocab_size = 11,
                                  .bos_token_id = -1,
                                  .eos_token_id = 0,
                                  .pad_token_id = -1};
    lt_model_config config = {0};
    lt_model *model = NULL;
    must(lt_model_config_make(&shape, &config, NULL));
    must(lt_model_create(&config, backend, 1, &model, NULL));
    return model;
}

/* One of two that are kept for each family: making them is most of the work. Without adapters. */
static lt_model *borrow_model(int family, int which)
{
    static lt_model *models[3][2];
    lt_model **model = &models[family][which];
    if (!*model) *model = make_model(families[family]);
    lt_adapters_free(*model);
    return *model;
}

/* A refusal says why, and leaves nothing behind. */
static void check_refusal(const lt_model *model, const lt_err *err)
{
    if (!err->message[0]) abort();
    if (model->adapter_count > 0 || model->active || model->param_count != model->own_param_count)
        abort();
}

static void write_part(const char *name, const void *bytes, size_t size)
{
    lt_buffer path = {0};
    must(lt_path_join(&path, directory, name, NULL));
    FILE *file = fopen(path.data, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) abort();
    lt_buffer_free(&path);
}

static void write_tensors(const uint8_t *data, size_t size)
{
    size_t body = size > 0 ? 32 * (size_t)data[0] : 0, header = size > 0 ? size - 1 : 0;
    if (body == 0) {
        write_part(LT_ADAPTER_FILE, data + (size > 0), header);
        return;
    }
    uint8_t *file = calloc(8 + header + body, 1);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header >> (8 * i));
    memcpy(file + 8, data + 1, header);
    for (size_t i = 0; i < body; i++)
        file[8 + header + i] = i % 4 == 3 ? 0x3d : (uint8_t)i; /* small numbers */
    write_part(LT_ADAPTER_FILE, file, 8 + header + body);
    free(file);
}

static void compute(const lt_model *model)
{
    enum { LENGTH = 3, VOCAB = 11 };
    int64_t room = model->config.max_position_embeddings - lt_adapter_virtual_tokens(model->active);
    int64_t length = room < LENGTH ? room : LENGTH;
    const int32_t ids[LENGTH] = {1, 2, 3}, positions[LENGTH] = {0, 1, 2}, first_key[LENGTH] = {0};
    const lt_batch batch = {.rows = 1,
                            .length = length,
                            .input_ids = ids,
                            .positions = positions,
                            .first_key = first_key};
    const lt_workspace_settings settings = {.rows = 1, .length = length};
    lt_workspace *workspace = NULL;
    float logits[LENGTH * VOCAB];
    must(lt_workspace_create(model, &settings, &workspace, NULL));
    must(lt_model_logits(model, workspace, &batch, logits, NULL));
    lt_workspace_free(workspace);
}

/* What is accepted can be written, and means the same when it is read again. */
static void write_back(const lt_model *model, int family)
{
    const lt_adapter *adapter = model->adapters[0];
    const lt_adapter_config *was = &adapter->config;
    lt_model *other = borrow_model(family, 1);
    lt_adapter *again = NULL;
    must(lt_adapter_save(model, adapter, copy, LT_F32, false, NULL));
    must(lt_adapter_load(other, copy, "again", &again, NULL));
    if (again->config.kind != was->kind || again->param_count != adapter->param_count ||
        again->virtual_tokens != adapter->virtual_tokens || again->embed != adapter->embed ||
        again->head != adapter->head)
        abort();
    for (int i = 0; i < again->param_count; i++) {
        const lt_param *a = &model->params[adapter->first_param + i];
        const lt_param *b = &other->params[again->first_param + i];
        size_t bytes = (size_t)lt_tensor_count(a->weight) * sizeof(float);
        if (strcmp(a->name, b->name) != 0 || memcmp(a->weight.data, b->weight.data, bytes) != 0)
            abort();
    }
}

/* With tensors that fit: refused for what the configuration says, or all of it works. */
static void try_fresh(int family)
{
    lt_err err = {0};
    lt_adapter_config config;
    lt_adapter *adapter = NULL;
    if (lt_adapter_config_load(directory, &config, &err) != LT_OK) {
        if (!err.message[0]) abort();
        return;
    }
    lt_buffer notes = {0};
    must(lt_adapter_serving_notes(&config, &notes, NULL));
    lt_buffer_free(&notes);
    lt_model *model = borrow_model(family, 0);
    /* no text to start from: it is not part of the file */
    config.prompt_init = LT_PROMPT_RANDOM;
    if (lt_adapter_create(model, &config, "fresh", 1, &adapter, &err) == LT_OK) {
        compute(model);
        write_back(model, family);
    } else {
        check_refusal(model, &err);
    }
    lt_adapter_config_free(&config);
    lt_adapters_free(model);
}

/* A merged model is another one afterwards. */
static void merge(int family)
{
    lt_adapter *adapter = NULL;
    lt_model *model = make_model(families[family]);
    must(lt_adapter_load(model, directory, "merged", &adapter, NULL));
    must(lt_adapter_merge(model, adapter, NULL));
    if (model->adapter_count > 0 || model->active) abort();
    compute(model);
    lt_model_free(model);
}

static void try_directory(int family)
{
    lt_err err = {0};
    lt_adapter *adapter = NULL;
    lt_model *model = borrow_model(family, 0);
    if (lt_adapter_load(model, directory, "fuzz", &adapter, &err) == LT_OK) {
        compute(model);
        write_back(model, family);
        if (adapter->method->merge) merge(family);
    } else {
        check_refusal(model, &err);
    }
    lt_adapters_free(model);
    err = (lt_err){0};
    if (lt_inspect_adapter(directory, true, nowhere, &err) != LT_OK && !err.message[0]) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    begin();
    const int family = data[0] % 3;
    const uint8_t *end = memchr(data + 1, 0, size - 1);
    size_t length = end ? (size_t)(end - data) - 1 : size - 1;
    write_part(LT_ADAPTER_CONFIG, data + 1, length);
    if (end) {
        write_tensors(end + 1, size - length - 2);
        try_directory(family);
    } else {
        try_fresh(family);
    }
    return 0;
}
