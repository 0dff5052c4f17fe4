/* attention.c: causal softmax attention of one block of queries, one head.
 *
 * Keys come in tiles of QE_KEY_TILE positions, each already a panel, so both products
 * are multiply() of isa.h. Across tiles runs the online softmax (Milakov and
 * Gimelshein, arXiv 1805.02867): a running maximum, a running denominator, and an
 * accumulator rescaled when the maximum grows. The denominator sums the probabilities
 * as rounded to bf16, the ones that weigh the values, so that the weights add up to 1.
 */
#include <math.h>

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

void
ISA(qe_attend)(const struct qe_attend *a, float *scratch)
{
    const int head_dim = a->head_dim;
    const float scale = 1.44269504088896f / sqrtf((float)head_dim);
    float *o = scratch;                                         /* (n_rows, HS)       */
    float *s = o + QE_QUERY_BLOCK * head_dim;                   /* (n_rows, KEY_TILE) */
    qe_bf16 *p = (qe_bf16 *)(s + QE_QUERY_BLOCK * QE_KEY_TILE); /* (n_rows, KEY_TILE) */
    struct qe_softmax_row *rows =
        (struct qe_softmax_row *)(p + QE_QUERY_BLOCK * QE_KEY_TILE); /* (n_rows) */
    int end = a->position + a->n_rows;

    for (int i = 0; i < a->n_rows; i++) {
        rows[i] = (struct qe_softmax_row){.max = -INFINITY, .denominator = 0.0f};
    }
    for (int start = 0; start < end; start += QE_KEY_TILE) {
        bool in_prefix = start < a->n_prefix;
        size_t offset = (size_t)(in_prefix ? start : start - a->n_prefix) * head_dim;
        const qe_bf16 *keys = (in_prefix ? a->prefix_keys : a->keys) + offset;
        const qe_bf16 *values = (in_prefix ? a->prefix_values : a->values) + offset;
        int n = a->n_keys - start < QE_KEY_TILE ? a->n_keys - start : QE_KEY_TILE;
        n = (n + QE_K_STEP - 1) / QE_K_STEP * QE_K_STEP;

        ISA(qe_multiply)
        (s, QE_KEY_TILE, a->q, a->ldq, a->n_rows, keys,
         (size_t)QE_PANEL_ROWS * head_dim, n / QE_PANEL_ROWS, head_dim, false);
        for (int i = 0; i < a->n_rows; i++) {
            int n_valid = a->position + i + 1 - start;
            float rescale = ISA(qe_softmax_step)(
                p + i * QE_KEY_TILE, s + i * QE_KEY_TILE, n, n_valid, scale, &rows[i]);
            if (rescale != 1.0f && start > 0) {
                multiply_row(o + (size_t)i * head_dim, head_dim, rescale);
            }
        }
        ISA(qe_multiply)
        (o, head_dim, p, QE_KEY_TILE, a->n_rows, values, (size_t)QE_PANEL_ROWS * n,
         head_dim / QE_PANEL_ROWS, n, start > 0);
    }
    for (int i = 0; i < a->n_rows; i++) {
        float inverse = 1.0f / rows[i].denominator;
        for (int j = 0; j < head_dim; j += QE_LANES) {
            vec_store_bf16(a->y + i * a->ldq + j,
                           vec_load(o + (size_t)i * head_dim + j) * inverse);
        }
    }
}
