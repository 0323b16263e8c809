#include "base/status.h"

#include <stdio.h>
#include <string.h>

lt_status lt_fail(lt_err *err, lt_status code, const char *format, ...)
{
    if (!err) return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    err->code = code;
    return code;
}

lt_status lt_fail_context(lt_err *err, const char *format, ...)
{
    if (!err) return LT_ERR_FORMAT;
    char context[512];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);

    char message[sizeof err->message];
    memcpy(message, err->message, sizeof message);
    int used = snprintf(err->message, sizeof err->message, "%s: ", context);
    snprintf(err->message + used, sizeof err->message - (size_t)used, "%s", message);
    return err->code;
}

lt_status lt_fail_nomem(lt_err *err, unsigned long long bytes, const char *what)
{
    return lt_fail(err, LT_ERR_NOMEM, "out of memory: %.1f MiB wanted for %s", bytes / 1048576.0,
                   what);
}
