#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* Lays out three blocks, the second of them released again; the same code measures and allocates.
 */
static unsigned char *layout(lt_arena *arena)
{
    unsigned char *first = lt_arena_alloc(arena, 10, 4);
    size_t mark = lt_arena_mark(arena);
    unsigned char *scratch = lt_arena_alloc(arena, 1000, 1);
    if (scratch) memset(scratch, 1, 1000);
    lt_arena_reset(arena, mark);
    unsigned char *last = lt_arena_alloc(arena, 3, 100);
    if (last) memset(last, 2, 300);
    return first;
}

static void the_plan_is_the_run(void **state)
{
    (void)state;
    lt_arena plan, arena;
    lt_arena_measure(&plan, "test");
    assert_null(layout(&plan));
    assert_int_equal(lt_arena_reserve(&arena, "test", plan.peak, (lt_memory){0}, NULL), LT_OK);
    unsigned char *first = layout(&arena);
    assert_int_equal((uintptr_t)first % LT_ARENA_ALIGNMENT, 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(first[i], 0); /* zero-filled, untouched by the neighbours */
    assert_int_equal(arena.used, plan.used);
    assert_int_equal(arena.peak, plan.peak);
    assert_int_equal(arena.capacity, plan.peak);
    lt_arena_release(&arena);
    lt_arena_release(&arena); /* harmless */
}

static void an_impossible_plan_can_not_be_reserved(void **state)
{
    (void)state;
    lt_arena plan, arena;
    lt_err err = {0};
    lt_arena_measure(&plan, "test");
    lt_arena_alloc(&plan, SIZE_MAX / 4, 8);
    lt_arena_alloc(&plan, SIZE_MAX / 4, 8);
    assert_true(plan.peak >= SIZE_MAX / 2);
    assert_int_equal(lt_arena_reserve(&arena, "test", plan.peak, (lt_memory){0}, &err),
                     LT_ERR_NOMEM);
    assert_int_equal(lt_arena_reserve(&arena, "test", SIZE_MAX, (lt_memory){0}, &err),
                     LT_ERR_NOMEM);
    lt_arena_release(&arena);
}

static void *none(void *context, size_t bytes)
{
    *(size_t *)context = bytes;
    return NULL;
}

static void other_memory_is_asked(void **state)
{
    (void)state;
    size_t asked = 0;
    lt_arena arena;
    lt_memory memory = {.allocate = none, .context = &asked};
    assert_int_equal(lt_arena_reserve(&arena, "device", 100, memory, NULL), LT_ERR_NOMEM);
    assert_int_equal(asked, LT_ARENA_ALIGNMENT);
    lt_arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_the_run),
        cmocka_unit_test(an_impossible_plan_can_not_be_reserved),
        cmocka_unit_test(other_memory_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
