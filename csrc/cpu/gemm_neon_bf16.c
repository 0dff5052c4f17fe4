/* gemm_neon_bf16.c: rows times panel with BFMMLA, which adds the products of 2 x 4 by
 * 4 x 2 values of bf16 to 2 x 2 sums.
 *
 * A strip of six rows times one block of the panel keeps its 24 sums in registers over
 * the whole of k. Eight columns of two rows are zipped into two operands; two rows of
 * the panel lie in it as one.
 *
 * Unless FPCR.EBF is set, which Linux leaves clear, the instruction adds two products,
 * then the next two, each pair to the sum, rounds to odd and takes subnormals for zero:
 * the same bits on every processor, a unit in the last place from the exact sum where
 * rounding to nearest is half of one. */
#include "isa_kernels.h"

#include "neon.h"
#include <string.h>

#define STRIP_ROWS 4
#define ROW_PAIRS (STRIP_ROWS / 2)
#define QUADS (QE_PANEL_ROWS / 4)
#define CACHE_LINE 64

/* One row of the strip's sums is the upper halves of its pairs', the other the lower.
 */
static inline float32x4_t
first_of(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
}

static inline float32x4_t
second_of(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
}

/* sum (3, 8) of pairs += four columns of the strip times those of the panel. */
static inline __attribute__((always_inline)) void
add_columns(float32x4_t sum[ROW_PAIRS][2 * QUADS], const uint64x2_t rows[ROW_PAIRS],
            const qe_bf16 *panel)
{
    bfloat16x8_t columns[2 * QUADS];

#pragma GCC unroll 8
    for (int p = 0; p < 2 * QUADS; p++) {
        columns[p] = vreinterpretq_bf16_u16(vld1q_u16(panel + 8 * p));
    }
#pragma GCC unroll 2
    for (int r = 0; r < ROW_PAIRS; r++) {
#pragma GCC unroll 8
        for (int p = 0; p < 2 * QUADS; p++) {
            sum[r][p] =
                vbfmmlaq_f32(sum[r][p], vreinterpretq_bf16_u64(rows[r]), columns[p]);
        }
    }
}

/* y (n_rows, 16), rows ldy apart, = or += x (n_rows, k), rows row_bytes apart, times
 * one block of the panel. A strip of fewer rows repeats its last one, and stores the
 * same sums again. */
static void
multiply_strip(float *y, size_t ldy, const unsigned char *x, size_t row_bytes,
               int n_rows, const qe_bf16 *panel, int k, bool accumulate)
{
    const unsigned char *rows[STRIP_ROWS];
    float *sums[STRIP_ROWS];
    float32x4_t sum[ROW_PAIRS][2 * QUADS];

#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) {
        const size_t row = (size_t)(r < n_rows ? r : n_rows - 1);
        rows[r] = x + row * row_bytes;
        sums[r] = y + row * ldy;
    }
#pragma GCC unroll 3
    for (int r = 0; r < ROW_PAIRS; r++) {
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) {
            float32x4_t a = vdupq_n_f32(0), b = a;
            if (accumulate) {
                a = vld1q_f32(sums[2 * r] + 4 * q);
                b = vld1q_f32(sums[2 * r + 1] + 4 * q);
            }
            sum[r][2 * q] = first_of(a, b);
            sum[r][2 * q + 1] = second_of(a, b);
        }
    }
    for (size_t at = 0; at < 2 * (size_t)k; at += 16) {
        uint64x2_t first[ROW_PAIRS], second[ROW_PAIRS];
        if (at % CACHE_LINE == 0) {
#pragma GCC unroll 6
            for (int r = 0; r < STRIP_ROWS; r++) {
                __builtin_prefetch(rows[r] + at + STRIP_ROWS * row_bytes, 0, 2);
            }
        }
#pragma GCC unroll 3
        for (int r = 0; r < ROW_PAIRS; r++) {
            uint64x2_t a = vreinterpretq_u64_u8(vld1q_u8(rows[2 * r] + at));
            uint64x2_t b = vreinterpretq_u64_u8(vld1q_u8(rows[2 * r + 1] + at));
            first[r] = vzip1q_u64(a, b);
            second[r] = vzip2q_u64(a, b);
        }
        add_columns(sum, first, panel);
        add_columns(sum, second, panel + 4 * QE_PANEL_ROWS);
        panel += 8 * QE_PANEL_ROWS;
    }
#pragma GCC unroll 3
    for (int r = 0; r < ROW_PAIRS; r++) {
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) {
            vst1q_f32(sums[2 * r] + 4 * q, first_of(sum[r][2 * q], sum[r][2 * q + 1]));
            vst1q_f32(sums[2 * r + 1] + 4 * q,
                      second_of(sum[r][2 * q], sum[r][2 * q + 1]));
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    const size_t row_bytes = ldx * sizeof(qe_bf16);

    for (int column = 0; column < n; column += QE_PANEL_ROWS) {
        for (int row = 0; row < m; row += STRIP_ROWS) {
            multiply_strip(y + (size_t)row * ldy + column, ldy,
                           (const unsigned char *)x + (size_t)row * row_bytes,
                           row_bytes, m - row < STRIP_ROWS ? m - row : STRIP_ROWS,
                           panel, k, accumulate);
        }
        panel += block_stride;
    }
}
