/* What every reader is tested with: its corpus, which is included before this. */
#ifndef LT_TESTS_CORPUS_TESTS_H
#define LT_TESTS_CORPUS_TESTS_H

#include "base/status.h"

/* The reader, on a file called "hostile"; closes what it has opened. */
static lt_status read_hostile(const unsigned char *bytes, size_t size, lt_err *err);

static void corpus_is_judged_right(void **state)
{
    (void)state;
    for (int i = 0; i < CORPUS_COUNT; i++) {
        size_t size;
        unsigned char *bytes = corpus_bytes(&corpus[i], &size);
        lt_err err = {0};
        lt_status status = read_hostile(bytes, size, &err);
        if ((status == LT_OK) != corpus[i].valid)
            fail_msg("%s: status %d, %s", corpus[i].name, status, err.message);
        if (status != LT_OK) assert_non_null(strstr(err.message, "hostile"));
        free(bytes);
    }
}

/* No beginning of a valid file is valid. */
static void every_cut_is_refused(void **state)
{
    (void)state;
    size_t size;
    unsigned char *bytes = corpus_bytes(&corpus[0], &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *part = malloc(cut + 1); /* its own block, so that a read beyond is seen */
        memcpy(part, bytes, cut);
        assert_int_equal(read_hostile(part, cut, NULL), LT_ERR_FORMAT);
        free(part);
    }
    free(bytes);
}

#endif
