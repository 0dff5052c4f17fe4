/* cuda_library.h: libqe_cuda.so, the CUDA backend in a library of its own.
 *
 * Nothing here needs CUDA to compile, to link or to load: the library is opened when a
 * caller first asks for a CUDA device. It exports one function, QE_CUDA_OPEN. */
#ifndef QE_CUDA_LIBRARY_H
#define QE_CUDA_LIBRARY_H

#include "backend.h"
#include "model.h"

#define QE_CUDA_ABI 1
#define QE_CUDA_OPEN "qe_cuda_open"

struct qe_cuda_options {
    uint32_t abi, size; /* QE_CUDA_ABI, sizeof; checked before all else            */
    int device;         /* index as the driver counts                              */
    int batch_tokens;   /* 0: chosen                                               */
    const char *cache_folder; /* where GEMM plans are kept; NULL: nowhere          */
};

/* Copies the weights to the device: the model may be closed afterwards. On failure
 * *backend is NULL. */
typedef int qe_cuda_open_function(const struct qe_cuda_options *options,
                                  const struct qe_model *model,
                                  struct qe_backend **backend, struct qe_error *err);

/* Where the two libraries may lie. */
struct qe_cuda_paths {
    const char *library;       /* libqe_cuda.so; NULL: this build has none         */
    const char *cublas_folder; /* of libcublasLt.so; NULL: the system's            */
};

/* Loads the libraries, if this process has not yet, and opens a backend. Fills in
 * options->abi and size. Fails with QE_EDEVICE and one sentence that says what is
 * missing. */
int qe_cuda_library_open(const struct qe_cuda_paths *paths,
                         const struct qe_cuda_options *options,
                         const struct qe_model *model, struct qe_backend **backend,
                         struct qe_error *err);

#endif
