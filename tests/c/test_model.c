/* test_model.c: configs that must be refused, before any file is looked at, and a model
 * that is closed on both sides of a fork.
 *
 *     test_model hidden intermediate layers heads kv_heads head_dim vocab files...
 */
#define _DEFAULT_SOURCE
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adapter.h"
#include "model_args.h"
#include "prefetch.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* ASan's allocator does not survive fork while another thread allocates. */
#if defined(__SANITIZE_ADDRESS__)
#define CAN_FORK 0
#else
#define CAN_FORK 1
#endif

static void
require(int holds, const char *what)
{
    if (!holds) {
        printf("broken: %s\n", what);
        exit(1);
    }
}

static void
require_refused(const struct qe_config *config, const char *message)
{
    static const char *const paths[] = {"no such file"};
    struct qe_model model;
    struct qe_error err;

    require(qe_model_open(config, paths, 1, &model, &err) == QE_EFORMAT, message);
    require(strstr(err.message, message) != NULL, err.message);
    require(model.files == NULL && model.config.hidden_size == 0, "zeroed");
}

static void
test_sizes(const struct qe_config *good)
{
    static const struct {
        size_t member;
        int max;
        const char *message;
    } sizes[] = {
        {offsetof(struct qe_config, hidden_size), 1 << 20, "config: hidden_size is "},
        {offsetof(struct qe_config, intermediate_size), 1 << 20,
         "intermediate_size is "},
        {offsetof(struct qe_config, n_layers), 1024, "num_hidden_layers is "},
        {offsetof(struct qe_config, n_heads), 1 << 20, "num_attention_heads is "},
        {offsetof(struct qe_config, n_kv_heads), 1 << 20, "num_key_value_heads is "},
        {offsetof(struct qe_config, head_dim), 256, "head_dim is "},
        {offsetof(struct qe_config, vocab_size), 1 << 20, "vocab_size is "},
        {offsetof(struct qe_config, max_length), 1 << 20, "max_length is "},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int bad[] = {0, -1, INT_MIN, INT_MAX, sizes[i].max + 1};
        for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
            struct qe_config config = *good;
            memcpy((char *)&config + sizes[i].member, &bad[j], sizeof bad[j]);
            require_refused(&config, sizes[i].message);
        }
    }
}

static void
test_relations(const struct qe_config *good)
{
    struct qe_config config = *good;

    config.head_dim = 48;
    require_refused(&config, "head_dim is 48, expected a multiple of 32 up to 256");
    config = *good;
    config.n_kv_heads = config.n_heads + 1;
    require_refused(&config, "expected a multiple of num_key_value_heads");
    config = *good;
    config.n_heads = 1 << 20;
    config.n_kv_heads = 1;
    require_refused(&config, "num_attention_heads * head_dim is 33554432, expected");
}

static void
test_floats(const struct qe_config *good)
{
    static const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    float frequencies[128] = {0};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct qe_config config = *good;
        config.rms_norm_eps = bad[i];
        require_refused(&config, "rms_norm_eps is ");
        config = *good;
        config.rope_scale = bad[i];
        require_refused(&config, "RoPE's scale is ");
        if (i > 0) {
            config = *good;
            frequencies[config.head_dim / 2 - 1] = bad[i];
            config.rope_inv_freq = frequencies;
            require_refused(&config, "RoPE's frequency 15 is ");
        }
    }
}

/* The prefetching thread is the parent's alone. */
static void
test_fork(const struct qe_config *config, const char *const *paths, int n_paths)
{
    struct qe_model model;
    struct qe_error err;
    int status = 0;

    require(qe_model_open(config, paths, n_paths, &model, &err) == 0, err.message);
    require(model.config.rope_inv_freq != config->rope_inv_freq,
            "frequencies are copied");
    pid_t child = fork();
    if (child == 0) {
        qe_model_close(&model);
        _exit(model.files == NULL ? 0 : 1);
    }
    require(child > 0 && waitpid(child, &status, 0) == child, "a child for the test");
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child closes its copy");
    qe_model_close(&model);
    qe_model_close(&model);
}

/* What an engine keeps of a model whose weights are on a GPU: a shape, and a table that
 * leads nowhere, so that an adapter's leads to its own tensors alone. */
static void
test_unload(const struct qe_config *config, const char *const *paths, int n_paths)
{
    const size_t n = (size_t)config->n_heads * config->head_dim * config->hidden_size;
    const size_t n_bytes = n * sizeof(uint16_t);
    unsigned char *values = calloc(1, n_bytes);
    struct qe_tensor tensor = {.name = "layers.1.self_attn.q_proj.weight",
                               .dtype = QE_BF16,
                               .n_dims = 2,
                               .shape = {n / config->hidden_size, config->hidden_size},
                               .data = values,
                               .n_bytes = n_bytes};
    struct qe_model model;
    struct qe_adapter adapter;
    struct qe_error err;

    require(values != NULL, "memory for the test");
    require(qe_model_open(config, paths, n_paths, &model, &err) == 0, "opens");
    qe_model_unload(&model);
    require(model.config.n_layers == config->n_layers, "the shape stays");
    require(model.config.rope_inv_freq == NULL && model.files == NULL, "the rest goes");
    require(model.weights.embed_tokens == NULL && model.weights.norm == NULL &&
                model.weights.layers[1].q_proj == NULL,
            "the table leads nowhere");
    require(qe_adapter_open(&model, &tensor, 1, &adapter, &err) == 0, "an adapter");
    for (int layer = 0; layer < config->n_layers; layer++) {
        require(adapter.weights.layers[layer].q_proj == (layer == 1 ? values : NULL) &&
                    adapter.weights.layers[layer].k_proj == NULL,
                "its own tensor alone");
    }
    qe_adapter_close(&adapter);
    qe_model_unload(&model);
    qe_model_close(&model);
    qe_model_unload(&model);
    qe_model_close(&model);
    free(values);
}

static int
all_resident(unsigned char *memory, size_t n_pages, size_t page_bytes)
{
    static unsigned char resident[1 << 16];

    require(n_pages <= sizeof resident, "room for the test");
    require(mincore(memory, n_pages * page_bytes, resident) == 0, "mincore");
    return memchr(resident, 0, n_pages) == NULL;
}

static struct qe_range *
one_range(const unsigned char *start, size_t n_bytes)
{
    struct qe_range *range = malloc(sizeof *range);

    require(range != NULL, "memory for the test");
    *range = (struct qe_range){start, n_bytes};
    return range;
}

/* Every page comes, in several pieces, from an odd start; a hole only ends it. */
static void
test_prefetch(void)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t n_pages = ((size_t)40 << 20) / page_bytes, n_bytes = n_pages * page_bytes;
    unsigned char *memory =
        mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    require(memory != MAP_FAILED, "memory for the test");
    if (madvise(memory, page_bytes, MADV_POPULATE_READ) == 0) {
        struct qe_prefetch *prefetch =
            qe_prefetch_open(one_range(memory + 3, n_bytes - 3), 1);
        require(prefetch != NULL, "a thread");
        for (int i = 0; !all_resident(memory, n_pages, page_bytes); i++) {
            require(i < 5000, "every page is there after 5 s");
            usleep(1000);
        }
        qe_prefetch_close(prefetch);
    }
    munmap(memory, n_bytes);
    struct qe_prefetch *prefetch = qe_prefetch_open(one_range(memory, n_bytes), 1);
    usleep(20000); /* let it meet the hole before it is told to stop */
    qe_prefetch_close(prefetch);
    require(qe_prefetch_open(NULL, 0) == NULL, "no ranges, no thread");
    qe_prefetch_close(NULL);
}

int
main(int argc, char **argv)
{
    struct qe_model model;
    struct qe_error err;

    if (argc < 2 + N_MODEL_ARGS) {
        fprintf(stderr, "usage: test_model 7 sizes, files\n");
        return 2;
    }
    struct qe_config config = model_config(argv + 1);
    require(qe_model_open(&config, NULL, 0, &model, &err) == QE_EVALUE, "no files");
    test_sizes(&config);
    test_relations(&config);
    test_floats(&config);
    test_fork(&config, (const char *const *)argv + 1 + N_MODEL_ARGS,
              argc - 1 - N_MODEL_ARGS);
    test_unload(&config, (const char *const *)argv + 1 + N_MODEL_ARGS,
                argc - 1 - N_MODEL_ARGS);
    test_prefetch();
    puts("ok");
    return 0;
}
