/* error.c: formats messages into the caller's struct; no allocation, no output. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void
set_message(struct qe_error *err, int status, const char *format, va_list args)
{
    err->status = status;
    err->os_errno = 0;
    err->index = -1;
    vsnprintf(err->message, sizeof err->message, format, args);
}

int
qe_fail(struct qe_error *err, int status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_message(err, status, format, args);
    va_end(args);
    return status;
}

int
qe_fail_errno(struct qe_error *err, const char *format, ...)
{
    va_list args;
    int os_errno = errno;

    va_start(args, format);
    set_message(err, os_errno == ENOMEM ? QE_ENOMEM : QE_EIO, format, args);
    va_end(args);
    err->os_errno = os_errno;
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s",
             strerror(os_errno));
    return err->status;
}
