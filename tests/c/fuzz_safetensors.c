/* fuzz_safetensors.c: a libFuzzer target for the header's parser and the loader.
 *
 * The first byte of an input is flags:
 *     1  what follows is two bytes, the size of the data, and a header: the target puts
 *        the header's true length before it and zeros after it, so that a mutation of
 *        the header is not refused for its length alone; without, it is a whole file
 *     2  the model is opened from the file twice over, as two shards
 *
 * Whatever parses must keep the promises of safetensors.h, and is then bound to a model
 * of one layer, of the sizes in make_bad_safetensors.py. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model.h"

#define MAX_FILE_BYTES (1 << 17)

static void
require(int holds)
{
    if (!holds) {
        abort();
    }
}

/* The file that an input stands for, in bytes (MAX_FILE_BYTES). */
static size_t
make_file(const uint8_t *input, size_t n_bytes, unsigned char *bytes)
{
    if (n_bytes < 3 || n_bytes > MAX_FILE_BYTES / 4) {
        return 0;
    }
    if ((input[0] & 1) == 0) {
        memcpy(bytes, input + 1, n_bytes - 1);
        return n_bytes - 1;
    }
    uint64_t header_bytes = n_bytes - 3;
    size_t data_bytes = input[1] | (size_t)input[2] << 8;
    memcpy(bytes, &header_bytes, 8);
    memcpy(bytes + 8, input + 3, header_bytes);
    memset(bytes + 8 + header_bytes, 0, data_bytes);
    return 8 + header_bytes + data_bytes;
}

static void
check_file(const struct qe_safetensors *file)
{
    uint64_t total_bytes = 0;

    for (int i = 0; i < file->n_tensors; i++) {
        const struct qe_tensor *tensor = &file->tensors[i];
        require(i == 0 || strcmp(file->tensors[i - 1].name, tensor->name) < 0);
        require(qe_safetensors_find(file, tensor->name) == tensor);
        require(tensor->n_dims >= 0 && tensor->n_dims <= QE_MAX_DIMS);
        require(tensor->data >= file->map + 8);
        require(tensor->n_bytes <=
                (size_t)(file->map + file->map_bytes - tensor->data));
        require(strlen(tensor->dtype_name) >= 2);
        total_bytes += tensor->n_bytes;
    }
    require(total_bytes + 10 <= file->map_bytes);
    require(qe_safetensors_find(file, "\n") == NULL);
}

static void
check_error(const struct qe_error *err)
{
    require(err->status == QE_EFORMAT);
    size_t n_bytes = strnlen(err->message, sizeof err->message);
    require(n_bytes > 0 && n_bytes < sizeof err->message - 1); /* none was cut */
    for (size_t i = 0; i < n_bytes; i++) {
        /* Nothing in a file can forge a line of a log. */
        require((unsigned char)err->message[i] >= ' ' && err->message[i] != 0x7f);
    }
}

/* Binds the file, from memory that has a path. */
static void
bind_model(const unsigned char *bytes, size_t n_bytes, int n_paths)
{
    static const float frequencies[16] = {1.0f};
    const struct qe_config config = {
        .hidden_size = 1,
        .intermediate_size = 2,
        .n_layers = 1,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 32,
        .vocab_size = 3,
        .max_length = 16,
        .rms_norm_eps = 1e-6f,
        .rope_scale = 1.0f,
        .rope_inv_freq = frequencies,
    };
    struct qe_model model;
    struct qe_error err;
    char path[64];

    int fd = memfd_create("model", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, bytes, n_bytes) == (ssize_t)n_bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const char *paths[2] = {path, path};
    if (qe_model_open(&config, paths, n_paths, &model, &err) < 0) {
        check_error(&err);
        require(model.files == NULL && model.n_files == 0);
    } else {
        require(model.weights.norm != NULL &&
                model.weights.layers[0].down_proj != NULL);
        qe_model_close(&model);
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t n_bytes);

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t n_bytes)
{
    static unsigned char scratch[MAX_FILE_BYTES];
    struct qe_safetensors file;
    struct qe_error err;

    size_t file_bytes = make_file(input, n_bytes, scratch);
    if (file_bytes == 0) {
        return 0;
    }
    /* Its own allocation, so that the sanitizer sees a read past its end. */
    unsigned char *bytes = malloc(file_bytes);
    require(bytes != NULL);
    memcpy(bytes, scratch, file_bytes);
    if (qe_safetensors_parse(bytes, file_bytes, &file, &err) < 0) {
        check_error(&err);
    } else {
        check_file(&file);
        qe_safetensors_close(&file);
        bind_model(bytes, file_bytes, (input[0] & 2) != 0 ? 2 : 1);
    }
    free(bytes);
    return 0;
}
