/* device.h: one GPU and all that an engine holds on it. */
#ifndef QE_DEVICE_H
#define QE_DEVICE_H

#include "adapters.h"
#include "attention/attention.h"
#include "products/gemm.h"
#include "graphs.h"
#include "layout.h"
#include "weights.h"
#include "workspace.h"

/* Layers of a large batch that may be queued ahead of the GPU, so that a cancelled
 * batch soon ends. */
#define LAYERS_AHEAD 2

struct device {
    int index;        /* as the driver counts           */
    int batch_tokens; /* budget of one pass             */
    int max_seqs;     /* in one pass                    */
    char name[32];    /* "cuda:0"                       */
    char kernels[32]; /* "sm_90"                        */
    struct qe_config config;
    struct device_shape shape;
    const struct qe_weights *own; /* the model's table, as batches bring it; not read */
    struct device_weights weights; /* owned; the model's own */
    struct adapters adapters;      /* owned             */
    struct workspace ws;           /* owned             */
    struct attention attention;
    struct layout layout; /* owned             */
    struct gemm *gemm;    /* owned             */
    struct graphs graphs; /* owned             */
    cudaStream_t stream;
    cudaEvent_t layer_done[LAYERS_AHEAD];
};

/* GPUs of this machine, at least one. */
int count_devices(struct qe_error *err);

/* Fills a zeroed device: the model's weights are on it when this returns 0. */
int device_open(struct device *gpu, const struct qe_cuda_options *options,
                const struct qe_model *model, struct qe_error *err);

/* Copies the tensors that the adapter's table does not leave NULL, beside whatever
 * runs. One caller at a time. */
int device_add_adapter(struct device *gpu, const struct qe_weights *adapter,
                       struct qe_error *err);

/* The weights of a batch that brings this table; NULL: it is neither the model's nor an
 * adapter's. */
const struct device_weights *device_weights_of(const struct device *gpu,
                                               const struct qe_weights *table);

/* Tries plans for the products of the batch in layout, as far as there are none. */
int device_prepare(struct device *gpu, struct qe_error *err);

/* Accepts a half-opened device. */
void device_close(struct device *gpu);

#endif
