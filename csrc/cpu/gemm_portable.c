/* gemm_portable.c: rows times panel in plain C, for any machine.
 *
 * Two rows and one block at a time, over columns that are widened to fp32 once; the
 * compiler turns the loops over 16 sums into what vectors it has. */
#include "isa_kernels.h"

#include <string.h>

static float
widen(const unsigned char *bf16)
{
    qe_bf16 half;
    float x;

    memcpy(&half, bf16, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* w (2, 16) <- panel (16, 2) */
static void
widen_pairs(float w[2][QE_PANEL_ROWS], const qe_bf16 *panel)
{
    uint32_t bits[2][QE_PANEL_ROWS];

    for (int i = 0; i < QE_PANEL_ROWS; i++) {
        bits[0][i] = (uint32_t)panel[2 * i] << 16;
        bits[1][i] = (uint32_t)panel[2 * i + 1] << 16;
    }
    memcpy(w, bits, sizeof bits);
}

/* y (2, 16) += x (2, 32) times w (32, 16); the rows of x and y may be the same. */
static void
multiply_rows(float *y[2], const unsigned char *x[2], float w[QE_K_STEP][QE_PANEL_ROWS])
{
    float sum[2][QE_PANEL_ROWS];

    memcpy(sum[0], y[0], sizeof sum[0]);
    memcpy(sum[1], y[1], sizeof sum[1]);
    for (int c = 0; c < QE_K_STEP; c++) {
        float a = widen(x[0] + 2 * c);
        float b = widen(x[1] + 2 * c);
        for (int i = 0; i < QE_PANEL_ROWS; i++) {
            sum[0][i] += a * w[c][i];
            sum[1][i] += b * w[c][i];
        }
    }
    memcpy(y[0], sum[0], sizeof sum[0]);
    memcpy(y[1], sum[1], sizeof sum[1]);
}

/* y (n_rows, 16) += x (n_rows, k) times one block of the panel. */
static void
multiply_block(float *y, size_t ldy, const unsigned char *x, size_t row_bytes,
               int n_rows, const qe_bf16 *panel, int k)
{
    for (int k0 = 0; k0 < k; k0 += QE_K_STEP) {
        float w[QE_K_STEP][QE_PANEL_ROWS];
        for (int p = 0; p < QE_K_STEP; p += 2) {
            widen_pairs(&w[p], panel + (size_t)(k0 + p) * QE_PANEL_ROWS);
        }
        for (int r = 0; r < n_rows; r += 2) {
            size_t pair[2] = {(size_t)r, (size_t)(r + 1 < n_rows ? r + 1 : r)};
            float *rows_y[2] = {y + pair[0] * ldy, y + pair[1] * ldy};
            const unsigned char *rows_x[2] = {x + pair[0] * row_bytes + 2 * (size_t)k0,
                                              x + pair[1] * row_bytes + 2 * (size_t)k0};
            multiply_rows(rows_y, rows_x, w);
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n_blocks, int k,
                 bool accumulate)
{
    for (int r = 0; r < m && !accumulate; r++) {
        memset(y + (size_t)r * ldy, 0, sizeof *y * QE_PANEL_ROWS * (size_t)n_blocks);
    }
    for (int b = 0; b < n_blocks; b++) {
        multiply_block(y + QE_PANEL_ROWS * b, ldy, x, ldx * sizeof(qe_bf16), m,
                       panel + b * block_stride, k);
    }
}
