/* attention.c: causal softmax attention of one block of queries, for all heads that
 * share one kv head, so that a tile of keys and values is loaded into the caches once
 * for all of them.
 *
 * Keys come in tiles of QE_KEY_TILE positions, each already a panel, so both products
 * are multiply() of isa.h. The tiles are combined by online softmax (Milakov and
 * Gimelshein, arXiv 1805.02867): a running maximum, a running denominator, and an
 * accumulator rescaled when the maximum grows. The denominator sums the probabilities
 * after rounding to bf16, as they multiply the values, so that the weights sum to 1. */
#include <math.h>

#include "../arithmetic.h"
#include "isa_kernels.h"
#include "ops.h"
#include "vec.h"

static void
multiply_row(float *y, int n, float factor)
{
    for (int i = 0; i < n; i += QE_LANES) {
        vec_store(y + i, vec_load(y + i) * factor);
    }
}

/* A tile of keys and values, and the score buffers that the heads use one after
 * another. */
struct tile {
    const qe_bf16 *keys, *values;
    int start; /* text position of the first key                    */
    int n;     /* positions that at least one query sees, padded */
    int n_stored;
    float *s;   /* (n_rows, KEY_TILE) scores        */
    qe_bf16 *p; /* (n_rows, KEY_TILE) probabilities */
};

/* The queries and running result of one head. */
struct head {
    const qe_bf16 *q;            /* (n_rows, HS), rows ldq apart */
    float *o;                    /* (n_rows, HS)                 */
    struct qe_softmax_row *rows; /* (n_rows)                     */
};

static void
attend_tile(const struct qe_attend *a, const struct tile *t, const struct head *head)
{
    const int head_dim = a->head_dim;
    const float scale = 1.44269504088896f / sqrtf((float)head_dim);
    float *o = head->o;

    ISA(qe_multiply)
    (t->s, QE_KEY_TILE, head->q, a->ldq, a->n_rows, t->keys,
     (size_t)QE_PANEL_ROWS * head_dim, t->n, head_dim, false);
    for (int i = 0; i < a->n_rows; i++) {
        int n_valid = a->position + i + 1 - t->start;
        float rescale =
            ISA(qe_softmax_step)(t->p + i * QE_KEY_TILE, t->s + i * QE_KEY_TILE, t->n,
                                 n_valid, scale, &head->rows[i]);
        if (rescale != 1.0f && t->start > 0) {
            multiply_row(o + (size_t)i * head_dim, head_dim, rescale);
        }
    }
    ISA(qe_multiply)
    (o, head_dim, t->p, QE_KEY_TILE, a->n_rows, t->values,
     (size_t)QE_PANEL_ROWS * t->n_stored, head_dim, t->n, t->start > 0);
}

static struct tile
find_tile(const struct qe_attend *a, int start)
{
    bool in_prefix = start < a->n_prefix;
    size_t offset = (size_t)(in_prefix ? start : start - a->n_prefix) * a->head_dim;
    int end = a->position + a->n_rows;
    int n = smaller(end - start, QE_KEY_TILE);
    int n_stored = smaller(a->n_keys - start, QE_KEY_TILE);

    return (struct tile){
        .keys = (in_prefix ? a->prefix_keys : a->keys) + offset,
        .values = (in_prefix ? a->prefix_values : a->values) + offset,
        .start = start,
        .n = (n + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP,
        .n_stored = (n_stored + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP,
    };
}

static struct head
find_head(const struct qe_attend *a, float *scratch, int index)
{
    float *o = scratch + (size_t)index * QE_HEAD_FLOATS(a->head_dim);

    return (struct head){
        .q = a->q + (size_t)index * a->head_dim,
        .o = o,
        .rows = (struct qe_softmax_row *)(o + QE_QUERY_BLOCK * a->head_dim),
    };
}

static void
store_head(const struct qe_attend *a, const struct head *head, qe_bf16 *y)
{
    for (int i = 0; i < a->n_rows; i++) {
        float inverse = 1.0f / head->rows[i].denominator;
        for (int j = 0; j < a->head_dim; j += QE_LANES) {
            vec_store_bf16(y + i * a->ldq + j,
                           vec_load(head->o + (size_t)i * a->head_dim + j) * inverse);
        }
    }
}

void
ISA(qe_attend)(const struct qe_attend *a, float *scratch)
{
    float *s = scratch + (size_t)a->n_heads * QE_HEAD_FLOATS(a->head_dim);
    qe_bf16 *p = (qe_bf16 *)(s + QE_QUERY_BLOCK * QE_KEY_TILE);

    for (int h = 0; h < a->n_heads; h++) {
        struct head head = find_head(a, scratch, h);
        for (int i = 0; i < a->n_rows; i++) {
            head.rows[i] =
                (struct qe_softmax_row){.max = -INFINITY, .denominator = 0.0f};
        }
    }
    for (int start = 0; start < a->position + a->n_rows; start += QE_KEY_TILE) {
        struct tile tile = find_tile(a, start);
        tile.s = s;
        tile.p = p;
        for (int h = 0; h < a->n_heads; h++) {
            struct head head = find_head(a, scratch, h);
            attend_tile(a, &tile, &head);
        }
    }
    for (int h = 0; h < a->n_heads; h++) {
        struct head head = find_head(a, scratch, h);
        store_head(a, &head, a->y + (size_t)h * a->head_dim);
    }
}
