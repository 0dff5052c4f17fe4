/* int8_weights.c: allocates each table as one block of memory, then equalises, rounds
 * and releases one layer after another, so that only one layer of bf16 is in memory.
 * For a model in int8 only the sums of groups are computed. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */
#include "int8_weights.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../arithmetic.h"
#include "int8_rounding.h"
#include "q8_0.h"

#define ALIGN_BYTES 64

/* ---- one table ---- */

/* Matrix i of a layer, in the order of qe_int8_list(). */
static struct qe_matrix *
matrix_of(struct qe_cpu_layer *layer, int i)
{
    struct qe_matrix *const matrices[QE_N_MATRICES] = {
        &layer->qkv[0],     &layer->qkv[1],     &layer->qkv[2],  &layer->o[0],
        &layer->gate_up[0], &layer->gate_up[1], &layer->down[0],
    };

    return matrices[i];
}

/* Returns the next n_bytes; if base is NULL, only counts them. */
static void *
carve(unsigned char *base, size_t *used, size_t n_bytes)
{
    size_t at = *used;

    *used += (n_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return base == NULL ? NULL : base + at;
}

static size_t
padded_floats(int n)
{
    return ((size_t)n + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP;
}

/* A table that is being built. `own` is the model's table, whose matrices an adapter's
 * table shares unless it changes them; NULL while the model's table itself is built. */
struct building {
    const struct qe_config *config;
    const struct qe_int8_weights *weights;
    const struct qe_weights *from;
    struct qe_int8_table *table;
    const struct qe_int8_table *own;
    int int8_zero;
};

/* Lists the roundings of layer l, without destinations. is_own[i]: the table needs its
 * own copy of matrix i, because it is the model's table or changes the matrix. */
static void
list_layer(const struct building *b, int l, struct qe_rounding parts[QE_N_MATRICES],
           bool is_own[QE_N_MATRICES])
{
    const struct qe_equaliser *e = &b->weights->equalisers[l];
    struct qe_rounding model[QE_N_MATRICES];

    qe_int8_list(b->config, &b->from->layers[l], e, parts);
    qe_int8_list(b->config, &b->weights->model->weights.layers[l], e, model);
    for (int i = 0; i < QE_N_MATRICES; i++) {
        is_own[i] = b->own == NULL || parts[i].from != model[i].from ||
                    parts[i].values != model[i].values;
    }
}

static void
lay_out_layer(const struct building *b, int l, unsigned char *base, size_t *used)
{
    struct qe_cpu_layer *to = &b->table->layers[l];
    struct qe_rounding parts[QE_N_MATRICES];
    bool is_own[QE_N_MATRICES];
    size_t norm_bytes = padded_floats(b->config->hidden_size) * sizeof(float);

    *to = qe_cpu_layer(b->config, &b->from->layers[l]);
    list_layer(b, l, parts, is_own);
    for (int i = 0; i < QE_N_MATRICES; i++) {
        const struct qe_rounding *r = &parts[i];
        struct qe_matrix *matrix = matrix_of(to, i);
        if (!is_own[i]) {
            *matrix = *matrix_of(&b->own->layers[l], i);
            continue;
        }
        bool is_int8 = r->from == NULL;
        size_t n_offsets = (size_t)r->n * ceil_div(r->k, QE_GROUP);
        if (r->in_blocks) {
            matrix->rows = r->values;
            matrix->sums =
                carve(base, used, n_offsets * QE_Q8_0_BLOCKS * sizeof(int16_t));
            continue;
        }
        matrix->rows = is_int8 ? r->values : carve(base, used, (size_t)r->n * r->k);
        matrix->scales = is_int8 ? r->scales : carve(base, used, r->n * sizeof(float));
        matrix->offsets =
            b->int8_zero == 0 ? NULL : carve(base, used, n_offsets * sizeof(int32_t));
    }
    if (!b->weights->model->is_int8) { /* else the norms are divided already */
        to->input_layernorm = carve(base, used, norm_bytes);
        to->post_attention_layernorm = carve(base, used, norm_bytes);
    }
}

/* Returns the number of bytes. */
static size_t
lay_out(const struct building *b, unsigned char *base)
{
    const struct qe_config *c = b->config;
    size_t used = ALIGN_BYTES; /* mmap() fails for 0 bytes */

    for (int l = 0; l < c->n_layers; l++) {
        lay_out_layer(b, l, base, &used);
    }
    b->table->embed_tokens = b->from->embed_tokens;
    b->table->embed_in_blocks = b->from->embed_in_blocks;
    if (b->own != NULL && b->from->embed_tokens != b->own->embed_tokens) {
        b->table->embed_tokens =
            carve(base, &used, (size_t)c->vocab_size * c->hidden_size * 2);
    }
    return used;
}

static void
divide_norm(const float *to, const float *from, const float *scales, int n)
{
    float *norm = (float *)to; /* points into the table's memory, which is writable */

    for (int i = 0; i < n; i++) {
        norm[i] = from[i] / scales[i];
    }
}

static void
round_layer(const struct building *b, int l, struct qe_threads *threads)
{
    const struct qe_equaliser *e = &b->weights->equalisers[l];
    const struct qe_layer *from = &b->from->layers[l];
    struct qe_cpu_layer *to = &b->table->layers[l];
    struct qe_rounding parts[QE_N_MATRICES];
    bool is_own[QE_N_MATRICES];

    list_layer(b, l, parts, is_own);
    for (int i = 0; i < QE_N_MATRICES; i++) {
        struct qe_rounding *r = &parts[i];
        const struct qe_matrix *matrix = matrix_of(to, i);
        if (is_own[i] && r->in_blocks) {
            qe_q8_0_sum((int16_t *)matrix->sums, matrix->rows, r->n, r->k, threads);
        } else if (is_own[i] && (r->from != NULL || matrix->offsets != NULL)) {
            r->int8_zero = b->int8_zero;
            r->values = (int8_t *)matrix->rows;
            r->scales = (float *)matrix->scales;
            r->offsets = (int32_t *)matrix->offsets;
            qe_int8_round(r, threads);
        }
    }
    if (!b->weights->model->is_int8) {
        divide_norm(to->input_layernorm, from->input_layernorm, e->attention_input,
                    b->config->hidden_size);
        divide_norm(to->post_attention_layernorm, from->post_attention_layernorm,
                    e->mlp_input, b->config->hidden_size);
    }
}

/* Releases the pages that lie entirely in the matrix. Those of a file are read again if
 * needed; others are not needed again. */
static void
release_pages(const void *matrix, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)matrix + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)matrix + n_bytes) / page * page;

    if (begin < end) {
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
}

static void
release_layer(const struct building *b, int l)
{
    struct qe_rounding parts[QE_N_MATRICES];
    bool is_own[QE_N_MATRICES];

    list_layer(b, l, parts, is_own);
    for (int i = 0; i < QE_N_MATRICES; i++) {
        release_pages(parts[i].from, (size_t)parts[i].n * parts[i].k * 2);
    }
}

static void
close_table(struct qe_int8_table *table)
{
    if (table->memory != NULL) {
        munmap(table->memory, table->memory_bytes);
    }
    free(table->layers);
    free(table);
}

/* Allocates b->table and lays it out. The caller owns it until it is in the list. */
static int
open_table(struct building *b, struct qe_error *err)
{
    struct qe_int8_table *table = calloc(1, sizeof *table);

    if (table != NULL) {
        table->layers = calloc((size_t)b->config->n_layers, sizeof *table->layers);
    }
    if (table == NULL || table->layers == NULL) {
        free(table);
        return qe_fail(err, QE_ENOMEM, "int8: no memory for %d layers",
                       b->config->n_layers);
    }
    table->weights = b->from;
    b->table = table;
    table->memory_bytes = lay_out(b, NULL);
    table->memory = mmap(NULL, table->memory_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table->memory == MAP_FAILED) {
        table->memory = NULL;
        qe_fail(err, QE_ENOMEM, "int8: no memory for %zu bytes of weights",
                table->memory_bytes);
        close_table(table);
        return err->status;
    }
    (void)madvise(table->memory, table->memory_bytes, MADV_HUGEPAGE);
    lay_out(b, table->memory);
    return 0;
}

/* ---- all tables ---- */

static int
alloc_equalisers(struct qe_int8_weights *weights, struct qe_error *err)
{
    const struct qe_config *c = &weights->model->config;
    size_t n_floats = qe_equaliser_floats(c);

    weights->equalisers = calloc((size_t)c->n_layers, sizeof *weights->equalisers);
    weights->equaliser_floats = calloc(c->n_layers * n_floats, sizeof(float));
    if (weights->equalisers == NULL || weights->equaliser_floats == NULL) {
        return qe_fail(err, QE_ENOMEM, "int8: no memory for the scales of %d layers",
                       c->n_layers);
    }
    for (int l = 0; l < c->n_layers && !weights->model->is_int8; l++) {
        weights->equalisers[l] =
            qe_equaliser_at(c, weights->equaliser_floats + l * n_floats);
    }
    return 0;
}

/* Equalises and rounds the model layer by layer. */
static int
round_model(const struct building *b, struct qe_int8_weights *weights,
            struct qe_threads *threads, struct qe_error *err)
{
    const struct qe_config *c = b->config;
    const struct qe_model *model = weights->model;
    double *doubles = malloc(qe_moments_doubles(c) * sizeof *doubles);

    if (doubles == NULL) {
        return qe_fail(err, QE_ENOMEM, "int8: no memory to equalise channels");
    }
    struct qe_moments moments = qe_moments_at(c, doubles);
    qe_equalise_begin(c, model->weights.embed_tokens, &moments);
    if (model->rounded == NULL) { /* embed_tokens is in a file, and is read again */
        release_pages(model->weights.embed_tokens,
                      (size_t)c->vocab_size * c->hidden_size * 2);
    }
    for (int l = 0; l < c->n_layers; l++) {
        qe_equalise_layer(c, &model->weights.layers[l], &moments,
                          &weights->equalisers[l], threads);
        round_layer(b, l, threads);
        release_layer(b, l);
    }
    free(doubles);
    return 0;
}

int
qe_int8_weights_open(const struct qe_model *model, int int8_zero,
                     struct qe_threads *threads, struct qe_int8_weights *weights,
                     struct qe_error *err)
{
    struct building b = {.config = &model->config,
                         .weights = weights,
                         .from = &model->weights,
                         .int8_zero = int8_zero};

    *weights = (struct qe_int8_weights){.int8_zero = int8_zero, .model = model};
    if (alloc_equalisers(weights, err) < 0 || open_table(&b, err) < 0) {
        return err->status;
    }
    weights->tables = b.table;
    weights->n_bytes = b.table->memory_bytes;
    if (!model->is_int8) {
        return round_model(&b, weights, threads, err);
    }
    for (int l = 0; l < model->config.n_layers; l++) {
        round_layer(&b, l, threads);
    }
    return 0;
}

int
qe_int8_weights_add(struct qe_int8_weights *weights, const struct qe_weights *from,
                    int n_threads, struct qe_error *err)
{
    const struct qe_config *c = &weights->model->config;
    struct qe_threads *threads;
    struct building b = {.config = c,
                         .weights = weights,
                         .from = from,
                         .own = weights->tables,
                         .int8_zero = weights->int8_zero};

    if (open_table(&b, err) < 0) {
        return err->status;
    }
    if (qe_threads_open(n_threads, &threads, err) < 0) {
        close_table(b.table);
        return err->status;
    }
    for (int l = 0; l < c->n_layers; l++) {
        round_layer(&b, l, threads);
    }
    qe_threads_close(threads);
    if (b.table->embed_tokens != weights->tables->embed_tokens) {
        memcpy((void *)b.table->embed_tokens, from->embed_tokens,
               (size_t)c->vocab_size * c->hidden_size * 2);
    }
    weights->n_bytes += b.table->memory_bytes;
    atomic_store(&b.table->next, atomic_load(&weights->tables->next));
    atomic_store(&weights->tables->next, b.table);
    return 0;
}

const struct qe_int8_table *
qe_int8_weights_find(const struct qe_int8_weights *weights,
                     const struct qe_weights *table)
{
    const struct qe_int8_table *found = weights->tables;

    while (found != NULL && found->weights != table) {
        found = atomic_load(&found->next);
    }
    return found;
}

void
qe_int8_weights_close(struct qe_int8_weights *weights)
{
    while (weights->tables != NULL) {
        struct qe_int8_table *table = weights->tables;
        weights->tables = atomic_load(&table->next);
        close_table(table);
    }
    free(weights->equalisers);
    free(weights->equaliser_floats);
    *weights = (struct qe_int8_weights){0};
}
