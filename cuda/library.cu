/* library.cu: the table that libqe_cuda.so exports, and the list of GPUs. */
#include <stdio.h>

#include "backend_cuda.h"
#include "cuda_error.h"
#include "device.h"
#include "split_backend.h"
#include "stages.h"

static int
list_devices(struct qe_cuda_device *devices, int max_devices, struct qe_error *err)
{
    const int n_devices = count_devices(err);

    for (int i = 0; i < n_devices && i < max_devices; i++) {
        cudaDeviceProp properties;
        CUDA_TRY(err, cudaGetDeviceProperties(&properties, i));
        snprintf(devices[i].name, sizeof devices[i].name, "%s", properties.name);
        devices[i].major = properties.major;
        devices[i].minor = properties.minor;
        devices[i].memory_bytes = properties.totalGlobalMem;
    }
    return n_devices;
}

static int
open_backend(const struct qe_cuda_options *options, const struct qe_model *model,
             struct qe_backend **backend, struct qe_error *err)
{
    return options->n_devices == 1 ? backend_cuda_open(options, model, backend, err)
                                   : split_backend_open(options, model, backend, err);
}

extern "C" {
extern __attribute__((visibility("default"))) const struct qe_cuda_table qe_cuda_table;
const struct qe_cuda_table qe_cuda_table = {
    .abi = QE_CUDA_ABI,
    .size = sizeof qe_cuda_table,
    .open = open_backend,
    .memory = stages_memory,
    .list_devices = list_devices,
};
}
