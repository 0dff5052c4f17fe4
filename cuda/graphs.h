/* graphs.h: forward passes of few tokens as CUDA graphs: their kernels take less time
 * than the host needs to launch them. */
#ifndef QE_GRAPHS_H
#define QE_GRAPHS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

/* Batches with equal keys queue the same kernels on the same addresses. */
struct graph_key {
    const void *weights; /* identifies the weights that products read */
    int n_rows, n_last, n_tall, n_short, n_last_tall, n_last_short;
    bool raw;
};

struct graph {
    struct graph_key key;
    cudaGraphExec_t exec; /* owned; NULL: not recorded */
    uint64_t n_uses;
    uint64_t last_use; /* 0: this entry is free */
};

#define MAX_GRAPHS 128

struct graphs {
    struct graph graphs[MAX_GRAPHS];
    uint64_t n_uses;
};

/* Counts a use of the key's graph. A new key evicts the least recently used one and has
 * an empty graph. */
struct graph *graphs_use(struct graphs *graphs, const struct graph_key *key);

/* Begins to record the work queued on the stream, which then does not run. */
cudaError_t graph_begin(cudaStream_t stream);

/* Ends it. The graph stays empty unless all work was recorded, as complete says, and
 * the device has room for it. */
void graph_end(struct graph *graph, bool complete, cudaStream_t stream);

/* Accepts zeroed graphs. */
void graphs_close(struct graphs *graphs);

#endif
