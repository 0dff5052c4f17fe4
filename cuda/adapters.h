/* adapters.h: adapters' tables of weights on the device, beside the model's own.
 *
 * An adapter's table leads to the model's tensors but for those that it changes, which
 * lie in memory of its own, fused and padded alike. */
#ifndef QE_ADAPTERS_H
#define QE_ADAPTERS_H

#include "weights.h"

struct adapter {
    const struct qe_weights *name; /* the table that batches bring; not read again */
    struct device_weights weights; /* owned: layers, and memory of what it changes */
    struct adapter *next;
};

/* The list only grows, at its head, so that a pass may search it meanwhile. */
struct adapters {
    std::atomic<struct adapter *> first; /* owned */
};

/* Device memory that an adapter takes: its changed tensors are not NULL. */
size_t adapter_bytes(const struct qe_weights *changed, const struct device_weights *own,
                     const struct device_shape *shape);

/* Copies the changed tensors to the current device, whose number is device. config may
 * lack rope_inv_freq. One caller at a time. */
int adapters_add(struct adapters *adapters, const struct qe_weights *changed,
                 const struct device_weights *own, const struct device_shape *shape,
                 const struct qe_config *config, int device, struct qe_error *err);

/* NULL: there is none of that name. */
const struct device_weights *adapters_find(const struct adapters *adapters,
                                           const struct qe_weights *name);

/* Accepts zeroed adapters. */
void adapters_close(struct adapters *adapters);

#endif
