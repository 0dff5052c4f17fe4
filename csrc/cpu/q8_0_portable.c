/* q8_0_portable.c: Q8_0 rows times panel in plain C, as in int8_portable.c. */
#include "isa_kernels.h"

#include <math.h>

#include "../floats.h"
#include "q8_0.h"

/* part (16) += one Q8_0 block of a row times 32 columns of one block of the panel. */
static void
add_block(float part[QE_PANEL_ROWS], const unsigned char *w, const int16_t *panel)
{
    const float scale = qe_float_of_f16(qe_q8_0_scale(w));
    const int8_t *values = qe_q8_0_values(w);
    int32_t sum[QE_PANEL_ROWS] = {0};

    for (int c = 0; c < QE_Q8_0_BLOCK; c += 2) {
        int16_t a = values[c], b = values[c + 1];
        for (int i = 0; i < QE_PANEL_ROWS; i++) {
            sum[i] += a * panel[2 * i] + b * panel[2 * i + 1];
        }
        panel += 2 * QE_PANEL_ROWS;
    }
    for (int i = 0; i < QE_PANEL_ROWS; i++) {
        part[i] = fmaf((float)sum[i], scale, part[i]);
    }
}

void
ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate)
{
    for (int block = 0; block < m; block += QE_PANEL_ROWS) {
        const int16_t *values =
            (const int16_t *)(const void *)((const unsigned char *)panel->values +
                                            block / QE_PANEL_ROWS * panel->block_bytes);
        const float *scales =
            panel->scales + block / QE_PANEL_ROWS * panel->scale_stride;
        for (int r = 0; r < n; r++) {
            float *row = y + r * ldy + block;
            for (int g = 0; g < n_groups; g++) {
                float part[QE_PANEL_ROWS] = {0};
                for (int b = g * QE_Q8_0_BLOCKS; b < (g + 1) * QE_Q8_0_BLOCKS; b++) {
                    add_block(part,
                              w->blocks + r * w->row_bytes + (size_t)b * QE_Q8_0_BYTES,
                              values + (size_t)b * QE_Q8_0_BLOCK * QE_PANEL_ROWS);
                }
                for (int i = 0; i < QE_PANEL_ROWS; i++) {
                    row[i] = fmaf(part[i], scales[g * QE_PANEL_ROWS + i],
                                  g > 0 || accumulate ? row[i] : 0.0f);
                }
            }
        }
    }
}
