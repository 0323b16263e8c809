/* Which of a model's modules an adapter's configuration means. The rules are PEFT's
 * (peft/tuners/tuners_utils.py): a name is the end of a module's path, a pattern all of it. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/regex.h"
#include "model/adapters/internal.h"

enum { MAX_MODULES = LT_LINEAR_COUNT * LT_MAX_PARTS };

static bool ends_with_name(const char *path, const char *name)
{
    size_t path_length = strlen(path), length = strlen(name);
    if (length > path_length || length == 0) return false;
    const char *end = path + path_length - length;
    return strcmp(end, name) == 0 && (end == path || end[-1] == '.');
}

const char *lt_linear_row(bool gated, lt_linear which)
{
    static const char *const rows[] = {"layers.#.attention.qkv.weight",
                                       "layers.#.attention.out.weight", "layers.#.mlp.up.weight",
                                       "layers.#.mlp.down.weight"};
    return gated && which == LT_LINEAR_UP ? "layers.#.mlp.gate_up.weight" : rows[which];
}

bool lt_module_pattern(const lt_family *family, bool gated, lt_linear which, int part, char *out,
                       size_t size)
{
    char name[LT_MODULE_SIZE];
    lt_family_expand(lt_linear_row(gated, which), 0, name, sizeof name);
    const lt_family_row *row = lt_family_find_row(family, name);
    if (!row || part >= LT_MAX_PARTS || !row->files[part]) return false;
    size_t length = strlen(row->files[part]) - strlen(".weight");
    if (length >= size) return false;
    memcpy(out, row->files[part], length);
    out[length] = '\0';
    return true;
}

/* --- What a configuration means --------------------------------------------------------------- */

static bool lists(const lt_string_list *names, const char *module)
{
    for (size_t i = 0; i < names->count; i++)
        if (ends_with_name(module, names->items[i])) return true;
    return false;
}

static bool lists_layer(const lt_adapter_config *config, int64_t layer)
{
    for (size_t i = 0; i < config->layers_to_transform_count; i++)
        if (config->layers_to_transform[i] == layer) return true;
    return config->layers_to_transform_count == 0;
}

lt_status lt_target_matches(const lt_adapter_config *config, const char *module, int64_t layer,
                            bool *matches, lt_err *err)
{
    *matches = false;
    if (lists(&config->exclude_modules, module)) return LT_OK;
    if (!config->target_pattern) {
        *matches = lists(&config->target_modules, module) && lists_layer(config, layer);
        return LT_OK;
    }
    lt_regex *regex = NULL;
    LT_TRY(lt_regex_compile(config->target_pattern, true, "target_modules", &regex, err));
    lt_status status = lt_regex_match(regex, module, matches, err);
    lt_regex_free(regex);
    return status;
}

/* The first entry whose key matches the module, as "(.*\.)?(key)"; NULL: none. */
static lt_status find_pattern(const json_t *patterns, const char *what, const char *module,
                              const json_t **out, lt_err *err)
{
    const char *key;
    json_t *value;
    lt_status status = LT_OK;
    *out = NULL;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, value)
    {
        lt_regex *regex = NULL;
        lt_buffer pattern = {0};
        bool matches = false;
        status = lt_buffer_printf(&pattern, err, "(.*\\.)?(%s)", key);
        if (status == LT_OK)
            status = lt_regex_compile(lt_buffer_text(&pattern), true, what, &regex, err);
        if (status == LT_OK) status = lt_regex_match(regex, module, &matches, err);
        lt_regex_free(regex);
        lt_buffer_free(&pattern);
        if (status != LT_OK) return status;
        if (!matches) continue;
        *out = value;
        return LT_OK;
    }
    return LT_OK;
}

lt_status lt_target_rank(const lt_adapter_config *config, const char *module, int64_t *r,
                         double *alpha, lt_err *err)
{
    const json_t *rank, *scale;
    LT_TRY(find_pattern(config->rank_pattern, "rank_pattern", module, &rank, err));
    LT_TRY(find_pattern(config->alpha_pattern, "alpha_pattern", module, &scale, err));
    *r = rank ? (int64_t)json_integer_value(rank) : config->r;
    *alpha = scale ? json_number_value(scale) : config->lora_alpha;
    if (*r < 1)
        return lt_fail(err, LT_ERR_USAGE, "the rank of %s is %lld; it must be at least 1", module,
                       (long long)*r);
    return LT_OK;
}

/* --- What a user writes ----------------------------------------------------------------------- */

/* A family's modules, '#' for the block, and how each is called for short. */
typedef struct modules {
    char paths[MAX_MODULES][LT_MODULE_SIZE];
    const char *names[MAX_MODULES]; /* the last part of the path */
    bool attention[MAX_MODULES];
    size_t count;
} modules;

static void list_modules(const lt_family *family, modules *out)
{
    bool gated = lt_family_find_row(family, "layers.0.mlp.gate_up.weight") != NULL;
    out->count = 0;
    for (int which = 0; which < LT_LINEAR_COUNT; which++) {
        for (int part = 0; part < LT_MAX_PARTS; part++) {
            char *path = out->paths[out->count];
            if (!lt_module_pattern(family, gated, (lt_linear)which, part, path,
                                   sizeof out->paths[0]))
                break;
            out->names[out->count] = strrchr(path, '.') + 1;
            out->attention[out->count++] = which == LT_LINEAR_QKV || which == LT_LINEAR_OUT;
        }
    }
}

static bool has(const lt_string_list *list, const char *item)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], item) == 0) return true;
    return false;
}

static lt_status add_once(lt_string_list *list, const char *item, lt_err *err)
{
    return has(list, item) ? LT_OK : lt_string_list_add(list, item, err);
}

/* A module's shortest name that means no module outside `attention_only`: GPT-2 has a c_proj in
 * both halves of a block. */
static const char *short_name(const modules *m, size_t index, bool attention_only)
{
    const char *name = m->names[index];
    for (size_t i = 0; attention_only && i < m->count; i++) {
        if (m->attention[i] || strcmp(m->names[i], name) != 0) continue;
        const char *at = name - 1;
        while (at > m->paths[index] && at[-1] != '.')
            at--;
        return at;
    }
    return name;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static lt_status refuse_target(const modules *m, const char *name, lt_err *err)
{
    static const char *const ends[] = {"wte",   "wpe",     "embed_tokens", "embed_in",
                                       "embed", "lm_head", "embed_out"};
    for (size_t i = 0; i < LT_COUNT_OF(ends); i++)
        if (strcmp(name, ends[i]) == 0)
            return lt_fail(err, LT_ERR_UNSUPPORTED,
                           "--lora-target %s: embeddings and the head get no low-rank update; "
                           "--modules-to-save trains them whole",
                           name);
    lt_buffer all = {0};
    for (size_t i = 0; i < m->count; i++) {
        bool named = false; /* GPT-2's two c_proj */
        for (size_t k = 0; k < i; k++)
            named = named || strcmp(m->names[k], m->names[i]) == 0;
        if (!named && lt_buffer_printf(&all, NULL, "%s%s", i ? ", " : "", m->names[i]) != LT_OK)
            break;
    }
    const char *nearest = lt_nearest_name(name, m->names, m->count);
    lt_fail(err, LT_ERR_USAGE,
            "--lora-target: the model has no module \"%.80s\"%s%s%s; it has %s (or all-linear, "
            "attention)",
            name, nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "",
            lt_buffer_text(&all));
    lt_buffer_free(&all);
    return LT_ERR_USAGE;
}

/* Does the path, with some number for '#', end with the name? */
static bool path_has_name(const char *path, const char *name)
{
    char numbered[LT_MODULE_SIZE + 16];
    const char *digits = name + strcspn(name, "0123456789");
    int block = isdigit((unsigned char)*digits) ? atoi(digits) : 0;
    return lt_family_expand(path, block, numbered, sizeof numbered) &&
           ends_with_name(numbered, name);
}

static lt_status add_named(const modules *m, const char *name, lt_adapter_config *config,
                           lt_err *err)
{
    for (size_t i = 0; i < m->count; i++)
        if (path_has_name(m->paths[i], name)) return add_once(&config->target_modules, name, err);
    return refuse_target(m, name, err);
}

/* Hands each name of "a,b,c" to `take`. */
static lt_status each_name(const char *text, lt_status (*take)(void *, const char *, lt_err *),
                           void *context, lt_err *err)
{
    char name[128];
    const char *at = text;
    do {
        at += strspn(at, " ,");
        size_t length = strcspn(at, " ,");
        if (length == 0) break;
        if (length >= sizeof name)
            return lt_fail(err, LT_ERR_USAGE, "\"%.80s...\" is too long for a module's name", at);
        memcpy(name, at, length);
        name[length] = '\0';
        LT_TRY(take(context, name, err));
        at += length;
    } while (*at);
    return LT_OK;
}

typedef struct choosing {
    modules modules;
    const lt_family *family;
    lt_adapter_config *config;
} choosing;

static lt_status take_target(void *context, const char *name, lt_err *err)
{
    choosing *c = context;
    return add_named(&c->modules, name, c->config, err);
}

lt_status lt_adapter_choose_targets(const lt_family *family, const char *text,
                                    lt_adapter_config *config, lt_err *err)
{
    choosing c = {.family = family, .config = config};
    bool all = strcmp(text, "all-linear") == 0, attention = strcmp(text, "attention") == 0;
    list_modules(family, &c.modules);
    for (size_t i = 0; (all || attention) && i < c.modules.count; i++)
        if (all || c.modules.attention[i])
            LT_TRY(add_once(&config->target_modules, short_name(&c.modules, i, attention), err));
    if (!all && !attention) LT_TRY(each_name(text, take_target, &c, err));
    if (config->target_modules.count == 0)
        return lt_fail(err, LT_ERR_USAGE, "--lora-target names no module");
    /* PEFT keeps a set; in order, the file is the same every time */
    qsort(config->target_modules.items, config->target_modules.count,
          sizeof *config->target_modules.items, by_name);
    return LT_OK;
}

/* --- Whole modules ---------------------------------------------------------------------------- */

static const char *last_name(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* The path of a row's file without ".weight". */
static void file_module(const lt_family *family, const char *row, char *out, size_t size)
{
    const char *file = lt_family_find_row(family, row)->files[0];
    snprintf(out, size, "%.*s", (int)(strlen(file) - strlen(".weight")), file);
}

void lt_saved_modules(const lt_family *family, lt_saved_module out[2])
{
    static const char *const rows[] = {"embed_tokens.weight", "lm_head.weight"};
    static const char *const aliases[] = {"embed", "lm_head"};
    for (int i = 0; i < 2; i++) {
        out[i].alias = aliases[i];
        file_module(family, rows[i], out[i].file, sizeof out[i].file);
        snprintf(out[i].path, sizeof out[i].path, "%s", out[i].file);
    }
    if (family->head_module) snprintf(out[1].path, sizeof out[1].path, "%s", family->head_module);
}

bool lt_saved_module_is(const lt_saved_module *module, const char *name)
{
    return ends_with_name(module->path, name) || ends_with_name(module->file, name);
}

static lt_status take_saved(void *context, const char *name, lt_err *err)
{
    choosing *c = context;
    lt_saved_module modules[2];
    lt_saved_modules(c->family, modules);
    for (int i = 0; i < 2; i++)
        if (strcmp(name, modules[i].alias) == 0 || lt_saved_module_is(&modules[i], name))
            return add_once(&c->config->modules_to_save, last_name(modules[i].path), err);
    return lt_fail(err, LT_ERR_USAGE,
                   "--modules-to-save: \"%.80s\" can not be trained whole beside LoRA; embed (%s) "
                   "and lm_head (%s) can",
                   name, last_name(modules[0].path), last_name(modules[1].path));
}

lt_status lt_adapter_choose_saved(const lt_family *family, const char *text,
                                  lt_adapter_config *config, lt_err *err)
{
    choosing c = {.family = family, .config = config};
    return each_name(text, take_saved, &c, err);
}
