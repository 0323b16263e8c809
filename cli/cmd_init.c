/* lathe init: a fresh model with the family's standard initialisation, beside its tokenizer. */
#include <inttypes.h>
#include <stdio.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "data_pipeline/tokenizer.h"
#include "model/model.h"

typedef struct settings {
    char *family, *preset, *tokenizer, *output, *dtype, *device;
    int64_t layers, hidden_size, heads, kv_heads, intermediate_size, max_position, seed;
    double initializer_range;
} settings;

/* clang-format off */
static const lt_option options[] = {
    {"family", LT_OPTION_CHOICE, offsetof(settings, family),
     .choices = "gpt2|gpt_neox|llama|mistral|qwen2|qwen3", .group = "Shape",
     .help = "Architecture; may be left out when a preset says it."},
    {"preset", LT_OPTION_STRING, offsetof(settings, preset), .metavar = "NAME",
     .help = "A known shape: gpt2-tiny, gpt2-small-cpu, gpt2 (or gpt2-124m), gpt2-medium, -large, "
             "-xl; pythia-14m, -31m, -70m, -160m, -410m, -1b, -1.4b, -2.8b, -6.9b, -12b; "
             "dolly-v2-3b, -7b, -12b; llama-tiny, -15m, -42m, -110m, -1.1b; llama-2-7b, -13b; "
             "llama-3-8b; mistral-110m, -7b; qwen2-tiny, -0.5b, -1.5b; qwen2.5-3b, -7b, -14b; "
             "qwen3-tiny, -0.6b, -1.7b, -4b, -8b. The options below change single sizes of it."},
    {"layers", LT_OPTION_INT, offsetof(settings, layers), .min = 1, .max = 1024,
     .help = "Number of blocks."},
    {"hidden-size", LT_OPTION_INT, offsetof(settings, hidden_size), .min = 1, .max = 1048576,
     .help = "Width of the residual stream."},
    {"heads", LT_OPTION_INT, offsetof(settings, heads), .min = 1, .max = 65536,
     .aliases = "num-attention-heads", .help = "Attention heads."},
    {"kv-heads", LT_OPTION_INT, offsetof(settings, kv_heads), .min = 1, .max = 65536,
     .aliases = "num-key-value-heads", .help = "Key/value heads; fewer than heads share them."},
    {"intermediate-size", LT_OPTION_INT, offsetof(settings, intermediate_size), .min = 1,
     .max = 16777216, .help = "Width inside the MLP."},
    {"max-position", LT_OPTION_INT, offsetof(settings, max_position), .min = 1, .max = 16777216,
     .aliases = "max-position-embeddings", .help = "Longest context in tokens."},
    {"initializer-range", LT_OPTION_NUMBER, offsetof(settings, initializer_range), .min = 1e-6,
     .max = 10, .help = "Standard deviation of the fresh weights; the family's own (0.02) suits "
                        "wide models, about 1 / sqrt(hidden size) makes small ones learn sooner."},
    {"tokenizer", LT_OPTION_STRING, offsetof(settings, tokenizer), .required = true,
     .metavar = "PATH", .group = "Files",
     .help = "Tokenizer directory or file: gives the vocabulary's size and the special ids, and is "
             "copied to the model."},
    {"output", LT_OPTION_STRING, offsetof(settings, output), .required = true, .metavar = "DIR",
     .help = "Directory to make; must not exist or be empty."},
    {"seed", LT_OPTION_INT, offsetof(settings, seed), .default_text = "42", .min = 0,
     .max = 4294967295.0, .help = "The weights are a function of it and the shape."},
    {"dtype", LT_OPTION_CHOICE, offsetof(settings, dtype), .default_text = "f32",
     .choices = "f32|bf16|f16", .help = "Number type of the saved weights."},
    LT_DEVICE_OPTION(settings, "cpu"),
};
/* clang-format on */

static const lt_option_table table = {
    .command = "lathe init",
    .synopsis = "lathe init (--family F | --preset NAME) --tokenizer PATH --output DIR [OPTIONS]",
    .description = "Makes a fresh model with random weights, in the files of Hugging Face.\n\n"
                   "  lathe init --preset gpt2-tiny --tokenizer tok --output model\n"
                   "  lathe init --family llama --layers 8 --hidden-size 512 --heads 8 "
                   "--kv-heads 2 --tokenizer tok --output model",
    .options = options,
    .count = sizeof options / sizeof options[0]};

/* --- Checks ------------------------------------------------------------------------------------
 */

static lt_status make_config(const settings *s, const lt_tokenizer *tokenizer,
                             lt_model_config *config, lt_err *err)
{
    lt_model_shape shape = {
        .family = s->family,
        .preset = s->preset,
        .layers = s->layers,
        .hidden_size = s->hidden_size,
        .heads = s->heads,
        .kv_heads = s->kv_heads,
        .intermediate_size = s->intermediate_size,
        .max_position = s->max_position,
        .initializer_range = s->initializer_range,
        .vocab_size = lt_tokenizer_vocab_size(tokenizer),
        .bos_token_id = lt_tokenizer_bos_id(tokenizer),
        .eos_token_id = lt_tokenizer_eos_id(tokenizer),
        .pad_token_id = lt_tokenizer_pad_id(tokenizer),
    };
    return lt_model_config_make(&shape, config, err);
}

/* --- Making ------------------------------------------------------------------------------------
 */

static lt_status write_model(const settings *s, const lt_model *model,
                             const lt_tokenizer *tokenizer, lt_err *err)
{
    LT_TRY(lt_make_parent_directories(s->output, err));
    lt_new_directory directory;
    LT_TRY(lt_new_directory_begin(&directory, s->output, err));
    lt_status status;
    LT_TRY_GOTO(status, lt_model_save(model, directory.temporary, lt_file_dtype(s->dtype), err),
                done);
    LT_TRY_GOTO(status, lt_tokenizer_save(tokenizer, directory.temporary, err), done);
    status = lt_new_directory_commit(&directory, false, err);

done:
    lt_new_directory_abort(&directory);
    return status;
}

static void print_id(const char *name, int32_t id)
{
    if (id >= 0)
        printf(" %s %" PRId32, name, id);
    else
        printf(" %s none", name);
}

static void print_summary(const settings *s, const lt_model *model)
{
    const lt_model_config *c = &model->config;
    const json_t *type = json_object_get(c->source, "model_type");
    printf("made         %s\n", s->output);
    printf("family       %s\n", json_string_value(type));
    printf("parameters   %" PRId64 "\n", lt_model_parameter_count(model, false));
    printf("shape        %" PRId64 " layers, hidden %" PRId64 ", %" PRId64 " heads (%" PRId64
           " key/value) of %" PRId64 ", intermediate %" PRId64 "\n",
           c->num_hidden_layers, c->hidden_size, c->num_attention_heads, c->num_key_value_heads,
           c->head_dim, c->intermediate_size);
    printf("context      %" PRId64 " tokens\n", c->max_position_embeddings);
    printf("vocabulary   %" PRId64 "; ids:", c->vocab_size);
    print_id("bos", c->bos_token_id);
    print_id("eos", c->eos_token_count > 0 ? c->eos_token_ids[0] : -1);
    print_id("pad", c->pad_token_id);
    printf("\nweights      %s, seed %" PRId64 "\n", s->dtype, s->seed);
}

static lt_status init(const void *context, lt_err *err)
{
    const settings *s = context;
    lt_status status;
    lt_tokenizer *tokenizer = NULL;
    lt_device_opened device = {0};
    const lt_device_choice machine = {.device = s->device, .dtype = "float32"};
    lt_model *model = NULL;
    lt_model_config config = {0};
    LT_TRY_GOTO(status, lt_require_new_directory(s->output, err), done);
    LT_TRY_GOTO(status, lt_tokenizer_load(s->tokenizer, &tokenizer, err), done);
    LT_TRY_GOTO(status, make_config(s, tokenizer, &config, err), done);
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    LT_TRY_GOTO(status, lt_model_create(&config, device.backend, (uint64_t)s->seed, &model, err),
                done);
    LT_TRY_GOTO(status, write_model(s, model, tokenizer, err), done);
    print_summary(s, model);

done:
    lt_model_config_free(&config);
    lt_model_free(model);
    lt_backend_free(device.backend);
    lt_tokenizer_free(tokenizer);
    return status;
}

int lt_cmd_init(int argc, char **argv)
{
    settings s = {0};
    return lt_cli_run(&table, argc, argv, &s, init);
}
