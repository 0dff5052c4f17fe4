/* device.h: one GPU and everything that an engine owns on it. */
#ifndef QE_DEVICE_H
#define QE_DEVICE_H

#include "adapters.h"
#include "attention/attention.h"
#include "products/gemm.h"
#include "graphs.h"
#include "layout.h"
#include "weights.h"
#include "workspace.h"

/* Layers of a large batch that may be queued ahead of the GPU. The fewer they are, the
 * sooner a cancelled batch ends. */
#define LAYERS_AHEAD 2

struct device {
    int index;                /* as the driver counts           */
    int batch_tokens;         /* budget of one pass             */
    int max_seqs;             /* in one pass                    */
    char name[32];            /* "cuda:0"                       */
    char kernels[32];         /* "sm_90"                        */
    char note[QE_NOTE_BYTES]; /* "", or why the table of embeddings is on the host */
    struct qe_config config;
    struct device_shape shape;
    const struct qe_weights
        *own; /* identifies the model's weights in batches; not read */
    struct device_weights weights; /* owned; the model's own */
    struct adapters adapters;      /* owned             */
    struct workspace ws;           /* owned             */
    struct attention attention;
    struct layout layouts[2]; /* owned; the second one only if it is a stage */
    struct gemm *gemm;        /* owned             */
    struct graphs graphs;     /* owned             */
    struct stream stream;     /* owned             */
    cudaEvent_t layer_done[LAYERS_AHEAD];
};

/* Returns the number of GPUs, at least one, or fails. */
int count_devices(struct qe_error *err);

/* What is asked before a model is split over GPUs, or memory is counted. */
struct device_facts {
    int n_multiprocessors;
    size_t free_bytes, total_bytes;
};

int device_look(int index, struct device_facts *facts, struct qe_error *err);

/* The memory of an engine, or of a stage, without that which is free. */
struct qe_cuda_memory device_memory_of(const struct device_shape *shape,
                                       int batch_tokens, int max_length);

/* Tokens in a pass: as asked for, unless that is 0. */
int device_batch_tokens(const struct device_facts *facts, int asked);

/* Opens a zeroed device, the GPU of that index, and uploads the weights of some layers.
 * The options' devices are not read. */
int device_open(struct device *gpu, int index, struct layer_range layers,
                const struct qe_cuda_options *options, const struct qe_model *model,
                struct qe_error *err);

/* Uploads the tensors that are not NULL in the adapter's table; a pass may be running.
 * One caller at a time. */
int device_add_adapter(struct device *gpu, const struct qe_weights *adapter,
                       struct qe_error *err);

/* Returns the device's weights for a batch's table, or NULL if the table is neither the
 * model's nor an adapter's. */
const struct device_weights *device_weights_of(const struct device *gpu,
                                               const struct qe_weights *table);

/* Chooses plans for the products of a batch that have none. The device must be current,
 * and no pass under way on it. */
int device_prepare(struct device *gpu, const struct layout *layout,
                   struct qe_error *err);

/* Fails: no device survives fork(). */
int device_after_fork(const char *name, struct qe_error *err);

/* Accepts a half-opened device. */
void device_close(struct device *gpu);

#endif
