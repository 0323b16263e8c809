/* One message for all calls of a test: those that must succeed, and those that must be refused. */
#ifndef LT_TEST_MESSAGE_H
#define LT_TEST_MESSAGE_H

#include "check.h"

static lt_err err;

static UNUSED void ok(lt_status status)
{
    if (status != LT_OK) fail_msg("%s", err.message);
}

static UNUSED void refused(lt_status status, lt_status expected, const char *words)
{
    assert_int_equal(status, expected);
    if (!strstr(err.message, words)) fail_msg("'%s' is not in: %s", words, err.message);
}

#endif
