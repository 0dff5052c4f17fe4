/* int8_portable.c: int8 rows times panel in plain C. Panels hold 16-bit values, which
 * compilers multiply and add in pairs. */
#include "isa_kernels.h"

#include <math.h>

/* sum (16) = one group of a row times one block of the panel. */
static void
multiply_group(int32_t sum[QE_PANEL_ROWS], const int8_t *w, const int16_t *panel)
{
    for (int i = 0; i < QE_PANEL_ROWS; i++) {
        sum[i] = 0;
    }
    for (int c = 0; c < QE_GROUP; c += 2) {
        int16_t a = w[c];
        int16_t b = w[c + 1];
        for (int i = 0; i < QE_PANEL_ROWS; i++) {
            sum[i] += a * panel[2 * i] + b * panel[2 * i + 1];
        }
        panel += 2 * QE_PANEL_ROWS;
    }
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    for (int block = 0; block < m; block += QE_PANEL_ROWS) {
        const unsigned char *values = (const unsigned char *)panel->values +
                                      block / QE_PANEL_ROWS * panel->block_bytes;
        const float *scales =
            panel->scales + block / QE_PANEL_ROWS * panel->scale_stride;
        for (int r = 0; r < n; r++) {
            float *row = y + r * ldy + block;
            for (int g = 0; g < n_groups; g++) {
                int32_t sum[QE_PANEL_ROWS];
                multiply_group(sum, w->values + r * w->row_bytes + (size_t)g * QE_GROUP,
                               (const int16_t *)(const void *)values +
                                   (size_t)g * QE_GROUP * QE_PANEL_ROWS);
                for (int i = 0; i < QE_PANEL_ROWS; i++) {
                    row[i] = fmaf((float)sum[i], scales[g * QE_PANEL_ROWS + i],
                                  g > 0 || accumulate ? row[i] : 0.0f);
                }
            }
            for (int i = 0; i < QE_PANEL_ROWS && finish; i++) {
                row[i] *= w->scales[r];
            }
        }
    }
}
