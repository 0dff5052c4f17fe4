/* adapter.h: weights that replace some of a model's own.
 *
 * An adapter is a whole table of weights, most of which point to the model's, so a
 * forward pass treats it like any other table. (If the model is unloaded, those
 * pointers are NULL: its device has copies and is given only the replaced tensors.)
 * Python merges the tensors; this file checks them and builds the table. */
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
