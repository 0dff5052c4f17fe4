/* gemm_neon.c: rows times panel with FMLA on 4 floats.
 *
 * Some columns of a block of the panel are widened to fp32 once and run against all
 * rows from the L1 cache. A strip of six rows keeps its 24 sums in registers; four
 * columns of a row are widened to the lanes of one. */
#include "isa_kernels.h"

#include "neon.h"

#define STRIP_ROWS 4
#define STRIP_K 128 /* columns widened at a time */
#define QUADS (QE_PANEL_ROWS / 4)

/* w (k, 16) <- panel (k/2, 16, 2): the lower half of each 32 bits is the first. */
static void
widen_panel(float (*w)[QE_PANEL_ROWS], const qe_bf16 *panel, int k)
{
    for (int c = 0; c < k; c += 2) {
        for (int q = 0; q < QUADS; q++) {
            uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(panel + 8 * q));
            vst1q_f32(w[c] + 4 * q, vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)));
            vst1q_f32(w[c + 1] + 4 * q,
                      vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000))));
        }
        panel += 2 * QE_PANEL_ROWS;
    }
}

/* sum (6, 4) += one column, that of lane, of six rows times w (16). */
static inline __attribute__((always_inline)) void
add_column(float32x4_t sum[STRIP_ROWS][QUADS], const float32x4_t rows[STRIP_ROWS],
           const float *w, const int lane)
{
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q++) {
        float32x4_t column = vld1q_f32(w + 4 * q);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++) {
            switch (lane) {
            case 0:
                sum[r][q] = vfmaq_laneq_f32(sum[r][q], column, rows[r], 0);
                break;
            case 1:
                sum[r][q] = vfmaq_laneq_f32(sum[r][q], column, rows[r], 1);
                break;
            case 2:
                sum[r][q] = vfmaq_laneq_f32(sum[r][q], column, rows[r], 2);
                break;
            default:
                sum[r][q] = vfmaq_laneq_f32(sum[r][q], column, rows[r], 3);
                break;
            }
        }
    }
}

/* y (n_rows, 16), rows ldy apart, = or += x (n_rows, k), rows row_bytes apart, times w
 * (k, 16). A strip of fewer rows repeats its last one, and stores the same sums again.
 */
static void
multiply_strip(float *y, size_t ldy, const unsigned char *x, size_t row_bytes,
               int n_rows, float (*w)[QE_PANEL_ROWS], int k, bool accumulate)
{
    const unsigned char *rows[STRIP_ROWS];
    float *sums[STRIP_ROWS];
    float32x4_t sum[STRIP_ROWS][QUADS];

#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) {
        const size_t row = (size_t)(r < n_rows ? r : n_rows - 1);
        rows[r] = x + row * row_bytes;
        sums[r] = y + row * ldy;
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) {
            sum[r][q] = accumulate ? vld1q_f32(sums[r] + 4 * q) : vdupq_n_f32(0);
        }
    }
    for (int c = 0; c < k; c += 4) {
        float32x4_t wide[STRIP_ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++) {
            uint16x4_t halves = vreinterpret_u16_u8(vld1_u8(rows[r] + 2 * c));
            wide[r] = vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
        }
        add_column(sum, wide, w[c], 0);
        add_column(sum, wide, w[c + 1], 1);
        add_column(sum, wide, w[c + 2], 2);
        add_column(sum, wide, w[c + 3], 3);
    }
#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) {
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) {
            vst1q_f32(sums[r] + 4 * q, sum[r][q]);
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    const size_t row_bytes = ldx * sizeof(qe_bf16);
    float w[STRIP_K][QE_PANEL_ROWS];

    for (int column = 0; column < n; column += QE_PANEL_ROWS) {
        for (int k0 = 0; k0 < k; k0 += STRIP_K) {
            const int n_k = k - k0 < STRIP_K ? k - k0 : STRIP_K;
            const unsigned char *rows = (const unsigned char *)x + 2 * (size_t)k0;
            widen_panel(w, panel + (size_t)k0 * QE_PANEL_ROWS, n_k);
            for (int row = 0; row < m; row += STRIP_ROWS) {
                multiply_strip(y + (size_t)row * ldy + column, ldy,
                               rows + (size_t)row * row_bytes, row_bytes,
                               m - row < STRIP_ROWS ? m - row : STRIP_ROWS, w, n_k,
                               accumulate || k0 > 0);
            }
        }
        panel += block_stride;
    }
}
