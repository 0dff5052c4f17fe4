/* thread.h: starts a thread of the engine. */
#ifndef QE_THREAD_H
#define QE_THREAD_H

#include <pthread.h>
#include <signal.h>

/* As pthread_create() with default attributes, but the thread blocks all signals, which
 * are for the threads of the program. */
static inline int
qe_thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

#endif
