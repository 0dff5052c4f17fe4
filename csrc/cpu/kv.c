/* kv.c: scatters keys and values into panels. That is a few hundred bytes per token and
 * head, against megabytes of weights, so plain C is fast enough. */
#include "kv.h"

#include <string.h>

#include "../arithmetic.h"
#include "ops.h"

struct qe_kv_span
qe_kv_span(int n_prefix, int n_tokens, int panel_columns)
{
    struct qe_kv_span span = {.n_keys = n_prefix + n_tokens,
                              .panel_columns = panel_columns};

    span.first = n_prefix - n_prefix % QE_KEY_TILE;
    span.n_copied = n_prefix - span.first;
    span.n_stored = (span.n_keys - span.first + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP;
    return span;
}

/* Offset of dim 0 of a stored position in keys. Dim d, a multiple of panel_columns,
 * lies d * 16 elements further. */
static size_t
key_at(int stored, const struct qe_kv_span *span, int head_dim)
{
    return (size_t)(stored / QE_PANEL_ROWS) * QE_PANEL_ROWS * head_dim +
           (size_t)(stored % QE_PANEL_ROWS) * span->panel_columns;
}

/* Offset of dim 0 of a stored position in values. *block_stride is the distance between
 * groups of 16 dims; dims of a group lie panel_columns elements apart. */
static size_t
value_at(int stored, const struct qe_kv_span *span, int head_dim, size_t *block_stride)
{
    int start = stored - stored % QE_KEY_TILE;
    int left = span->n_stored - start;
    int column = (stored - start) % span->panel_columns;

    *block_stride = (size_t)smaller(left, QE_KEY_TILE) * QE_PANEL_ROWS;
    return (size_t)start * head_dim +
           (size_t)(stored - start - column) * QE_PANEL_ROWS + column;
}

static size_t
dim_at(int dim, const struct qe_kv_span *span, size_t block_stride)
{
    return (size_t)(dim / QE_PANEL_ROWS) * block_stride +
           (size_t)(dim % QE_PANEL_ROWS) * span->panel_columns;
}

void
qe_kv_store(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span, int position,
            const qe_bf16 *key, const qe_bf16 *value, int head_dim)
{
    const int columns = span->panel_columns;
    int stored = position - span->first;
    size_t stride;
    qe_bf16 *k = keys + key_at(stored, span, head_dim);
    qe_bf16 *v = values + value_at(stored, span, head_dim, &stride);

    for (int d = 0; d < head_dim; d += columns) {
        memcpy(k + (size_t)d * QE_PANEL_ROWS, key + d, (size_t)columns * sizeof *key);
    }
    for (int d = 0; d < head_dim; d++) {
        v[dim_at(d, span, stride)] = value[d];
    }
}

void
qe_kv_pad(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span, int head_dim)
{
    const int columns = span->panel_columns;
    int first = span->n_keys - span->first;
    size_t stride;

    for (int stored = first; stored < span->n_stored;) {
        int n = QE_PANEL_ROWS - stored % QE_PANEL_ROWS;
        qe_bf16 *k = keys + key_at(stored, span, head_dim);
        for (int d = 0; d < head_dim; d += columns) {
            memset(k + (size_t)d * QE_PANEL_ROWS, 0, (size_t)columns * n * sizeof *k);
        }
        stored += n;
    }
    for (; first % columns != 0; first++) {
        qe_bf16 *v = values + value_at(first, span, head_dim, &stride);
        for (int d = 0; d < head_dim; d++) {
            v[dim_at(d, span, stride)] = 0;
        }
    }
    if (first < span->n_stored) { /* complete groups, all in one tile */
        qe_bf16 *v = values + value_at(first, span, head_dim, &stride);
        size_t n_bytes = (size_t)(span->n_stored - first) * QE_PANEL_ROWS * sizeof *v;
        for (int d = 0; d < head_dim; d += QE_PANEL_ROWS) {
            memset(v + dim_at(d, span, stride), 0, n_bytes);
        }
    }
}

void
qe_kv_copy(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span,
           const qe_bf16 *prefix_keys, const qe_bf16 *prefix_values,
           const struct qe_kv_span *prefix, int head_dim)
{
    const int columns = span->panel_columns;
    qe_bf16 key[256], value[256];

    for (int i = 0; i < span->n_copied; i++) {
        int position = span->first + i;
        int stored = position - prefix->first;
        size_t stride;
        const qe_bf16 *k = prefix_keys + key_at(stored, prefix, head_dim);
        const qe_bf16 *v = prefix_values + value_at(stored, prefix, head_dim, &stride);

        for (int d = 0; d < head_dim; d += columns) {
            memcpy(key + d, k + (size_t)d * QE_PANEL_ROWS,
                   (size_t)columns * sizeof *key);
        }
        for (int d = 0; d < head_dim; d++) {
            value[d] = v[dim_at(d, prefix, stride)];
        }
        qe_kv_store(keys, values, span, position, key, value, head_dim);
    }
}
