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
    struct layout layout; /* owned             */
    struct gemm *gemm;    /* owned             */
    struct graphs graphs; /* owned             */
    struct stream stream; /* owned             */
    cudaEvent_t layer_done[LAYERS_AHEAD];
};

/* Returns the number of GPUs, at least one, or fails. */
int count_devices(struct qe_error *err);

/* As qe_cuda_table.memory. */
int device_memory(const struct qe_cuda_options *options, const struct qe_config *config,
                  struct qe_cuda_memory *memory, struct qe_error *err);

/* Opens a zeroed device and uploads the model's weights. */
int device_open(struct device *gpu, const struct qe_cuda_options *options,
                const struct qe_model *model, struct qe_error *err);

/* Uploads the tensors that are not NULL in the adapter's table; a pass may be running.
 * One caller at a time. */
int device_add_adapter(struct device *gpu, const struct qe_weights *adapter,
                       struct qe_error *err);

/* Returns the device's weights for a batch's table, or NULL if the table is neither the
 * model's nor an adapter's. */
const struct device_weights *device_weights_of(const struct device *gpu,
                                               const struct qe_weights *table);

/* Chooses plans for the products of the batch in layout that have none. */
int device_prepare(struct device *gpu, struct qe_error *err);

/* Accepts a half-opened device. */
void device_close(struct device *gpu);

#endif
