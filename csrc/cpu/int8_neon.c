/* int8_neon.c: int8 rows times panel with SMMLA or SDOT, see int8_neon.h.
 *
 * Four rows are multiplied by one block of the panel together; the integer sums of one
 * group stay in registers. After each group they are scaled and accumulated as floats,
 * in the L1 cache. */
#include "int8_neon.h"

/* y (n_rows, 16), rows ldy apart, = or += the rows times one block of the panel. A
 * strip that has fewer rows than STRIP_ROWS reads its last row again for each missing
 * one and does not store the result. */
static void
multiply_strip(float *y, size_t ldy, const struct qe_int8_rows *rows, int n_rows,
               const int8_t *panel, const float *scales, int n_groups, bool accumulate,
               bool finish)
{
    const int8_t *w[STRIP_ROWS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        w[r] = rows->values + (size_t)(r < n_rows ? r : n_rows - 1) * rows->row_bytes;
    }
    for (int g = 0; g < n_groups; g++) {
        const bool first = g == 0 && !accumulate, last = g == n_groups - 1 && finish;
        const struct sums sums = sum_columns(w, panel, QE_GROUP);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++) {
            w[r] += QE_GROUP;
            for (int q = 0; r < n_rows && q < QUADS; q++) {
                float *to = y + r * ldy + 4 * q;
                float32x4_t total = first ? vdupq_n_f32(0) : vld1q_f32(to);
                total = vfmaq_f32(total, vcvtq_f32_s32(sum_of(&sums, r, q)),
                                  vld1q_f32(scales + 4 * q));
                vst1q_f32(to, last ? vmulq_n_f32(total, rows->scales[r]) : total);
            }
        }
        panel += QE_GROUP * QE_PANEL_ROWS;
        scales += QE_PANEL_ROWS;
    }
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
        struct qe_int8_rows rows = *w;
        for (int row = 0; row < n; row += STRIP_ROWS) {
            multiply_strip(y + row * ldy + block * QE_PANEL_ROWS, ldy, &rows,
                           n - row < STRIP_ROWS ? n - row : STRIP_ROWS,
                           (const int8_t *)panel->values + block * panel->block_bytes,
                           panel->scales + block * panel->scale_stride, n_groups,
                           accumulate, finish);
            rows.values += STRIP_ROWS * rows.row_bytes;
            rows.scales += STRIP_ROWS;
        }
    }
}
