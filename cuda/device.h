/* device.h: one GPU and all that an engine holds on it. */
#ifndef QE_DEVICE_H
#define QE_DEVICE_H

#include "attention.h"
#include "gemm.h"
#include "graphs.h"
#include "places.h"
#include "weights.h"
#include "workspace.h"

/* Layers of a large batch that may be queued ahead of the GPU, so that a cancelled
 * batch soon ends. */
#define LAYERS_AHEAD 2

struct device {
    int index;        /* as the driver counts           */
    int batch_tokens; /* budget of one pass             */
    int max_seqs;     /* in one pass                    */
    enum qe_compute_dtype dtype;
    char name[32];    /* "cuda:0"                       */
    char kernels[32]; /* "sm_90"                        */
    struct qe_config config;
    struct device_shape shape;
    struct device_weights weights; /* owned memory      */
    struct workspace ws;           /* owned             */
    struct attention attention;
    struct places places; /* owned             */
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

/* Accepts a half-opened device. */
void device_close(struct device *gpu);

#endif
