/* Status codes and error messages: the one way anything in Lathe reports failure.
 *
 * A function that can fail returns lt_status (LT_OK is 0) and takes an lt_err for the message: what
 * went wrong, where (file, line, tensor, flag), and what to do about it. Libraries never print and
 * never exit; cli/ turns the status into an exit code. */
#ifndef LT_BASE_STATUS_H
#define LT_BASE_STATUS_H

#include <stdarg.h>

typedef enum lt_status {
    LT_OK = 0,
    LT_ERR_NOMEM = -1,       /* memory could not be had; the message says how much was asked for */
    LT_ERR_IO = -2,          /* the operating system refused: open, read, write, rename, space */
    LT_ERR_FORMAT = -3,      /* a file, record or text breaks its format */
    LT_ERR_LIMIT = -4,       /* well-formed, but a size is beyond what is supported or possible */
    LT_ERR_UNSUPPORTED = -5, /* well-formed, but a feature that Lathe does not have; it is named */
    LT_ERR_USAGE = -6,       /* a flag, setting or combination of them is wrong */
    LT_ERR_NUMERIC = -7,     /* the numbers went bad: loss or gradient is not finite */
    LT_ERR_INTERRUPTED = -8, /* a signal asked for an orderly stop, and it was carried out */
    LT_ERR_INTERNAL = -9,    /* Lathe broke its own rules: a bug, to be reported */
} lt_status;

/* A message for a person. The caller owns it; a zeroed one is empty. Passing NULL is allowed. */
typedef struct lt_err {
    lt_status code;
    char message[1024];
} lt_err;

/* Formats the message into *err (when not NULL) and returns `code`, so that
 * `return lt_fail(err, LT_ERR_FORMAT, "%s: header is cut short", path);` reads as one thought. */
lt_status lt_fail(lt_err *err, lt_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of a message that a callee has set; returns its code. */
lt_status lt_fail_context(lt_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* LT_ERR_NOMEM with the size that was asked for and the thing it was for. */
lt_status lt_fail_nomem(lt_err *err, unsigned long long bytes, const char *what);

/* Return, or jump to the one exit label, when `expr` is not LT_OK. */
#define LT_TRY(expr)                                        \
    do {                                                    \
        lt_status lt_try_status_ = (expr);                  \
        if (lt_try_status_ != LT_OK) return lt_try_status_; \
    } while (0)

#define LT_TRY_GOTO(status, expr, label)   \
    do {                                   \
        (status) = (expr);                 \
        if ((status) != LT_OK) goto label; \
    } while (0)

#endif
