/* error.h: the only way to report a failure.
 *
 * A function that can fail returns 0 or a negative enum qe_status, and takes a
 * struct qe_error, owned by its caller, as its last parameter. The message names the
 * thing, what was found and what was expected. */
#ifndef QE_ERROR_H
#define QE_ERROR_H

enum qe_status {
    QE_OK = 0,
    QE_EVALUE = -1,     /* an argument out of range                          */
    QE_ENOMEM = -2,     /* host memory                                       */
    QE_EIO = -3,        /* a file operation; os_errno says which             */
    QE_EFORMAT = -4,    /* an invalid model file                             */
    QE_ENONFINITE = -5, /* a result of sequence index with NaN or infinity   */
    QE_EDEVICE = -6,    /* device missing or failed                          */
    QE_EDEVICEMEM = -7, /* device memory                                     */
    QE_ECANCELLED = -8, /* the caller cancelled                              */
    QE_ECLOSED = -9,    /* the engine was closed                             */
};

struct qe_error {
    int status;        /* enum qe_status                                      */
    int os_errno;      /* errno of a QE_EIO, else 0                           */
    int index;         /* sequence of a QE_ENONFINITE or QE_EVALUE, else -1   */
    char message[512]; /* always terminated                                   */
};

/* Fills err and returns status, so that callers can `return qe_fail(...)`. */
int qe_fail(struct qe_error *err, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failed system call: appends strerror(errno) and keeps errno. */
int qe_fail_errno(struct qe_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
