/* library.cu: the table that libqe_cuda.so exports, and the list of GPUs. */
#include <stdio.h>

#include "backend_cuda.h"
#include "cuda_error.h"
#include "device.h"

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

extern "C" {
extern __attribute__((visibility("default"))) const struct qe_cuda_table qe_cuda_table;
const struct qe_cuda_table qe_cuda_table = {
    .abi = QE_CUDA_ABI,
    .size = sizeof qe_cuda_table,
    .open = backend_cuda_open,
    .memory = device_memory,
    .list_devices = list_devices,
};
}
