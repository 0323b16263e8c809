/* For loops and the variable `loop`. Items are fetched one at a time, as Jinja2 does, because what
 * the body sets may decide which items the filter of the loop lets through. */
#include <stdio.h>
#include <string.h>

#include "data_pipeline/jinja/syntax.h"

typedef struct jinja_loop {
    const jinja_node *node;
    jinja_scope *outer; /* around the loop */
    jinja_value iterable;
    jinja_iterator own, *source; /* `own`, or a generator's */
    bool filtered;               /* what the source gives has passed the filter */
    int64_t index0, depth0;
    jinja_value before, current, after, changed;
    bool has_after, has_changed; /* after: already fetched */
    bool has_length;
    size_t length;
} jinja_loop;

/* --- Fetching --- */

static lt_status passes(jinja_render *r, jinja_loop *loop, jinja_value item, bool *out)
{
    jinja_scope *scope = r->scope;
    jinja_value result;
    *out = true;
    if (!loop->node->loop.filter || loop->filtered) return LT_OK;
    LT_TRY(lt_jinja_push_scope(r, loop->outer));
    LT_TRY(lt_jinja_assign(r, loop->node->loop.target, item));
    LT_TRY(lt_jinja_evaluate(r, loop->node->loop.filter, &result));
    *out = lt_jinja_truth(result);
    r->scope = scope;
    return LT_OK;
}

static lt_status fetch(jinja_render *r, jinja_loop *loop, bool *found, jinja_value *out)
{
    bool good = false;
    while (!good) {
        LT_TRY(lt_jinja_spend(r, 1));
        LT_TRY(lt_jinja_next(r, loop->source, found, out));
        if (!*found) return LT_OK;
        LT_TRY(passes(r, loop, *out, &good));
    }
    return LT_OK;
}

static lt_status look_ahead(jinja_render *r, jinja_loop *loop)
{
    return loop->has_after ? LT_OK : fetch(r, loop, &loop->has_after, &loop->after);
}

static lt_status advance(jinja_render *r, jinja_loop *loop, bool *found)
{
    jinja_value item = loop->after;
    *found = true;
    if (!loop->has_after) LT_TRY(fetch(r, loop, found, &item));
    if (!*found) return LT_OK;
    loop->has_after = false;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return LT_OK;
}

lt_status lt_jinja_loop_size(jinja_render *r, jinja_loop *loop, size_t *out)
{
    *out = loop->length;
    if (loop->has_length) return LT_OK;
    bool counted = loop->iterable.kind != JINJA_ITERATOR && !loop->node->loop.filter;
    if (counted) {
        LT_TRY(lt_jinja_size(r, loop->iterable, &loop->length));
    } else {
        jinja_growing rest = {0};
        bool found = true;
        while (true) {
            jinja_value item;
            LT_TRY(fetch(r, loop, &found, &item));
            if (!found) break;
            LT_TRY(lt_jinja_push(r, &rest, item));
        }
        loop->source = &loop->own;
        loop->own = (jinja_iterator){0};
        loop->filtered = true;
        LT_TRY(lt_jinja_grown(r, &rest, JINJA_LIST, &loop->own.source));
        loop->length = rest.count + (size_t)loop->index0 + 1 + loop->has_after;
    }
    loop->has_length = true;
    *out = loop->length;
    return LT_OK;
}

/* --- loop.* --- */

typedef enum field {
    INDEX,
    INDEX0,
    REVERSE_INDEX,
    REVERSE_INDEX0,
    FIRST,
    LAST,
    LENGTH,
    DEPTH,
    DEPTH0,
    PREVIOUS,
    NEXT,
} field;

static const char *const fields[] = {[INDEX] = "index",
                                     [INDEX0] = "index0",
                                     [REVERSE_INDEX] = "revindex",
                                     [REVERSE_INDEX0] = "revindex0",
                                     [FIRST] = "first",
                                     [LAST] = "last",
                                     [LENGTH] = "length",
                                     [DEPTH] = "depth",
                                     [DEPTH0] = "depth0",
                                     [PREVIOUS] = "previtem",
                                     [NEXT] = "nextitem"};
enum { FIELDS = sizeof fields / sizeof *fields };

static lt_status neighbour(jinja_render *r, jinja_loop *loop, bool next, jinja_value *out)
{
    if (next) LT_TRY(look_ahead(r, loop));
    *out = next ? loop->after : loop->before;
    if (next ? loop->has_after : loop->index0 > 0) return LT_OK;
    return lt_jinja_undefined(r, next ? "there is no next item" : "there is no previous item", out);
}

static lt_status get_field(jinja_render *r, jinja_loop *loop, field which, jinja_value *out)
{
    size_t length = 0;
    if (which == REVERSE_INDEX || which == REVERSE_INDEX0 || which == LENGTH)
        LT_TRY(lt_jinja_loop_size(r, loop, &length));
    switch (which) {
    case INDEX:
        *out = lt_jinja_int(loop->index0 + 1);
        return LT_OK;
    case INDEX0:
        *out = lt_jinja_int(loop->index0);
        return LT_OK;
    case REVERSE_INDEX:
        *out = lt_jinja_int((int64_t)length - loop->index0);
        return LT_OK;
    case REVERSE_INDEX0:
        *out = lt_jinja_int((int64_t)length - loop->index0 - 1);
        return LT_OK;
    case FIRST:
        *out = lt_jinja_bool(loop->index0 == 0);
        return LT_OK;
    case LAST:
        LT_TRY(look_ahead(r, loop));
        *out = lt_jinja_bool(!loop->has_after);
        return LT_OK;
    case LENGTH:
        *out = lt_jinja_int((int64_t)length);
        return LT_OK;
    case DEPTH:
        *out = lt_jinja_int(loop->depth0 + 1);
        return LT_OK;
    case DEPTH0:
        *out = lt_jinja_int(loop->depth0);
        return LT_OK;
    default:
        return neighbour(r, loop, which == NEXT, out);
    }
}

static lt_status cycle(jinja_render *r, jinja_value self, const jinja_call *call, jinja_value *out)
{
    if (call->named_count)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "cycle() got an unexpected keyword argument");
    if (call->count == 0) return lt_jinja_fail(r, LT_ERR_FORMAT, "no items for cycling given");
    *out = call->positional[(size_t)self.loop->index0 % call->count];
    return LT_OK;
}

static lt_status changed(jinja_render *r, jinja_value self, const jinja_call *call,
                         jinja_value *out)
{
    jinja_loop *loop = self.loop;
    jinja_value values;
    bool same = false;
    if (call->named_count)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "changed() got an unexpected keyword argument");
    LT_TRY(lt_jinja_make_list(r, JINJA_TUPLE, call->positional, call->count, &values));
    if (loop->has_changed) LT_TRY(lt_jinja_equal(r, loop->changed, values, &same));
    loop->changed = values;
    loop->has_changed = true;
    *out = lt_jinja_bool(!same);
    return LT_OK;
}

lt_status lt_jinja_loop_attribute(jinja_render *r, jinja_loop *loop, const jinja_string *name,
                                  bool *found, jinja_value *out)
{
    static const jinja_builtin methods[] = {{"cycle", "", 0, NULL, cycle},
                                            {"changed", "", 0, NULL, changed}};
    static const jinja_builtins table = {methods, sizeof methods / sizeof *methods};
    *found = true;
    for (int i = 0; i < FIELDS; i++) {
        if (lt_jinja_is(name, fields[i])) return get_field(r, loop, (field)i, out);
    }
    const jinja_builtin *builtin = lt_jinja_find_builtin(&table, name->bytes, name->size);
    *found = builtin != NULL;
    if (!builtin) return LT_OK;
    jinja_method *method;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *method, &method));
    *method = (jinja_method){{.kind = JINJA_LOOP, .loop = loop}, builtin};
    *out = (jinja_value){.kind = JINJA_METHOD, .method = method};
    return LT_OK;
}

lt_status lt_jinja_put_loop(jinja_render *r, jinja_loop *loop)
{
    char text[80];
    size_t length;
    LT_TRY(lt_jinja_loop_size(r, loop, &length));
    int size =
        snprintf(text, sizeof text, "<LoopContext %lld/%zu>", (long long)loop->index0 + 1, length);
    return lt_jinja_put_bytes(r, text, (size_t)size, LT_JINJA_TEMPLATE);
}

/* --- Running --- */

/* *completed: a body ran to its end; one that was left by break or continue does not count, so that
 * the else block runs (as in Jinja2). */
static lt_status run(jinja_render *r, jinja_loop *loop, bool *completed)
{
    const jinja_node *node = loop->node;
    *completed = false;
    LT_TRY(lt_jinja_push_scope(r, loop->outer));
    jinja_scope *scope = r->scope;
    while (true) {
        bool found;
        LT_TRY(advance(r, loop, &found));
        if (!found) break;
        scope->count = 0;
        LT_TRY(lt_jinja_bind(r, NAME_LOOP, (jinja_value){.kind = JINJA_LOOP, .loop = loop}));
        LT_TRY(lt_jinja_assign(r, node->loop.target, loop->current));
        LT_TRY(lt_jinja_execute(r, &node->loop.body));
        jinja_flow flow = r->flow;
        r->flow = JINJA_ON;
        *completed |= flow == JINJA_ON;
        if (flow == JINJA_BREAK) break;
    }
    r->scope = loop->outer;
    return LT_OK;
}

static lt_status run_for(jinja_render *r, const jinja_node *node, jinja_scope *outer,
                         jinja_value iterable, int64_t depth)
{
    jinja_loop *loop;
    bool completed;
    jinja_scope *scope = r->scope;
    LT_TRY(lt_jinja_alloc(r, 1, sizeof *loop, &loop));
    *loop = (jinja_loop){
        .node = node, .outer = outer, .iterable = iterable, .index0 = -1, .depth0 = depth};
    LT_TRY(lt_jinja_iterate(r, iterable, &loop->own));
    loop->source = iterable.kind == JINJA_ITERATOR ? iterable.iterator : &loop->own;
    LT_TRY(run(r, loop, &completed));
    if (!completed && node->loop.otherwise.count) {
        LT_TRY(lt_jinja_push_scope(r, outer));
        LT_TRY(lt_jinja_execute(r, &node->loop.otherwise));
    }
    r->scope = scope;
    return LT_OK;
}

lt_status lt_jinja_execute_for(jinja_render *r, const jinja_node *node)
{
    jinja_value iterable;
    LT_TRY(lt_jinja_evaluate(r, node->loop.iterable, &iterable));
    return run_for(r, node, r->scope, iterable, 0);
}

/* loop(items) in a recursive loop: the whole loop over those items, as text. */
lt_status lt_jinja_call_loop(jinja_render *r, jinja_loop *loop, const jinja_call *call,
                             jinja_value *out)
{
    if (!loop->node->loop.recursive)
        return lt_jinja_fail(r, LT_ERR_FORMAT,
                             "The loop must have the 'recursive' marker to be called recursively.");
    if (call->count != 1 || call->named_count)
        return lt_jinja_fail(r, LT_ERR_FORMAT, "loop() takes one argument");
    LT_TRY(lt_jinja_begin_call(r));
    jinja_pad pad = lt_jinja_begin(r);
    LT_TRY(run_for(r, loop->node, loop->outer, call->positional[0], loop->depth0 + 1));
    LT_TRY(lt_jinja_end(r, pad, out));
    r->calls--;
    return LT_OK;
}
