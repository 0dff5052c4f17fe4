/* cuda_library.h: loads libqe_cuda.so, the CUDA backend.
 *
 * No CUDA is needed to compile, link or load this file: the library is opened when a
 * caller first asks for a CUDA device. It exports one table, QE_CUDA_TABLE. */
#ifndef QE_CUDA_LIBRARY_H
#define QE_CUDA_LIBRARY_H

#include "backend.h"
#include "model.h"

#define QE_CUDA_ABI 4
#define QE_CUDA_TABLE "qe_cuda_table"

#define QE_MAX_DEVICES 16

struct qe_cuda_options {
    int devices[QE_MAX_DEVICES]; /* (n_devices) the driver's indices; of several, each
                                    has some of the layers                         */
    int n_devices;
    int batch_tokens; /* 0: chosen                                                 */
    enum qe_compute_dtype dtype;
    enum qe_embedding embedding;
    const char *cache_folder; /* where GEMM plans are kept; NULL: nowhere          */
    const float *equalisers;  /* of all layers, see equaliser.h; NULL unless weights
                                 become int8. Read by open() alone                 */
};

/* The memory that an engine takes on one of its devices, in bytes. */
struct qe_cuda_memory {
    size_t weights;     /* on the device; the table of embeddings if it is there      */
    size_t activations; /* and all else that a pass writes                           */
    size_t spare;       /* of contexts, modules and cuBLAS, estimated                 */
    size_t host;        /* pinned: the table of embeddings if it is not on the device */
    size_t free, total; /* of the device, now                                        */
    int batch_tokens;   /* of a pass: as asked for, or chosen                         */
    int n_layers;       /* that the device has                                        */
};

struct qe_cuda_device {
    char name[128];   /* "NVIDIA H200"             */
    int major, minor; /* compute capability      */
    size_t memory_bytes;
};

struct qe_cuda_table {
    uint32_t abi, size; /* QE_CUDA_ABI and sizeof, checked before any other        */

    /* Uploads the weights; the model may be closed afterwards. On failure *backend is
     * NULL. */
    int (*open)(const struct qe_cuda_options *options, const struct qe_model *model,
                struct qe_backend **backend, struct qe_error *err);

    /* Computes what open() would take of each device (n_devices) for a model of this
     * shape, without opening it. QE_EMBEDDING_AUTO counts as QE_EMBEDDING_DEVICE. */
    int (*memory)(const struct qe_cuda_options *options, const struct qe_config *config,
                  struct qe_cuda_memory *memory, struct qe_error *err);

    /* Describes the first max_devices. Returns the number of devices, at least one, or
     * fails with QE_EDEVICE. */
    int (*list_devices)(struct qe_cuda_device *devices, int max_devices,
                        struct qe_error *err);
};

/* Where to look for the two libraries. */
struct qe_cuda_paths {
    const char *library;       /* libqe_cuda.so; NULL: this build has none         */
    const char *cublas_folder; /* of libcublasLt.so; NULL: the system's            */
};

/* Loads the libraries unless this process already has. Fails with QE_EDEVICE and one
 * sentence that names the missing part. */
int qe_cuda_library_load(const struct qe_cuda_paths *paths,
                         const struct qe_cuda_table **table, struct qe_error *err);

#endif
