/* safetensors.h: one model file, mapped read-only, with a strict parser of its header.
 *
 * It owns the mapping and the index of tensors. It accepts the files of the reference
 * reader in which tensors are contiguous, complete and distinct, do not overlap and
 * have correct sizes. Tensor data may begin at any byte offset, odd ones too. */
#ifndef QE_SAFETENSORS_H
#define QE_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define QE_MAX_DIMS 8

enum qe_dtype {
    QE_BF16,
    QE_F16,
    QE_F32,
    QE_I8,
    QE_Q8_0,  /* of GGUF: blocks of 32 integers after a scale in F16 */
    QE_OTHER, /* a valid safetensors dtype that no weight of ours may have */
};

struct qe_tensor {
    const char *name; /* borrowed from the file; terminated, no NUL inside */
    enum qe_dtype dtype;
    const char *dtype_name; /* static: "BF16", or what QE_OTHER stands for */
    int n_dims;
    uint64_t shape[QE_MAX_DIMS];
    const unsigned char *data; /* borrowed from the mapping; any alignment */
    uint64_t n_bytes;
};

/* A tensor, so far without data, and where in a file that is. */
struct qe_place {
    struct qe_tensor tensor;
    uint64_t offset;
};

struct qe_safetensors {
    const char *path;         /* owned; NULL: map is borrowed from who parsed it */
    const unsigned char *map; /* (map_bytes) the whole file, read-only */
    size_t map_bytes;
    struct qe_tensor *tensors; /* (n_tensors) sorted by name */
    int n_tensors;
    char *names; /* owned storage of all names */
};

/* Maps path and parses its header. On failure nothing is left open. */
int qe_safetensors_open(const char *path, struct qe_safetensors *file,
                        struct qe_error *err);

/* Maps path, a file of another format, and takes its tensors from a table that Python
 * has read from its header. names are copied. */
int qe_safetensors_open_places(const char *path, const struct qe_place *places,
                               int n_places, struct qe_safetensors *file,
                               struct qe_error *err);

/* Parses bytes (n_bytes), borrowed for the life of file: the part that is fuzzed. */
int qe_safetensors_parse(const unsigned char *bytes, size_t n_bytes,
                         struct qe_safetensors *file, struct qe_error *err);

/* NULL when there is no tensor of that name. */
const struct qe_tensor *qe_safetensors_find(const struct qe_safetensors *file,
                                            const char *name);

/* Accepts a zeroed or half-opened file. */
void qe_safetensors_close(struct qe_safetensors *file);

#endif
