/* safetensors.c: opens and checks one safetensors file.
 *
 * A header is an object of objects with known keys, so it is read in one pass of fixed
 * depth. Every number in it is checked against the size of the file before it is used.
 * The tensors, sorted by place, must cover the data exactly. */
#define _DEFAULT_SOURCE
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "json.h"
#include "map_file.h"

#define LENGTH_BYTES 8             /* the header's length, before the header          */
#define MAX_HEADER_BYTES 100000000 /* the reference reader's bound */
#define MAX_TENSORS 100000
#define MAX_NAME_BYTES 512
#define MAX_WORD_BYTES 31 /* keys and dtypes; the longest known has 12       */
#define MAX_DIM ((uint64_t)1 << 40)

_Static_assert(sizeof(size_t) == 8, "sizes of files and tensors need 64 bits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian");

struct header {
    struct qe_json json;
    struct qe_safetensors *file;
    char *next_name; /* free space in file->names                                     */
    int max_tensors; /* room in file->tensors                                         */
};

static const struct {
    const char *name;
    enum qe_dtype dtype;
    unsigned n_bits; /* of one element */
} dtypes[] = {
    {"BF16", QE_BF16, 16},        {"F16", QE_F16, 16},
    {"F32", QE_F32, 32},          {"BOOL", QE_OTHER, 8},
    {"U8", QE_OTHER, 8},          {"I8", QE_I8, 8},
    {"U16", QE_OTHER, 16},        {"I16", QE_OTHER, 16},
    {"U32", QE_OTHER, 32},        {"I32", QE_OTHER, 32},
    {"U64", QE_OTHER, 64},        {"I64", QE_OTHER, 64},
    {"F64", QE_OTHER, 64},        {"C64", QE_OTHER, 64},
    {"F4", QE_OTHER, 4},          {"F6_E2M3", QE_OTHER, 6},
    {"F6_E3M2", QE_OTHER, 6},     {"F8_E4M3", QE_OTHER, 8},
    {"F8_E5M2", QE_OTHER, 8},     {"F8_E8M0", QE_OTHER, 8},
    {"F8_E4M3FNUZ", QE_OTHER, 8}, {"F8_E5M2FNUZ", QE_OTHER, 8},
};

/* QE_EFORMAT: what the header says of a tensor can't be. */
static int
refuse(const struct header *header, const char *name, const char *why)
{
    return qe_fail(header->json.err, QE_EFORMAT,
                   "%s: tensor '%.120s': %s; download the file again",
                   header->json.file, name, why);
}

/* "BF16" and the like, to tensor->dtype and the bits of an element. */
static int
read_dtype(struct header *header, struct qe_tensor *tensor, unsigned *n_bits)
{
    char word[MAX_WORD_BYTES + 1];

    if (qe_json_string(&header->json, word, MAX_WORD_BYTES) < 0) {
        return header->json.err->status;
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(word, dtypes[i].name) == 0) {
            tensor->dtype = dtypes[i].dtype;
            tensor->dtype_name = dtypes[i].name;
            *n_bits = dtypes[i].n_bits;
            return 0;
        }
    }
    return qe_fail(header->json.err, QE_EFORMAT,
                   "%s: tensor '%.120s': unknown dtype '%s'; convert the model to BF16",
                   header->json.file, tensor->name, word);
}

/* Compares dtype and shape with the tensor's place in the file, and binds it. */
static int
place_tensor(const struct header *header, struct qe_tensor *tensor, unsigned n_bits,
             const uint64_t offsets[2])
{
    const struct qe_safetensors *file = header->file;
    const unsigned char *data = header->json.end;
    uint64_t data_bytes = (uint64_t)(file->map + file->map_bytes - data);
    uint64_t total_bits = 1;

    for (int i = 0; i < tensor->n_dims; i++) {
        if (tensor->shape[i] > MAX_DIM ||
            __builtin_mul_overflow(total_bits, tensor->shape[i], &total_bits)) {
            return refuse(header, tensor->name, "its shape is too large");
        }
    }
    if (__builtin_mul_overflow(total_bits, n_bits, &total_bits)) {
        return refuse(header, tensor->name, "its shape is too large");
    }
    if (total_bits % 8 != 0) {
        return refuse(header, tensor->name, "its elements do not fill whole bytes");
    }
    if (offsets[0] > offsets[1]) {
        return refuse(header, tensor->name, "it ends before it begins");
    }
    tensor->n_bytes = total_bits / 8;
    if (offsets[1] - offsets[0] != tensor->n_bytes) {
        return qe_fail(header->json.err, QE_EFORMAT,
                       "%s: tensor '%.120s': place of %llu bytes, expected %llu "
                       "by its shape and dtype; download the file again",
                       header->json.file, tensor->name,
                       (unsigned long long)(offsets[1] - offsets[0]),
                       (unsigned long long)tensor->n_bytes);
    }
    if (offsets[1] > data_bytes) {
        return qe_fail(
            header->json.err, QE_EFORMAT,
            "%s: incomplete: %zu bytes, but tensor '%.120s' needs %llu more; "
            "download the file again",
            header->json.file, file->map_bytes, tensor->name,
            (unsigned long long)(offsets[1] - data_bytes));
    }
    tensor->data = data + offsets[0];
    return 0;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, in any order. */
static int
read_tensor(struct header *header, struct qe_tensor *tensor)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    struct qe_json *json = &header->json;
    char word[MAX_WORD_BYTES + 1];
    uint64_t offsets[2];
    unsigned n_bits = 0, seen = 0;
    int n_offsets = 0;
    bool more;

    if (qe_json_expect(json, '{') < 0) {
        return json->err->status;
    }
    do {
        if (qe_json_string(json, word, MAX_WORD_BYTES) < 0 ||
            qe_json_expect(json, ':') < 0) {
            return json->err->status;
        }
        unsigned key = 0;
        while (key < 3 && strcmp(word, keys[key]) != 0) {
            key++;
        }
        if (key == 3 || (seen & 1u << key) != 0) {
            return qe_fail(
                json->err, QE_EFORMAT,
                "%s: tensor '%.120s': %s key '%s', expected dtype, shape and "
                "data_offsets once each; download the file again",
                json->file, tensor->name, key == 3 ? "unknown" : "second", word);
        }
        seen |= 1u << key;
        int status = key == 0   ? read_dtype(header, tensor, &n_bits)
                     : key == 1 ? qe_json_integers(json, QE_MAX_DIMS, tensor->shape,
                                                   &tensor->n_dims)
                                : qe_json_integers(json, 2, offsets, &n_offsets);
        if (status < 0 || qe_json_separator(json, '}', &more) < 0) {
            return json->err->status;
        }
    } while (more);
    if (seen != 7 || n_offsets != 2) {
        return refuse(header, tensor->name, "dtype, shape or data_offsets is missing");
    }
    return place_tensor(header, tensor, n_bits, offsets);
}

/* One more zeroed tensor at the end of the file's, or NULL. */
static struct qe_tensor *
append_tensor(struct header *header)
{
    struct qe_safetensors *file = header->file;

    if (file->n_tensors == MAX_TENSORS) {
        qe_fail(header->json.err, QE_EFORMAT, "%s: more than %d tensors",
                header->json.file, MAX_TENSORS);
        return NULL;
    }
    if (file->n_tensors == header->max_tensors) {
        int max_tensors = 2 * header->max_tensors + 512;
        struct qe_tensor *tensors =
            realloc(file->tensors, (size_t)max_tensors * sizeof *tensors);
        if (tensors == NULL) {
            qe_fail(header->json.err, QE_ENOMEM, "%s: no memory for its %d tensors",
                    header->json.file, max_tensors);
            return NULL;
        }
        file->tensors = tensors;
        header->max_tensors = max_tensors;
    }
    struct qe_tensor *tensor = &file->tensors[file->n_tensors++];
    *tensor = (struct qe_tensor){.name = header->next_name};
    return tensor;
}

/* The header's object. A name that is kept takes, with its terminator, no more than it
 * and its quotes take in the header: file->names has room for all. */
static int
read_tensors(struct header *header)
{
    struct qe_json *json = &header->json;
    bool more, seen_metadata = false;

    if (qe_json_take(json, '}')) {
        return 0;
    }
    do {
        if (qe_json_string(json, header->next_name, MAX_NAME_BYTES) < 0 ||
            qe_json_expect(json, ':') < 0) {
            return json->err->status;
        }
        if (strcmp(header->next_name, "__metadata__") == 0) {
            if (seen_metadata) {
                return refuse(header, "__metadata__", "it is there twice");
            }
            seen_metadata = true;
            if (qe_json_skip_strings(json) < 0) {
                return json->err->status;
            }
        } else {
            struct qe_tensor *tensor = append_tensor(header);
            if (tensor == NULL) {
                return json->err->status;
            }
            header->next_name += strlen(header->next_name) + 1;
            if (read_tensor(header, tensor) < 0) {
                return json->err->status;
            }
        }
        if (qe_json_separator(json, '}', &more) < 0) {
            return json->err->status;
        }
    } while (more);
    return 0;
}

static int
by_place(const void *a, const void *b)
{
    const struct qe_tensor *x = a, *y = b;
    int order = (x->data > y->data) - (x->data < y->data);

    /* Empty tensors come before the one that shares their place. */
    return order != 0 ? order : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static int
by_name(const void *a, const void *b)
{
    const struct qe_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* No overlap, no gap, nothing after the end, no name twice. Leaves them by name. */
static int
check_tensors(const struct header *header)
{
    struct qe_tensor *tensors = header->file->tensors;
    size_t n_tensors = (size_t)header->file->n_tensors;
    const unsigned char *next = header->json.end;
    const unsigned char *end = header->file->map + header->file->map_bytes;

    if (n_tensors > 0) {
        qsort(tensors, n_tensors, sizeof *tensors, by_place);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        if (tensors[i].data != next) {
            return refuse(header, tensors[i].name,
                          tensors[i].data < next ? "it overlaps the tensor before it"
                                                 : "a gap lies before it");
        }
        next += tensors[i].n_bytes;
    }
    if (next != end) {
        return qe_fail(header->json.err, QE_EFORMAT,
                       "%s: %zu bytes, expected %zu by its header; "
                       "download the file again",
                       header->json.file, header->file->map_bytes,
                       (size_t)(next - header->file->map));
    }
    if (n_tensors > 0) {
        qsort(tensors, n_tensors, sizeof *tensors, by_name);
    }
    for (size_t i = 1; i < n_tensors; i++) {
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0) {
            return refuse(header, tensors[i].name, "it is there twice");
        }
    }
    return 0;
}

/* Reads the header of file->map; on failure, the caller closes file. */
static int
parse(struct qe_safetensors *file, struct qe_error *err)
{
    const char *path = file->path == NULL ? "safetensors" : qe_shown_path(file->path);
    struct header header = {.file = file};
    uint64_t header_bytes;

    if (file->map_bytes >= 8 && memcmp(file->map, "version ", 8) == 0) {
        return qe_fail(err, QE_EFORMAT,
                       "%s: a Git LFS pointer, not the weights; run git lfs pull",
                       path);
    }
    if (file->map_bytes < LENGTH_BYTES + 2) {
        return qe_fail(err, QE_EFORMAT,
                       "%s: incomplete: %zu bytes; download the file again", path,
                       file->map_bytes);
    }
    memcpy(&header_bytes, file->map, sizeof header_bytes);
    if (header_bytes < 2 || header_bytes > MAX_HEADER_BYTES ||
        header_bytes > file->map_bytes - LENGTH_BYTES) {
        return qe_fail(
            err, QE_EFORMAT,
            "%s: header of %llu bytes in a file of %zu: incomplete, or not a "
            "safetensors file; download the file again",
            path, (unsigned long long)header_bytes, file->map_bytes);
    }
    if (qe_json_start(&header.json, path, file->map + LENGTH_BYTES, header_bytes, err) <
        0) {
        return err->status;
    }
    file->names = malloc(header_bytes);
    if (file->names == NULL) {
        return qe_fail(err, QE_ENOMEM, "%s: no memory for names of %llu bytes", path,
                       (unsigned long long)header_bytes);
    }
    header.next_name = file->names;
    if (*header.json.at != '{') {
        return qe_json_malformed(&header.json, "'{'");
    }
    header.json.at++;
    if (read_tensors(&header) < 0) {
        return err->status;
    }
    while (header.json.at < header.json.end && *header.json.at == ' ') {
        header.json.at++;
    }
    if (header.json.at < header.json.end) {
        return qe_json_malformed(&header.json, "spaces up to the end of the header");
    }
    return check_tensors(&header);
}

int
qe_safetensors_parse(const unsigned char *bytes, size_t n_bytes,
                     struct qe_safetensors *file, struct qe_error *err)
{
    *file = (struct qe_safetensors){.map = bytes, .map_bytes = n_bytes};
    if (parse(file, err) < 0) {
        qe_safetensors_close(file);
        return err->status;
    }
    return 0;
}

int
qe_safetensors_open(const char *path, struct qe_safetensors *file, struct qe_error *err)
{
    *file = (struct qe_safetensors){.path = strdup(path)};
    if (file->path == NULL) {
        return qe_fail(err, QE_ENOMEM, "%s: no memory for its path",
                       qe_shown_path(path));
    }
    if (qe_map_file(path, &file->map, &file->map_bytes, err) < 0 ||
        parse(file, err) < 0) {
        qe_safetensors_close(file);
        return err->status;
    }
    return 0;
}

/* Copies the places' tensors and their names, once each lies within the file. */
static int
take_places(struct qe_safetensors *file, const struct qe_place *places, int n_places,
            struct qe_error *err)
{
    size_t name_bytes = 0;

    for (int i = 0; i < n_places; i++) {
        name_bytes += strlen(places[i].tensor.name) + 1;
        if (places[i].offset > file->map_bytes ||
            places[i].tensor.n_bytes > file->map_bytes - places[i].offset) {
            return qe_fail(err, QE_EFORMAT,
                           "%s: tensor '%.120s' ends past the %zu bytes of the file",
                           qe_shown_path(file->path), places[i].tensor.name,
                           file->map_bytes);
        }
    }
    file->tensors = calloc((size_t)n_places + 1, sizeof *file->tensors);
    file->names = malloc(name_bytes + 1);
    if (file->tensors == NULL || file->names == NULL) {
        return qe_fail(err, QE_ENOMEM, "%s: no memory for its %d tensors",
                       qe_shown_path(file->path), n_places);
    }
    char *name = file->names;
    for (int i = 0; i < n_places; i++) {
        struct qe_tensor *tensor = &file->tensors[file->n_tensors++];
        size_t n_bytes = strlen(places[i].tensor.name) + 1;
        *tensor = places[i].tensor;
        tensor->name = memcpy(name, places[i].tensor.name, n_bytes);
        tensor->data = file->map + places[i].offset;
        name += n_bytes;
    }
    qsort(file->tensors, (size_t)n_places, sizeof *file->tensors, by_name);
    return 0;
}

int
qe_safetensors_open_places(const char *path, const struct qe_place *places,
                           int n_places, struct qe_safetensors *file,
                           struct qe_error *err)
{
    *file = (struct qe_safetensors){.path = strdup(path)};
    if (file->path == NULL) {
        return qe_fail(err, QE_ENOMEM, "%s: no memory for its path",
                       qe_shown_path(path));
    }
    if (qe_map_file(path, &file->map, &file->map_bytes, err) < 0 ||
        take_places(file, places, n_places, err) < 0) {
        qe_safetensors_close(file);
        return err->status;
    }
    return 0;
}

const struct qe_tensor *
qe_safetensors_find(const struct qe_safetensors *file, const char *name)
{
    struct qe_tensor key = {.name = name};

    if (file->n_tensors == 0) {
        return NULL;
    }
    return bsearch(&key, file->tensors, (size_t)file->n_tensors, sizeof key, by_name);
}

void
qe_safetensors_close(struct qe_safetensors *file)
{
    /* Bytes that were only parsed stay their caller's: they have no path. */
    if (file->path != NULL && file->map != NULL) {
        munmap((void *)file->map, file->map_bytes);
    }
    free((void *)file->path);
    free(file->tensors);
    free(file->names);
    *file = (struct qe_safetensors){0};
}
