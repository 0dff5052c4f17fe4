/* prefetch.c: asks the kernel for the pages, a piece at a time.
 *
 * On 1.2 GB in the page cache the faults of a first pass by two threads cost 55 ms;
 * behind other work of the start they cost nothing. The kernel holds the process's
 * memory map while it fills a piece, so pieces are small: with the whole file as one,
 * an mmap in another thread waited 58 ms, with these 3 ms (best of 7 runs each). */
#define _DEFAULT_SOURCE
#include "prefetch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model.h"
#include "thread.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older ones answer EINVAL */
#endif

#define PIECE_BYTES ((size_t)16 << 20)

struct qe_prefetch {
    struct qe_range *ranges; /* (n_ranges) owned                                      */
    size_t n_ranges;
    pthread_t thread;
    pid_t pid; /* of the process that has the thread                    */
    atomic_bool stop;
};

static void *
populate(void *argument)
{
    struct qe_prefetch *prefetch = argument;
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);

    for (size_t i = 0; i < prefetch->n_ranges; i++) {
        const struct qe_range *range = &prefetch->ranges[i];
        size_t before = (uintptr_t)range->start % page_bytes;
        const unsigned char *at = range->start - before;
        size_t n_left = range->n_bytes + before;
        while (n_left > 0) {
            size_t n_bytes = n_left < PIECE_BYTES ? n_left : PIECE_BYTES;
            if (atomic_load_explicit(&prefetch->stop, memory_order_relaxed) ||
                madvise((void *)at, n_bytes, MADV_POPULATE_READ) < 0) {
                return NULL;
            }
            at += n_bytes;
            n_left -= n_bytes;
        }
    }
    return NULL;
}

struct qe_prefetch *
qe_prefetch_open(struct qe_range *ranges, size_t n_ranges)
{
    struct qe_prefetch *prefetch = calloc(1, sizeof *prefetch);

    if (prefetch == NULL || ranges == NULL) {
        goto fail;
    }
    prefetch->ranges = ranges;
    prefetch->n_ranges = n_ranges;
    prefetch->pid = getpid();
    if (qe_thread_start(&prefetch->thread, populate, prefetch) != 0) {
        goto fail;
    }
    return prefetch;

fail:
    free(ranges);
    free(prefetch);
    return NULL;
}

void
qe_prefetch_close(struct qe_prefetch *prefetch)
{
    if (prefetch == NULL) {
        return;
    }
    if (prefetch->pid == getpid()) {
        atomic_store_explicit(&prefetch->stop, true, memory_order_relaxed);
        pthread_join(prefetch->thread, NULL);
    }
    free(prefetch->ranges);
    free(prefetch);
}

/* Of the embedding table a pass needs only some rows. Matrices that were rounded are in
 * memory already: going through them is quick. */
void
qe_model_prefetch(struct qe_model *model)
{
    const struct qe_config *c = &model->config;
    const size_t C = c->hidden_size, I = c->intermediate_size;
    const size_t q_width = (size_t)c->n_heads * c->head_dim;
    const size_t kv_width = (size_t)c->n_kv_heads * c->head_dim;
    const size_t max_ranges = 7 * (size_t)c->n_layers;
    struct qe_range *ranges = malloc(max_ranges * sizeof *ranges);
    size_t n_ranges = 0;

    for (int l = 0; ranges != NULL && l < c->n_layers; l++) {
        const struct qe_layer *layer = &model->weights.layers[l];
        const struct {
            const void *matrix;
            size_t n_elements;
        } parts[] = {
            {layer->k_proj, kv_width * C}, {layer->v_proj, kv_width * C},
            {layer->q_proj, q_width * C},  {layer->o_proj, q_width * C},
            {layer->gate_proj, I * C},     {layer->up_proj, I * C},
            {layer->down_proj, I * C},
        };
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            ranges[n_ranges++] = (struct qe_range){
                parts[i].matrix, parts[i].n_elements * (model->is_int8 ? 1 : 2)};
        }
    }
    model->prefetch = qe_prefetch_open(ranges, n_ranges);
}
