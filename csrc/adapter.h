/* adapter.h: weights that stand in for some of a model's own.
 *
 * An adapter is a whole table of weights of which most point where the model's do, so a
 * forward pass takes either and never asks which. (Of an unloaded model that is
 * nowhere: a device with copies is given what differs.) Merging is Python's: here the
 * merged tensors are checked and put in their places. */
#ifndef QE_ADAPTER_H
#define QE_ADAPTER_H

#include "model.h"

struct qe_adapter {
    struct qe_weights weights; /* layers is owned */
    float *vectors;            /* owned storage of the fp32 vectors */
    size_t owned_bytes;
};

/* tensors (n_tensors), by names without "model.": matrices in BF16, borrowed for the
 * adapter's life; vectors in F32, copied. model must stay open as long. On failure
 * *adapter is left zeroed. */
int qe_adapter_open(const struct qe_model *model, const struct qe_tensor *tensors,
                    int n_tensors, struct qe_adapter *adapter, struct qe_error *err);

/* Accepts a zeroed or half-opened adapter. */
void qe_adapter_close(struct qe_adapter *adapter);

#endif
