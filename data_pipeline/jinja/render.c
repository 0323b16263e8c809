/* The door: compiling and rendering, and the bounds of both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/jinja/syntax.h"
#include "data_pipeline/tokenizer_internal.h"

enum {
    MAX_SOURCE = 1 << 20,
    TEMPLATE_MEMORY = 192 << 20, /* a node is about 100 bytes, and a byte may be a node */
    DEFAULT_STEPS = 1000000,
    DEFAULT_DEPTH = 64,
    DEFAULT_OUTPUT = 4 << 20,
    LARGEST_DEPTH = 256,
    LARGEST_OUTPUT = 1 << 30,
    LEAST_MEMORY = 16 << 20, /* of a rendering, and more for each byte of limits.output */
    MEMORY_PER_OUTPUT = 16,
    NESTING_PER_DEPTH = 16, /* nested expressions, blocks and values for each level of calls */
};

/* --- Errors and bounds --- */

lt_status lt_jinja_fail(jinja_render *r, lt_status code, const char *format, ...)
{
    char message[900];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return lt_fail(r->err, code, "%s, line %d: %s", r->template_->where, r->line, message);
}

lt_status lt_jinja_spend(jinja_render *r, size_t steps)
{
    if (steps <= (size_t)r->steps) {
        r->steps -= (int64_t)steps;
        return LT_OK;
    }
    return lt_jinja_fail(r, LT_ERR_LIMIT, "rendering takes more than %lld steps",
                         (long long)r->limits.steps);
}

lt_status lt_jinja_alloc(jinja_render *r, size_t count, size_t size, void *out)
{
    lt_status status = lt_jinja_region_alloc(&r->region, count, size, out, r->err);
    if (status == LT_OK) return LT_OK;
    return lt_fail_context(r->err, "%s, line %d", r->template_->where, r->line);
}

lt_status lt_jinja_enter(jinja_render *r)
{
    if (r->nesting < r->limits.depth * NESTING_PER_DEPTH) {
        r->nesting++;
        return LT_OK;
    }
    return lt_jinja_fail(r, LT_ERR_LIMIT, "expressions, blocks or values nested deeper than %lld",
                         (long long)r->limits.depth * NESTING_PER_DEPTH);
}

void lt_jinja_leave(jinja_render *r)
{
    r->nesting--;
}

/* --- Compiling --- */

static lt_status compile(lt_jinja *template_, const char *source, size_t size, lt_err *err)
{
    jinja_tokens tokens = {0};
    size_t valid = lt_utf8_valid_prefix(source, size);
    if (size > MAX_SOURCE)
        return lt_fail(err, LT_ERR_LIMIT, "%s: the template has %zu bytes; at most %d are read",
                       template_->where, size, MAX_SOURCE);
    if (valid != size)
        return lt_fail(err, LT_ERR_FORMAT, "%s: the template is not UTF-8 (byte %zu)",
                       template_->where, valid);
    LT_TRY(lt_jinja_tokenize(source, size, template_->where, &template_->region, &tokens, err));
    return lt_jinja_parse(template_, &tokens, err);
}

lt_status lt_jinja_compile(const char *source, size_t size, const char *where, lt_jinja **out,
                           lt_err *err)
{
    lt_jinja *template_ = calloc(1, sizeof *template_);
    *out = NULL;
    if (!template_) return lt_fail_nomem(err, sizeof *template_, "a template");
    template_->region.limit = TEMPLATE_MEMORY;
    template_->where = strdup(where);
    lt_status status = template_->where ? compile(template_, source, size, err)
                                        : lt_fail_nomem(err, strlen(where), "a template");
    if (status == LT_OK)
        *out = template_;
    else
        lt_jinja_free(template_);
    return status;
}

void lt_jinja_free(lt_jinja *template_)
{
    if (!template_) return;
    lt_jinja_region_free(&template_->region);
    free(template_->where);
    free(template_);
}

/* --- Rendering --- */

static lt_jinja_limits with_defaults(const lt_jinja_limits *given)
{
    lt_jinja_limits limits = given ? *given : (lt_jinja_limits){0};
    if (limits.steps <= 0) limits.steps = DEFAULT_STEPS;
    if (limits.depth <= 0) limits.depth = DEFAULT_DEPTH;
    if (limits.output <= 0) limits.output = DEFAULT_OUTPUT;
    if (limits.depth > LARGEST_DEPTH) limits.depth = LARGEST_DEPTH;
    if (limits.output > LARGEST_OUTPUT) limits.output = LARGEST_OUTPUT;
    return limits;
}

static lt_status render(jinja_render *r)
{
    size_t names = r->template_->name_count;
    LT_TRY(lt_jinja_alloc(r, names, sizeof *r->globals, &r->globals));
    LT_TRY(lt_jinja_alloc(r, names, 1, &r->global_state));
    LT_TRY(lt_jinja_execute(r, &r->template_->body));
    return LT_OK;
}

lt_status lt_jinja_render(const lt_jinja *template_, const json_t *variables,
                          const lt_jinja_mark *marks, size_t mark_count,
                          const lt_jinja_limits *limits, lt_jinja_text *out, lt_err *err)
{
    jinja_render r = {.template_ = template_,
                      .variables = variables,
                      .marks = marks,
                      .mark_count = mark_count,
                      .limits = with_defaults(limits),
                      .line = 1,
                      .err = err};
    *out = (lt_jinja_text){.has_generation = template_->has_generation};
    r.steps = r.limits.steps;
    r.region.limit = LEAST_MEMORY + MEMORY_PER_OUTPUT * (size_t)r.limits.output;
    lt_status status = render(&r);
    lt_jinja_region_free(&r.region);
    out->text = r.text;
    out->origin = r.origin;
    if (r.text.data) r.text.data[r.text.size] = r.origin.data[r.origin.size] = '\0';
    if (status != LT_OK) lt_jinja_text_free(out);
    return status;
}

void lt_jinja_text_free(lt_jinja_text *text)
{
    lt_buffer_free(&text->text);
    lt_buffer_free(&text->origin);
}
