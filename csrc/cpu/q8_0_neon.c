/* q8_0_neon.c: Q8_0 rows times panel with SMMLA or SDOT, as in int8_neon.c. The sums of
 * each 32 columns are scaled and accumulated as floats, in the L1 cache. */
#include "int8_neon.h"
#include "q8_0.h"

static float
scale_of(const unsigned char *block)
{
    uint16_t bits = qe_q8_0_scale(block);
    __fp16 scale;

    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* part (4, 16) = or += one Q8_0 block of each row times 32 columns of one block of the
 * panel. */
static inline __attribute__((always_inline)) void
add_block(float part[STRIP_ROWS][QE_PANEL_ROWS],
          const unsigned char *const blocks[STRIP_ROWS], const int8_t *panel,
          bool is_first)
{
    const int8_t *w[STRIP_ROWS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        w[r] = qe_q8_0_values(blocks[r]);
    }
    const struct sums sums = sum_columns(w, panel, QE_Q8_0_BLOCK);
#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) {
        const float scale = scale_of(blocks[r]);
        for (int q = 0; q < QUADS; q++) {
            float32x4_t before = is_first ? vdupq_n_f32(0) : vld1q_f32(part[r] + 4 * q);
            vst1q_f32(part[r] + 4 * q,
                      vfmaq_n_f32(before, vcvtq_f32_s32(sum_of(&sums, r, q)), scale));
        }
    }
}

/* y (n_rows, 16), rows ldy apart, = or += the rows times one block of the panel. A
 * strip that has fewer rows than STRIP_ROWS reads its last row again for each missing
 * one and does not store the result. */
static void
multiply_strip(float *y, size_t ldy, const struct qe_q8_0_rows *rows, int n_rows,
               const int8_t *panel, const float *scales, int n_groups, bool accumulate)
{
    const unsigned char *w[STRIP_ROWS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        w[r] = rows->blocks + (size_t)(r < n_rows ? r : n_rows - 1) * rows->row_bytes;
    }
    for (int g = 0; g < n_groups; g++) {
        float part[STRIP_ROWS][QE_PANEL_ROWS];
        for (int b = 0; b < QE_Q8_0_BLOCKS; b++) {
            add_block(part, w, panel, b == 0);
            panel += QE_Q8_0_BLOCK * QE_PANEL_ROWS;
            for (int r = 0; r < STRIP_ROWS; r++) {
                w[r] += QE_Q8_0_BYTES;
            }
        }
        for (int r = 0; r < n_rows; r++) {
            for (int q = 0; q < QUADS; q++) {
                float *to = y + r * ldy + 4 * q;
                float32x4_t before =
                    g == 0 && !accumulate ? vdupq_n_f32(0) : vld1q_f32(to);
                vst1q_f32(to, vfmaq_f32(before, vld1q_f32(part[r] + 4 * q),
                                        vld1q_f32(scales + 4 * q)));
            }
        }
        scales += QE_PANEL_ROWS;
    }
}

void
ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate)
{
    for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
        struct qe_q8_0_rows rows = *w;
        for (int row = 0; row < n; row += STRIP_ROWS) {
            multiply_strip(y + row * ldy + block * QE_PANEL_ROWS, ldy, &rows,
                           n - row < STRIP_ROWS ? n - row : STRIP_ROWS,
                           (const int8_t *)panel->values + block * panel->block_bytes,
                           panel->scales + block * panel->scale_stride, n_groups,
                           accumulate);
            rows.blocks += STRIP_ROWS * rows.row_bytes;
        }
    }
}
