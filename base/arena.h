/* One arena per lifetime: weights, gradients, optimizer state, activations, scratch.
 *
 * The code that lays out an arena runs twice. First on a measuring arena, which hands out NULL and
 * only counts: that is the memory plan, exact, with no device and no allocation. Then, once the
 * plan has been accepted, on a reserved arena of just that size. So the plan can not disagree with
 * the run.
 *
 * Blocks are LT_ARENA_ALIGNMENT-aligned. Under AddressSanitizer host arenas keep a poisoned gap
 * after each block, so that running over its end is caught although the arena is one allocation. */
#ifndef LT_BASE_ARENA_H
#define LT_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define LT_ARENA_ALIGNMENT 256

/* Where an arena's memory comes from. The zero value is host memory. */
typedef struct lt_memory {
    void *(*allocate)(void *context, size_t bytes); /* NULL when there is none */
    void (*release)(void *context, void *base, size_t bytes);
    void *context;
} lt_memory;

typedef struct lt_arena {
    const char *name;    /* for messages and the memory table; borrowed */
    unsigned char *base; /* NULL while measuring; owned */
    size_t capacity;     /* 0 while measuring */
    size_t used;
    size_t peak; /* the most that was ever used */
    lt_memory memory;
} lt_arena;

/* Starts a measuring arena: every lt_arena_alloc returns NULL and adds to `used` and `peak`. */
void lt_arena_measure(lt_arena *arena, const char *name);

/* Makes the arena real, with room for `bytes`, zero-filled. LT_ERR_NOMEM if they can not be had. */
lt_status lt_arena_reserve(lt_arena *arena, const char *name, size_t bytes, lt_memory memory,
                           lt_err *err);
void lt_arena_release(lt_arena *arena);

/* count * size bytes, or NULL while measuring. Asking a reserved arena for more than was planned is
 * a bug in the plan and aborts, since nothing that a user gives can cause it. */
void *lt_arena_alloc(lt_arena *arena, size_t count, size_t size);

/* Stack discipline inside an arena: what was allocated after `mark` is given back. */
size_t lt_arena_mark(const lt_arena *arena);
void lt_arena_reset(lt_arena *arena, size_t mark);

#endif
