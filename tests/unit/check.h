/* cmocka with the headers that it needs, and calls that must succeed. */
#ifndef LT_TEST_CHECK_H
#define LT_TEST_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"

#define UNUSED __attribute__((unused))

/* A call whose lt_err * is `err`; ends the test with its message when it fails. */
#define OK(call)                                                                         \
    do {                                                                                 \
        lt_err ok_err_ = {0}, *err = &ok_err_;                                           \
        lt_status ok_status_ = (call);                                                   \
        if (ok_status_ != LT_OK) fail_msg("%s: %d %s", #call, ok_status_, err->message); \
    } while (0)

static UNUSED void must(lt_status status, const lt_err *err)
{
    if (status != LT_OK) fail_msg("%s", err->message);
}

#endif
