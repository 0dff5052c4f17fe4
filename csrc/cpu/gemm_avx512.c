/* gemm_avx512.c: rows times panel with VDPBF16PS, which adds two products of bf16, in
 * order, to each of 16 sums.
 *
 * A strip of a few rows times up to four blocks of the panel keeps its sums in
 * registers over the whole of k. Two columns of a row are one broadcast. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define MAX_ROWS 8
#define MAX_BLOCKS 4

struct strip {
    float *y; /* (n_rows, 16 * blocks), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    int n_rows;
    const qe_bf16 *panel; /* (blocks, k/2, 16, 2), blocks block_stride apart */
    size_t block_stride;
    int k;
    bool accumulate;
    size_t ahead_bytes; /* from a row to what is needed after this strip */
};

static inline __attribute__((always_inline)) __m512bh
broadcast_pair(const unsigned char *x)
{
    int32_t pair;

    memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* rows and blocks are constants where this is inlined: it becomes straight code. A
 * strip of fewer rows repeats its last one, and stores the same sums again. */
static inline __attribute__((always_inline)) void
multiply_strip(const struct strip *s, const int rows, const int blocks)
{
    const __mmask16 initial = s->accumulate ? 0xffff : 0;
    const unsigned char *x[MAX_ROWS];
    float *y[MAX_ROWS];
    __m512 sum[MAX_ROWS][MAX_BLOCKS];

    for (int r = 0; r < rows; r++) {
        int row = r < s->n_rows ? r : s->n_rows - 1;
        x[r] = s->x + (size_t)row * s->row_bytes;
        y[r] = s->y + (size_t)row * s->ldy;
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_maskz_loadu_ps(initial, y[r] + 16 * b);
        }
    }
    const qe_bf16 *panel = s->panel;
    for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
        for (int r = 0; r < rows; r++) {
            _mm_prefetch((const char *)x[r] + s->ahead_bytes, _MM_HINT_T1);
        }
#pragma GCC unroll 4
        for (int pair = 0; pair < QE_K_STEP / 2; pair++) {
            __m512bh w[MAX_BLOCKS];
            for (int b = 0; b < blocks; b++) {
                w[b] = (__m512bh)_mm512_loadu_si512(panel + b * s->block_stride);
            }
            for (int r = 0; r < rows; r++) {
                __m512bh a = broadcast_pair(x[r] + 4 * pair);
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_dpbf16_ps(sum[r][b], w[b], a);
                }
            }
            panel += 2 * QE_PANEL_ROWS;
        }
        for (int r = 0; r < rows; r++) {
            x[r] += 2 * QE_K_STEP;
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            _mm512_storeu_ps(y[r] + 16 * b, sum[r][b]);
        }
    }
}

static void
multiply_blocks(const struct strip *s, int n_blocks)
{
    switch (n_blocks) {
    case 1:
        multiply_strip(s, 8, 1);
        break;
    case 2:
        multiply_strip(s, 8, 2);
        break;
    case 3:
        multiply_strip(s, 8, 3);
        break;
    default:
        multiply_strip(s, 6, 4);
        break;
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n_blocks, int k,
                 bool accumulate)
{
    int max_rows = n_blocks < MAX_BLOCKS ? 8 : 6;
    struct strip s = {
        .ldy = ldy,
        .row_bytes = ldx * sizeof(qe_bf16),
        .block_stride = block_stride,
        .k = k,
        .accumulate = accumulate,
    };

    for (int row = 0; row < m; row += max_rows) {
        s.n_rows = m - row < max_rows ? m - row : max_rows;
        s.x = (const unsigned char *)x + (size_t)row * s.row_bytes;
        s.ahead_bytes = (size_t)max_rows * s.row_bytes;
        for (int b = 0; b < n_blocks; b += MAX_BLOCKS) {
            s.y = y + (size_t)row * ldy + QE_PANEL_ROWS * b;
            s.panel = panel + b * block_stride;
            multiply_blocks(&s, n_blocks - b);
            s.ahead_bytes = 0; /* only once: the strip is now in the cache */
        }
    }
}
