/* graphs.h: forward passes of few tokens as CUDA graphs, since their kernels are over
 * sooner than the host can launch the next. */
#ifndef QE_GRAPHS_H
#define QE_GRAPHS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

/* Batches that queue the same kernels over the same addresses. */
struct graph_key {
    const void *weights; /* whatever stands for what products read */
    int n_rows, n_last, n_tall, n_short, n_last_tall;
};

struct graph {
    struct graph_key key;
    cudaGraphExec_t exec; /* owned; NULL: not captured, or not yet */
    uint64_t n_uses;
    uint64_t last_use; /* 0: a free place */
};

#define MAX_GRAPHS 64

struct graphs {
    struct graph graphs[MAX_GRAPHS];
    uint64_t n_uses;
};

/* Counts a use of the key's graph. A new key takes the place that was used the longest
 * ago; its graph is empty. */
struct graph *graphs_use(struct graphs *graphs, const struct graph_key *key);

/* Begins to record what is queued on the stream, which then does not run. */
cudaError_t graph_begin(cudaStream_t stream);

/* Ends it. A graph that the device has no room for stays empty, which is no failure. */
cudaError_t graph_end(struct graph *graph, cudaStream_t stream);

/* Accepts zeroed graphs. */
void graphs_close(struct graphs *graphs);

#endif
