/* lathe inspect: what is in a dataset, a model or a checkpoint. */
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "model/adapter.h"
#include "data_pipeline/data_pipeline.h"
#include "model/formats/gguf.h"
#include "model/gguf_model.h"
#include "model/model.h"
#include "train/train.h"

typedef struct settings {
    lt_string_list paths;
    int64_t samples;
    bool stats;
} settings;

static const lt_option options[] = {
    {"path", LT_OPTION_LIST, offsetof(settings, paths), .metavar = "PATH",
     .help = "Model directory, safetensors or GGUF file, dataset or checkpoint."},
    {"stats", LT_OPTION_FLAG, offsetof(settings, stats),
     .help = "Show the smallest, largest and mean value of each tensor of a model."},
    {"samples", LT_OPTION_INT, offsetof(settings, samples), .default_text = "3", .min = 0,
     .max = 1000000, .help = "Documents of a dataset to show decoded."},
};

static const lt_option_table table = {
    .command = "lathe inspect",
    .synopsis = "lathe inspect PATH [OPTIONS]",
    .description =
        "Shows what is in a model directory, a safetensors or GGUF file, a dataset (.h5) "
        "or a checkpoint directory.\n\n"
        "  lathe inspect out/final\n"
        "  lathe inspect data.h5 --samples 5",
    .options = options,
    .count = sizeof options / sizeof options[0],
    .positional = &options[0]};

/* HDF5 files begin with these bytes, whatever they are called. */
static bool is_hdf5(const char *path)
{
    static const char signature[8] = "\x89HDF\r\n\x1a\n";
    char start[8] = {0};
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    size_t got = fread(start, 1, sizeof start, file);
    fclose(file);
    return got == sizeof start && memcmp(start, signature, sizeof start) == 0;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static lt_status inspect_directory(const char *path, const settings *s, lt_err *err)
{
    lt_buffer manifest = {0};
    lt_status status = lt_path_join(&manifest, path, "manifest.json", err);
    if (status == LT_OK && lt_path_exists(manifest.data))
        status = lt_inspect_checkpoint(path, stdout, err);
    else if (status == LT_OK && lt_is_adapter_directory(path))
        status = lt_inspect_adapter(path, s->stats, stdout, err);
    else if (status == LT_OK)
        status = lt_inspect_model(path, s->stats, stdout, err);
    lt_buffer_free(&manifest);
    return status;
}

static lt_status inspect(const char *path, const settings *s, lt_err *err)
{
    if (lt_is_directory(path)) return inspect_directory(path, s, err);
    if (lt_path_exists(path)) {
        if (is_hdf5(path) || ends_with(path, ".h5") || ends_with(path, ".hdf5"))
            return lt_inspect_dataset(path, s->samples, stdout, err);
        if (lt_is_gguf_file(path)) return lt_inspect_gguf(path, s->stats, stdout, err);
        return lt_inspect_safetensors(path, s->stats, stdout, err);
    }
    lt_buffer directory = {0};
    lt_status status = lt_model_resolve(path, &directory, err);
    if (status == LT_OK) status = inspect_directory(directory.data, s, err);
    lt_buffer_free(&directory);
    return status;
}

static lt_status run(const void *context, lt_err *err)
{
    const settings *s = context;
    if (s->paths.count != 1) return lt_fail(err, LT_ERR_USAGE, "give one path to look at");
    return inspect(s->paths.items[0], s, err);
}

int lt_cmd_inspect(int argc, char **argv)
{
    settings s = {0};
    return lt_cli_run(&table, argc, argv, &s, run);
}
