/* adapters.h: the weights of adapters on the device, beside the model's own.
 *
 * An adapter's table points to the model's tensors except for those that it replaces,
 * which have memory of their own, fused and padded alike. */
#ifndef QE_ADAPTERS_H
#define QE_ADAPTERS_H

#include "weights.h"

struct adapter {
    const struct qe_weights *name; /* identifies it in batches; not read */
    struct device_weights weights; /* owned: layers, and memory of replaced tensors */
    struct adapter *next;
};

/* The list only grows at its head, so that a running pass may search it. */
struct adapters {
    std::atomic<struct adapter *> first; /* owned */
};

/* Bytes of device memory for an adapter, whose replaced tensors are not NULL. */
size_t adapter_bytes(const struct qe_weights *changed, const struct device_weights *own,
                     const struct device_shape *shape);

/* Uploads the replaced tensors to the current device, whose index is device. config may
 * lack rope_inv_freq. One caller at a time. */
int adapters_add(struct adapters *adapters, const struct qe_weights *changed,
                 const struct device_weights *own, const struct device_shape *shape,
                 const struct qe_config *config, int device, struct qe_error *err);

/* Returns NULL if there is none of that name. */
const struct device_weights *adapters_find(const struct adapters *adapters,
                                           const struct qe_weights *name);

/* Accepts zeroed adapters. */
void adapters_close(struct adapters *adapters);

#endif
