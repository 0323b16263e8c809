/* What is in a model directory or a safetensors file, for people to read. */
#include "model/inspect.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "model/adapter.h"
#include "model/families/families.h"
#include "model/formats/hf_directory.h"
#include "model/formats/weight_files.h"

/* --- Tensors -----------------------------------------------------------------------------------
 */

typedef struct totals {
    uint64_t tensors, elements, bytes;
} totals;

static int64_t element_count(const lt_safetensors_entry *entry)
{
    int64_t count = 1;
    for (int i = 0; i < entry->ndim; i++)
        count *= entry->shape[i];
    return count;
}

static bool has_numbers(const char *dtype)
{
    return strcmp(dtype, "F32") == 0 || strcmp(dtype, "F16") == 0 || strcmp(dtype, "BF16") == 0 ||
           strcmp(dtype, "F64") == 0;
}

/* Smallest, largest and mean of the finite values; how many are not finite. */
static lt_status print_stats(const lt_safetensors *file, const lt_safetensors_entry *entry,
                             FILE *out, lt_err *err)
{
    enum { CHUNK = 4096 };
    float values[CHUNK];
    double low = INFINITY, high = -INFINITY, sum = 0;
    int64_t total = element_count(entry), finite = 0;
    if (!has_numbers(entry->dtype)) return LT_OK;
    for (int64_t first = 0; first < total; first += CHUNK) {
        int64_t count = lt_min_i64(CHUNK, total - first);
        LT_TRY(lt_safetensors_read_f32(file, entry, first, count, values, err));
        for (int64_t i = 0; i < count; i++) {
            if (!isfinite(values[i])) continue;
            low = fmin(low, values[i]);
            high = fmax(high, values[i]);
            sum += values[i];
            finite++;
        }
    }
    if (finite > 0)
        fprintf(out, "  min %-12.6g max %-12.6g mean %-12.6g", low, high, sum / (double)finite);
    if (finite < total) fprintf(out, "  %" PRId64 " not finite", total - finite);
    return LT_OK;
}

/* Names come from a file: what could steer a terminal is shown as '?'. */
void lt_print_name(const char *name, int width, FILE *out)
{
    int printed = 0;
    for (const char *c = name; *c; c++, printed++)
        fputc((unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c, out);
    fprintf(out, "%*s", printed < width ? width - printed : 0, "");
}

static lt_status print_tensors(const lt_safetensors *file, int name_width, bool stats, FILE *out,
                               totals *sum, lt_err *err)
{
    for (size_t i = 0; i < file->count; i++) {
        const lt_safetensors_entry *entry = &file->entries[file->by_name[i]];
        char shape[200];
        lt_shape_text(entry->ndim, entry->shape, shape, sizeof shape);
        fputs("  ", out);
        lt_print_name(entry->name, name_width, out);
        fprintf(out, "  %-5s %-16s %12zu", entry->dtype, shape, entry->size);
        if (stats) LT_TRY(print_stats(file, entry, out, err));
        fputc('\n', out);
        sum->tensors++;
        sum->elements += (uint64_t)element_count(entry);
        sum->bytes += entry->size;
    }
    return LT_OK;
}

static int longest_name(const lt_safetensors *file)
{
    enum { WIDEST = 64 };
    int longest = 6;
    for (size_t i = 0; i < file->count; i++)
        longest = (int)lt_max_i64(longest, (int64_t)strlen(file->entries[i].name));
    return (int)lt_min_i64(longest, WIDEST);
}

static void print_heading(int name_width, FILE *out)
{
    fprintf(out, "  %-*s  %-5s %-16s %12s\n", name_width, "tensor", "dtype", "shape", "bytes");
}

static void print_totals(const totals *sum, FILE *out)
{
    fprintf(out, "  %" PRIu64 " tensors, %" PRIu64 " elements, %" PRIu64 " bytes\n", sum->tensors,
            sum->elements, sum->bytes);
}

lt_status lt_inspect_safetensors(const char *path, bool stats, FILE *out, lt_err *err)
{
    lt_safetensors file;
    LT_TRY(lt_safetensors_open(path, &file, err));
    fprintf(out, "safetensors  %s\n", path);
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(file.header, "__metadata__"), key, value)
    {
        fputs("metadata     ", out);
        lt_print_name(key, 0, out);
        fputs(": ", out);
        lt_print_name(json_string_value(value), 0, out);
        fputc('\n', out);
    }
    totals sum = {0};
    int width = longest_name(&file);
    print_heading(width, out);
    lt_status status = print_tensors(&file, width, stats, out, &sum, err);
    if (status == LT_OK) print_totals(&sum, out);
    lt_safetensors_close(&file);
    return status;
}

/* --- Configuration -----------------------------------------------------------------------------
 */

static void print_rope(const lt_model_config *c, FILE *out)
{
    if (c->rope_type == LT_ROPE_NONE) return;
    fprintf(out, "rotary       %" PRId64 " of %" PRId64 " dimensions, theta %g", c->rotary_dim,
            c->head_dim, c->rope_theta);
    if (c->rope_type == LT_ROPE_LINEAR) fprintf(out, ", linear, factor %g", c->rope_factor);
    if (c->rope_type == LT_ROPE_LLAMA3)
        fprintf(out, ", llama3, factor %g, frequencies %g to %g, trained on %" PRId64 " positions",
                c->rope_factor, c->rope_low_freq_factor, c->rope_high_freq_factor,
                c->rope_original_max_position);
    fputc('\n', out);
}

static void print_id(const char *name, int32_t id, FILE *out)
{
    if (id >= 0)
        fprintf(out, " %s %" PRId32, name, id);
    else
        fprintf(out, " %s none", name);
}

void lt_print_config(const lt_model_config *c, FILE *out)
{
    fprintf(out, "family       %s (%s)\n", c->family->name, c->family->architecture);
    fprintf(out,
            "layers       %" PRId64 ", hidden size %" PRId64 ", intermediate size %" PRId64 "\n",
            c->num_hidden_layers, c->hidden_size, c->intermediate_size);
    fprintf(out, "attention    %" PRId64 " heads of %" PRId64 ", %" PRId64 " key/value heads%s\n",
            c->num_attention_heads, c->head_dim, c->num_key_value_heads,
            c->qk_norm ? ", q and k normalised" : "");
    if (c->sliding_window > 0)
        fprintf(out, "window       %" PRId64 " tokens, from layer %" PRId64 "\n", c->sliding_window,
                c->sliding_window_from_layer);
    fprintf(out, "context      %" PRId64 " tokens\n", c->max_position_embeddings);
    print_rope(c, out);
    fprintf(out, "vocabulary   %" PRId64 ", head %s\n", c->vocab_size,
            c->tie_word_embeddings ? "tied to the embedding" : "of its own");
    fprintf(out, "token ids   ");
    print_id("bos", c->bos_token_id, out);
    if (c->eos_token_count == 0) print_id("eos", -1, out);
    for (int i = 0; i < c->eos_token_count; i++)
        print_id("eos", c->eos_token_ids[i], out);
    print_id("pad", c->pad_token_id, out);
    fputc('\n', out);
}

lt_status lt_inspect_model(const char *directory, bool stats, FILE *out, lt_err *err)
{
    lt_status status;
    lt_model_config config = {0};
    lt_weight_files files = {0};
    int64_t parameters = 0;
    /* nothing is printed of a model that could not be loaded */
    LT_TRY_GOTO(status, lt_model_check_directory(directory, &parameters, err), done);
    LT_TRY_GOTO(status, lt_model_config_load(directory, &config, err), done);
    LT_TRY_GOTO(status, lt_weight_files_open(directory, &files, err), done);

    fprintf(out, "model        %s\n", directory);
    lt_print_config(&config, out);
    fprintf(out, "parameters   %" PRId64 "\n", parameters);
    totals sum = {0};
    int width = 0;
    for (size_t i = 0; i < files.count; i++)
        width = (int)lt_max_i64(width, longest_name(&files.files[i]));
    for (size_t i = 0; i < files.count; i++) {
        fprintf(out, "weights      %s\n", files.files[i].path);
        print_heading(width, out);
        LT_TRY_GOTO(status, print_tensors(&files.files[i], width, stats, out, &sum, err), done);
    }
    print_totals(&sum, out);

done:
    lt_model_config_free(&config);
    lt_weight_files_close(&files);
    return status;
}

/* --- Adapters ----------------------------------------------------------------------------------
 */

static void print_list(const char *heading, const lt_string_list *list, FILE *out)
{
    if (list->count == 0) return;
    fputs(heading, out);
    for (size_t i = 0; i < list->count; i++) {
        fputs(i ? ", " : " ", out);
        lt_print_name(list->items[i], 0, out);
    }
    fputc('\n', out);
}

static void print_adapter_config(const lt_adapter_config *c, FILE *out)
{
    fprintf(out, "method       %s\n", lt_adapter_kind_name(c->kind));
    fputs("base         ", out);
    lt_print_name(c->base_model ? c->base_model : "not said", 0, out);
    fputc('\n', out);
    if (c->kind != LT_ADAPTER_LORA) {
        fprintf(out, "tokens       %" PRId64 " virtual ones\n", c->num_virtual_tokens);
        return;
    }
    fprintf(out, "rank         %" PRId64 ", alpha %g%s%s, dropout %g\n", c->r, c->lora_alpha,
            c->use_rslora ? " (rslora)" : "", c->use_dora ? ", DoRA" : "", c->lora_dropout);
    print_list("targets     ", &c->target_modules, out);
    print_list("whole       ", &c->modules_to_save, out);
    if (!c->target_pattern) return;
    fputs("targets      ", out);
    lt_print_name(c->target_pattern, 0, out);
    fputc('\n', out);
}

lt_status lt_inspect_adapter(const char *directory, bool stats, FILE *out, lt_err *err)
{
    lt_adapter_config config;
    lt_buffer path = {0};
    LT_TRY(lt_adapter_config_load(directory, &config, err));
    lt_status status;
    LT_TRY_GOTO(status, lt_path_join(&path, directory, "adapter_model.safetensors", err), done);
    lt_safetensors file;
    LT_TRY_GOTO(status, lt_safetensors_open(path.data, &file, err), done);
    lt_safetensors_close(&file); /* nothing is printed of what can not be read */
    fprintf(out, "adapter      %s\n", directory);
    print_adapter_config(&config, out);
    status = lt_inspect_safetensors(path.data, stats, out, err);
done:
    lt_adapter_config_free(&config);
    lt_buffer_free(&path);
    return status;
}
