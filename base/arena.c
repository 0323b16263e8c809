#include "base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define LT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LT_ASAN 1
#endif
#endif

#ifdef LT_ASAN
#include <sanitizer/asan_interface.h>
#define REDZONE            LT_ARENA_ALIGNMENT
#define POISON(p, bytes)   __asan_poison_memory_region((p), (bytes))
#define UNPOISON(p, bytes) __asan_unpoison_memory_region((p), (bytes))
#else
#define REDZONE            0
#define POISON(p, bytes)   ((void)(p), (void)(bytes))
#define UNPOISON(p, bytes) ((void)(p), (void)(bytes))
#endif

/* Anonymous maps come zero-filled and page-aligned, and cost nothing until touched. */
static void *host_allocate(void *context, size_t bytes)
{
    (void)context;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    madvise(base, bytes, MADV_HUGEPAGE);
    return base;
}

static void host_release(void *context, void *base, size_t bytes)
{
    (void)context;
    munmap(base, bytes);
}

static int is_host(const lt_arena *arena)
{
    return arena->memory.allocate == host_allocate;
}

void lt_arena_measure(lt_arena *arena, const char *name)
{
    *arena = (lt_arena){.name = name};
}

lt_status lt_arena_reserve(lt_arena *arena, const char *name, size_t bytes, lt_memory memory,
                           lt_err *err)
{
    if (!memory.allocate) memory = (lt_memory){.allocate = host_allocate, .release = host_release};
    *arena = (lt_arena){.name = name, .memory = memory};
    arena->capacity = lt_align_up(bytes ? bytes : 1, LT_ARENA_ALIGNMENT);
    arena->base = memory.allocate(memory.context, arena->capacity);
    if (!arena->base) {
        arena->capacity = 0;
        return lt_fail_nomem(err, bytes, name);
    }
    if (is_host(arena)) POISON(arena->base, arena->capacity);
    return LT_OK;
}

void lt_arena_release(lt_arena *arena)
{
    if (arena->base) {
        if (is_host(arena)) UNPOISON(arena->base, arena->capacity);
        arena->memory.release(arena->memory.context, arena->base, arena->capacity);
    }
    *arena = (lt_arena){0};
}

void *lt_arena_alloc(lt_arena *arena, size_t count, size_t size)
{
    size_t bytes, end;
    if (!lt_mul_size(count, size, &bytes) || !lt_add_size(bytes, REDZONE, &end) ||
        !lt_add_size(end, LT_ARENA_ALIGNMENT, &end) || !lt_add_size(arena->used, end, &end)) {
        if (!arena->base) { /* an impossible plan: let the caller's size check refuse it */
            arena->used = arena->peak = SIZE_MAX / 2;
            return NULL;
        }
        fprintf(stderr, "arena %s: size overflow\n", arena->name);
        abort();
    }
    size_t start = arena->used;
    arena->used = lt_align_up(start + bytes + REDZONE, LT_ARENA_ALIGNMENT);
    if (arena->used > arena->peak) arena->peak = arena->used;
    if (!arena->base) return NULL;
    if (arena->used > arena->capacity) {
        fprintf(stderr, "arena %s: %zu bytes planned, %zu needed\n", arena->name, arena->capacity,
                arena->used);
        abort();
    }
    if (is_host(arena)) UNPOISON(arena->base + start, bytes);
    return arena->base + start;
}

size_t lt_arena_mark(const lt_arena *arena)
{
    return arena->used;
}

void lt_arena_reset(lt_arena *arena, size_t mark)
{
    if (arena->base && is_host(arena)) POISON(arena->base + mark, arena->used - mark);
    arena->used = mark;
}
