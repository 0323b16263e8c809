/* The list of families and look-ups in it. */
#include <stdio.h>
#include <string.h>

#include "model/families/families.h"

static const lt_family *const families[] = {&lt_family_gpt2,  &lt_family_gpt_neox,
                                            &lt_family_llama, &lt_family_mistral,
                                            &lt_family_qwen2, &lt_family_qwen3};

static const char *const family_names[] = {"gpt2",  "gpt_neox", "llama", "mistral",
                                           "qwen2", "qwen3",    NULL};

const char *const *lt_model_families(void)
{
    return family_names;
}

const lt_family *lt_family_by_name(const char *name)
{
    for (size_t i = 0; i < LT_COUNT_OF(families); i++)
        if (strcmp(families[i]->name, name) == 0) return families[i];
    return NULL;
}

const lt_family *lt_family_by_architecture(const char *architecture)
{
    for (size_t i = 0; i < LT_COUNT_OF(families); i++) {
        const lt_family *family = families[i];
        if (strcmp(family->architecture, architecture) == 0 ||
            strcmp(family->base_class, architecture) == 0)
            return family;
    }
    return NULL;
}

/* A pattern's row, whose '#' may stand for any number. */
static bool row_matches(const char *pattern, const char *name)
{
    const char *mark = strchr(pattern, '#');
    if (!mark) return strcmp(pattern, name) == 0;
    size_t head = (size_t)(mark - pattern);
    if (strncmp(pattern, name, head) != 0) return false;
    const char *digits = name + head;
    size_t length = strspn(digits, "0123456789");
    return length > 0 && strcmp(mark + 1, digits + length) == 0;
}

const lt_family_row *lt_family_find_row(const lt_family *family, const char *row)
{
    for (size_t i = 0; i < family->row_count; i++)
        if (row_matches(family->rows[i].row, row)) return &family->rows[i];
    return NULL;
}

bool lt_family_expand(const char *pattern, int layer, char *out, size_t size)
{
    const char *mark = strchr(pattern, '#');
    int length =
        mark ? snprintf(out, size, "%.*s%d%s", (int)(mark - pattern), pattern, layer, mark + 1)
             : snprintf(out, size, "%s", pattern);
    return length >= 0 && (size_t)length < size;
}
