/* test_safetensors.c: the promises of safetensors.h that verdicts on files don't show:
 * who owns what, what a tensor says of itself, what stays after a failure. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "safetensors.h"

static const char header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
    "\"a\\u0062\":{\"data_offsets\":[0,3],\"shape\":[3],\"dtype\":\"U8\"},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[11,13]}}";
static const unsigned char data[13] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};

static void
require(int holds, const char *what)
{
    if (!holds) {
        printf("broken: %s\n", what);
        exit(1);
    }
}

/* The caller owns the bytes. */
static unsigned char *
make_bytes(size_t *n_bytes)
{
    uint64_t header_bytes = sizeof header - 1;
    unsigned char *bytes = malloc(8 + header_bytes + sizeof data);

    require(bytes != NULL, "memory for the test");
    memcpy(bytes, &header_bytes, 8);
    memcpy(bytes + 8, header, header_bytes);
    memcpy(bytes + 8 + header_bytes, data, sizeof data);
    *n_bytes = 8 + header_bytes + sizeof data;
    return bytes;
}

static void
test_tensors(void)
{
    size_t n_bytes;
    unsigned char *bytes = make_bytes(&n_bytes);
    struct qe_safetensors file;
    struct qe_error err;

    require(qe_safetensors_parse(bytes, n_bytes, &file, &err) == 0, "it parses");
    require(file.path == NULL && file.map == bytes, "the bytes are borrowed");
    require(file.n_tensors == 3, "the metadata is no tensor");
    require(strcmp(file.tensors[0].name, "a") == 0, "sorted by name");
    require(strcmp(file.tensors[1].name, "ab") == 0, "names are decoded");

    const struct qe_tensor *tensor = qe_safetensors_find(&file, "b");
    require(tensor == &file.tensors[2], "found by name");
    require(tensor->dtype == QE_F32 && strcmp(tensor->dtype_name, "F32") == 0, "dtype");
    require(tensor->n_dims == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 1,
            "shape");
    require(tensor->n_bytes == 8 && memcmp(tensor->data, data + 3, 8) == 0, "data");
    tensor = qe_safetensors_find(&file, "ab");
    require(tensor->dtype == QE_OTHER && strcmp(tensor->dtype_name, "U8") == 0,
            "other");
    require(qe_safetensors_find(&file, "a")->n_dims == 0, "a scalar has no dims");
    require(qe_safetensors_find(&file, "abc") == NULL, "not found");

    qe_safetensors_close(&file);
    require(file.map == NULL && file.n_tensors == 0, "closed is zeroed");
    qe_safetensors_close(&file);
    require(bytes[0] == sizeof header - 1, "borrowed bytes stay");
    free(bytes);
}

/* Every proper beginning of a file is refused, in memory that ends where it ends. */
static void
test_beginnings(void)
{
    size_t n_bytes;
    unsigned char *bytes = make_bytes(&n_bytes);
    struct qe_safetensors file;

    for (size_t n = 0; n < n_bytes; n++) {
        struct qe_error err = {0};
        unsigned char *beginning = malloc(n + (n == 0));
        require(beginning != NULL, "memory for the test");
        memcpy(beginning, bytes, n);
        require(qe_safetensors_parse(beginning, n, &file, &err) == QE_EFORMAT,
                "refused");
        require(err.status == QE_EFORMAT && err.message[0] != '\0', "with a message");
        require(file.map == NULL && file.tensors == NULL && file.names == NULL,
                "zeroed");
        free(beginning);
    }
    free(bytes);
}

/* A character that ends after the header, at the end of what may be read. */
static void
test_cut_character(void)
{
    static const unsigned char cut[] = {5, 0,   0,   0,   0,    0,   0,
                                        0, '{', '"', 'a', 0xe2, 0x82};
    struct qe_safetensors file;
    struct qe_error err;
    unsigned char *bytes = malloc(sizeof cut);

    require(bytes != NULL, "memory for the test");
    memcpy(bytes, cut, sizeof cut);
    require(qe_safetensors_parse(bytes, sizeof cut, &file, &err) == QE_EFORMAT, "cut");
    require(strstr(err.message, "expected UTF-8") != NULL, err.message);
    free(bytes);
}

static void
require_refused(const char *path, int status, const char *message)
{
    struct qe_safetensors file;
    struct qe_error err;

    require(qe_safetensors_open(path, &file, &err) == status, message);
    require(strstr(err.message, message) != NULL, err.message);
}

/* folder: of this test alone. */
static void
test_paths(const char *folder)
{
    char path[4096];

    require_refused(folder, QE_EFORMAT, "a folder or device, expected a file");
    snprintf(path, sizeof path, "%s/missing", folder);
    require_refused(path, QE_EIO, "can't open: No such file or directory");
    snprintf(path, sizeof path, "%s/pipe", folder);
    require(mkfifo(path, 0600) == 0, "a named pipe for the test");
    require_refused(path, QE_EFORMAT, "a folder or device, expected a file");
    /* Of a long path the end is shown, and the message keeps its point. */
    snprintf(path, sizeof path, "%s/%0150d/%0100d/long-name", folder, 0, 0);
    require_refused(path, QE_EIO, "0000/long-name: can't open: No such file");
}

void *__real_mmap(void *at, size_t n_bytes, int protection, int flags, int fd,
                  off_t from);
void *__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd,
                  off_t from);

static const char *changing; /* a file that changes its size while it is mapped */
static off_t changed_bytes;

/* The linker's --wrap=mmap sends the reader's calls here. */
void *
__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd, off_t from)
{
    require(changing == NULL || truncate(changing, changed_bytes) == 0, "truncate");
    return __real_mmap(at, n_bytes, protection, flags, fd, from);
}

static void
test_change_of_size(const char *folder)
{
    char path[4096];
    size_t n_bytes;
    unsigned char *bytes = make_bytes(&n_bytes);

    snprintf(path, sizeof path, "%s/changing", folder);
    for (int change = -1; change <= 1; change++) {
        FILE *file = fopen(path, "wb");
        require(file != NULL && fwrite(bytes, 1, n_bytes, file) == n_bytes, "a file");
        fclose(file);
        changing = path;
        changed_bytes = (off_t)n_bytes + change;
        if (change != 0) {
            require_refused(path, QE_EFORMAT, "bytes while being opened");
        } else {
            struct qe_safetensors opened;
            struct qe_error err;
            require(qe_safetensors_open(path, &opened, &err) == 0, "opened unchanged");
            qe_safetensors_close(&opened);
        }
    }
    changing = NULL;
    free(bytes);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: test_safetensors folder\n");
        return 2;
    }
    test_tensors();
    test_beginnings();
    test_cut_character();
    test_paths(argv[1]);
    test_change_of_size(argv[1]);
    puts("ok");
    return 0;
}
