/* faults.c: the linker's --wrap=f sends calls of f to __wrap_f, and __real_f is f. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAX_PLACES 256

/* A place in the code from which calls come. */
struct place {
    const void *address;
    int n_calls;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of places, n_places */
static struct place places[MAX_PLACES];
static int n_places;

static _Atomic(enum {OFF, COUNT, FAIL}) mode;
static _Atomic(const void *) armed;
static atomic_int n_left; /* calls from there up to the one that fails */
static _Atomic(const char *) failed;

void *__real_malloc(size_t n_bytes);
void *__real_calloc(size_t n, size_t n_bytes);
void *__real_realloc(void *old, size_t n_bytes);
void *__real_aligned_alloc(size_t alignment, size_t n_bytes);
char *__real_strdup(const char *text);
int __real_open(const char *path, int flags, ...);
int __real_fstat(int fd, struct stat *status);
void *__real_mmap(void *at, size_t n_bytes, int protection, int flags, int fd,
                  off_t from);
int __real_madvise(void *at, size_t n_bytes, int advice);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          void *(*run)(void *), void *argument);
int __real_sched_getaffinity(pid_t pid, size_t n_bytes, cpu_set_t *cpus);

void *__wrap_malloc(size_t n_bytes);
void *__wrap_calloc(size_t n, size_t n_bytes);
void *__wrap_realloc(void *old, size_t n_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes);
char *__wrap_strdup(const char *text);
int __wrap_open(const char *path, int flags, ...);
int __wrap_fstat(int fd, struct stat *status);
void *__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd,
                  off_t from);
int __wrap_madvise(void *at, size_t n_bytes, int advice);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          void *(*run)(void *), void *argument);
int __wrap_sched_getaffinity(pid_t pid, size_t n_bytes, cpu_set_t *cpus);

void
faults_count(void)
{
    n_places = 0;
    mode = COUNT;
}

int
faults_arm(int n)
{
    failed = NULL;
    for (int i = 0; i < n_places; i++) {
        if (n < places[i].n_calls) {
            armed = places[i].address;
            n_left = n + 1;
            mode = FAIL;
            return 1;
        }
        n -= places[i].n_calls;
    }
    return 0;
}

const char *
faults_disarm(void)
{
    mode = OFF;
    return failed;
}

static void
count_call(const void *address)
{
    pthread_mutex_lock(&mutex);
    int i = 0;
    while (i < n_places && places[i].address != address) {
        i++;
    }
    if (i == n_places) {
        if (n_places == MAX_PLACES) {
            abort();
        }
        places[n_places++] = (struct place){.address = address};
    }
    places[i].n_calls++;
    pthread_mutex_unlock(&mutex);
}

static bool
fails(const char *function, int error, const void *address)
{
    if (mode == COUNT) {
        count_call(address);
    }
    if (mode != FAIL || address != armed || atomic_fetch_sub(&n_left, 1) != 1) {
        return false;
    }
    failed = function;
    errno = error;
    return true;
}

void *
__wrap_malloc(size_t n_bytes)
{
    return fails("malloc", ENOMEM, __builtin_return_address(0))
               ? NULL
               : __real_malloc(n_bytes);
}

void *
__wrap_calloc(size_t n, size_t n_bytes)
{
    return fails("calloc", ENOMEM, __builtin_return_address(0))
               ? NULL
               : __real_calloc(n, n_bytes);
}

void *
__wrap_realloc(void *old, size_t n_bytes)
{
    return fails("realloc", ENOMEM, __builtin_return_address(0))
               ? NULL
               : __real_realloc(old, n_bytes);
}

void *
__wrap_aligned_alloc(size_t alignment, size_t n_bytes)
{
    return fails("aligned_alloc", ENOMEM, __builtin_return_address(0))
               ? NULL
               : __real_aligned_alloc(alignment, n_bytes);
}

char *
__wrap_strdup(const char *text)
{
    return fails("strdup", ENOMEM, __builtin_return_address(0)) ? NULL
                                                                : __real_strdup(text);
}

int
__wrap_open(const char *path, int flags, ...)
{
    return fails("open", EMFILE, __builtin_return_address(0))
               ? -1
               : __real_open(path, flags);
}

int
__wrap_fstat(int fd, struct stat *status)
{
    return fails("fstat", EIO, __builtin_return_address(0)) ? -1
                                                            : __real_fstat(fd, status);
}

void *
__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd, off_t from)
{
    return fails("mmap", ENOMEM, __builtin_return_address(0))
               ? MAP_FAILED
               : __real_mmap(at, n_bytes, protection, flags, fd, from);
}

int
__wrap_madvise(void *at, size_t n_bytes, int advice)
{
    return fails("madvise", EINVAL, __builtin_return_address(0))
               ? -1
               : __real_madvise(at, n_bytes, advice);
}

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                      void *(*run)(void *), void *argument)
{
    return fails("pthread_create", EAGAIN, __builtin_return_address(0))
               ? EAGAIN
               : __real_pthread_create(thread, attr, run, argument);
}

int
__wrap_sched_getaffinity(pid_t pid, size_t n_bytes, cpu_set_t *cpus)
{
    return fails("sched_getaffinity", EPERM, __builtin_return_address(0))
               ? -1
               : __real_sched_getaffinity(pid, n_bytes, cpus);
}
