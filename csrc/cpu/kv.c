/* kv.c: scatters keys and values into panels. That is a few hundred bytes per token and
 * head, against megabytes of weights, so plain C is fast enough. */
#include "kv.h"

#include <string.h>

#include "../arithmetic.h"
#include "ops.h"

struct qe_kv_span
qe_kv_span(int n_prefix, int n_tokens)
{
    struct qe_kv_span span = {.n_keys = n_prefix + n_tokens};

    span.first = n_prefix - n_prefix % QE_KEY_TILE;
    span.n_copied = n_prefix - span.first;
    span.n_stored = (span.n_keys - span.first + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP;
    return span;
}

/* Offset of dim 0 of a stored position in keys. Pairs of dims lie 2 * 16 elements
 * apart. */
static size_t
key_at(int stored, int head_dim)
{
    return (size_t)(stored / QE_PANEL_ROWS) * QE_PANEL_ROWS * head_dim +
           (size_t)(stored % QE_PANEL_ROWS) * 2;
}

/* Offset of dim 0 of a stored position in values. *block_stride is the distance between
 * groups of 16 dims; dims of a group lie 2 elements apart. */
static size_t
value_at(int stored, const struct qe_kv_span *span, int head_dim, size_t *block_stride)
{
    int start = stored - stored % QE_KEY_TILE;
    int left = span->n_stored - start;

    *block_stride = (size_t)smaller(left, QE_KEY_TILE) * QE_PANEL_ROWS;
    return (size_t)start * head_dim + (size_t)(stored - start) / 2 * 2 * QE_PANEL_ROWS +
           stored % 2;
}

void
qe_kv_store(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span, int position,
            const qe_bf16 *key, const qe_bf16 *value, int head_dim)
{
    int stored = position - span->first;
    size_t stride;
    qe_bf16 *k = keys + key_at(stored, head_dim);
    qe_bf16 *v = values + value_at(stored, span, head_dim, &stride);

    for (int pair = 0; pair < head_dim / 2; pair++) {
        memcpy(k + (size_t)pair * 2 * QE_PANEL_ROWS, key + 2 * pair, 2 * sizeof *key);
    }
    for (int d = 0; d < head_dim; d++) {
        v[(size_t)(d / QE_PANEL_ROWS) * stride + (size_t)(d % QE_PANEL_ROWS) * 2] =
            value[d];
    }
}

void
qe_kv_pad(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span, int head_dim)
{
    int first = span->n_keys - span->first;
    size_t stride;

    for (int stored = first; stored < span->n_stored;) {
        int n = QE_PANEL_ROWS - stored % QE_PANEL_ROWS;
        qe_bf16 *k = keys + key_at(stored, head_dim);
        for (int pair = 0; pair < head_dim / 2; pair++) {
            memset(k + (size_t)pair * 2 * QE_PANEL_ROWS, 0, 2 * n * sizeof *k);
        }
        stored += n;
    }
    if (first % 2 != 0) {
        qe_bf16 *v = values + value_at(first, span, head_dim, &stride);
        for (int d = 0; d < head_dim; d++) {
            v[(size_t)(d / QE_PANEL_ROWS) * stride + (size_t)(d % QE_PANEL_ROWS) * 2] =
                0;
        }
        first++;
    }
    if (first < span->n_stored) { /* complete pairs, all in one tile */
        qe_bf16 *v = values + value_at(first, span, head_dim, &stride);
        size_t n_bytes = (size_t)(span->n_stored - first) * QE_PANEL_ROWS * sizeof *v;
        for (int d = 0; d < head_dim; d += QE_PANEL_ROWS) {
            memset(v + (size_t)(d / QE_PANEL_ROWS) * stride, 0, n_bytes);
        }
    }
}

void
qe_kv_copy(qe_bf16 *keys, qe_bf16 *values, const struct qe_kv_span *span,
           const qe_bf16 *prefix_keys, const qe_bf16 *prefix_values,
           const struct qe_kv_span *prefix, int head_dim)
{
    qe_bf16 key[256], value[256];

    for (int i = 0; i < span->n_copied; i++) {
        int position = span->first + i;
        int stored = position - prefix->first;
        size_t stride;
        const qe_bf16 *k = prefix_keys + key_at(stored, head_dim);
        const qe_bf16 *v = prefix_values + value_at(stored, prefix, head_dim, &stride);

        for (int pair = 0; pair < head_dim / 2; pair++) {
            memcpy(key + 2 * pair, k + (size_t)pair * 2 * QE_PANEL_ROWS,
                   2 * sizeof *key);
        }
        for (int d = 0; d < head_dim; d++) {
            value[d] = v[(size_t)(d / QE_PANEL_ROWS) * stride +
                         (size_t)(d % QE_PANEL_ROWS) * 2];
        }
        qe_kv_store(keys, values, span, position, key, value, head_dim);
    }
}
