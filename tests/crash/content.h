/* What save_victim writes and the crash tests expect to find: file `number` of generation
 * `generation` is CONTENT_SIZE(number) bytes that depend on both. */
#ifndef LT_TESTS_CRASH_CONTENT_H
#define LT_TESTS_CRASH_CONTENT_H

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { FILE_COUNT = 3, CONTENT_MAX = 40000 };

#define CONTENT_SIZE(number) ((size_t)10000 * ((size_t)(number) + 1) + 7)

static inline void fill_content(int generation, int number, unsigned char out[CONTENT_MAX])
{
    for (size_t i = 0; i < CONTENT_SIZE(number); i++)
        out[i] = (unsigned char)(i * 31 + i / 251 + (size_t)generation * 17 + (size_t)number * 5);
    char head[32] = {0};
    snprintf(head, sizeof head, "generation %d file %d\n", generation, number);
    memcpy(out, head, sizeof head);
}

#endif
