/* cuda_library.c: loads libcublasLt, then libqe_cuda.so, which finds it by its name
 * among the loaded libraries. The driver is tried first, because without one there is
 * no use in installing the rest.
 *
 * The libraries are never unloaded: a CUDA runtime does not survive that. Loading them
 * again only counts references, so this file keeps no state. */
#include "cuda_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define DRIVER_LIBRARY "libcuda.so.1"
#define CUBLAS_LIBRARY "libcublasLt.so.13"

/* Returns NULL on success, else the reason. */
static const char *
load(const char *path)
{
    if (dlopen(path, RTLD_NOW | RTLD_LOCAL) != NULL) {
        return NULL;
    }
    const char *reason = dlerror();
    return reason == NULL ? "not loaded, no reason given" : reason;
}

/* Sets reasons to why each place failed, or to "" if one did not. */
static void
load_cublas(const char *folder, char *reasons, size_t n_reasons)
{
    char path[4096];
    size_t used = 0;
    const char *reason;

    reasons[0] = '\0';
    if (folder != NULL) {
        snprintf(path, sizeof path, "%s/%s", folder, CUBLAS_LIBRARY);
        reason = load(path);
        if (reason == NULL) {
            return;
        }
        used = (size_t)snprintf(reasons, n_reasons, "%s; ", reason);
    }
    reason = load(CUBLAS_LIBRARY);
    if (reason == NULL) {
        reasons[0] = '\0';
    } else if (used < n_reasons) {
        snprintf(reasons + used, n_reasons - used, "%s", reason);
    }
}

int
qe_cuda_library_load(const struct qe_cuda_paths *paths,
                     const struct qe_cuda_table **table, struct qe_error *err)
{
    char reasons[384];

    *table = NULL;
    if (paths->library == NULL) {
        return qe_fail(err, QE_EDEVICE,
                       "device cuda: this build of qwen3_embed holds no CUDA library; "
                       "use device='cpu', or install where nvcc and cuBLAS are");
    }
    const char *no_driver = load(DRIVER_LIBRARY);
    if (no_driver != NULL) {
        return qe_fail(err, QE_EDEVICE, "device cuda: no NVIDIA driver (%s)",
                       no_driver);
    }
    load_cublas(paths->cublas_folder, reasons, sizeof reasons);
    if (reasons[0] != '\0') {
        return qe_fail(err, QE_EDEVICE,
                       "device cuda: no cuBLAS (%s); install qwen3-embed-native[cuda]",
                       reasons);
    }
    void *library = dlopen(paths->library, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return qe_fail(err, QE_EDEVICE, "device cuda: %s", dlerror());
    }
    const struct qe_cuda_table *found = dlsym(library, QE_CUDA_TABLE);
    if (found == NULL || found->abi != QE_CUDA_ABI || found->size != sizeof *found) {
        return qe_fail(err, QE_EDEVICE,
                       "device cuda: %s has version %u of %s, expected %d; reinstall",
                       paths->library, found == NULL ? 0 : (unsigned)found->abi,
                       QE_CUDA_TABLE, QE_CUDA_ABI);
    }
    *table = found;
    return 0;
}
