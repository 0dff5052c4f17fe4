/* gemm_portable.c: rows times panel for any machine, in the compiler's vectors of four
 * floats, which it lowers to the registers there are.
 *
 * Two rows and one block at a time, over columns that are widened to fp32 once. */
#include "isa_kernels.h"

#include <string.h>

#define N_QUADS (QE_PANEL_ROWS / 4)

typedef float quad __attribute__((vector_size(16)));

static float
widen(qe_bf16 half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* w (32, 16) <- panel (16, 16, 2) */
static void
widen_panel(float w[QE_K_STEP][QE_PANEL_ROWS], const qe_bf16 *panel)
{
    for (int c = 0; c < QE_K_STEP; c += 2) {
        for (int i = 0; i < QE_PANEL_ROWS; i++) {
            w[c][i] = widen(panel[2 * i]);
            w[c + 1][i] = widen(panel[2 * i + 1]);
        }
        panel += 2 * QE_PANEL_ROWS;
    }
}

/* y (2, 16) += x (2, 32) times w (32, 16); the rows of x and y may be the same. */
static void
multiply_rows(float *y[2], const unsigned char *x[2], float w[QE_K_STEP][QE_PANEL_ROWS])
{
    quad sum[2][N_QUADS];
    qe_bf16 halves[2][QE_K_STEP];
    float wide[2][QE_K_STEP];

    for (int r = 0; r < 2; r++) {
        memcpy(sum[r], y[r], sizeof sum[r]);
        memcpy(halves[r], x[r], sizeof halves[r]);
        for (int c = 0; c < QE_K_STEP; c++) {
            wide[r][c] = widen(halves[r][c]);
        }
    }
    for (int c = 0; c < QE_K_STEP; c++) {
        float a = wide[0][c];
        float b = wide[1][c];
        for (int q = 0; q < N_QUADS; q++) {
            quad column;
            memcpy(&column, &w[c][4 * q], sizeof column);
            sum[0][q] += a * column;
            sum[1][q] += b * column;
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
        widen_panel(w, panel + (size_t)k0 * QE_PANEL_ROWS);
        for (int r = 0; r < n_rows; r += 2) {
            size_t first = (size_t)r, second = (size_t)(r + 1 < n_rows ? r + 1 : r);
            float *rows_y[2] = {y + first * ldy, y + second * ldy};
            const unsigned char *rows_x[2] = {x + first * row_bytes + 2 * (size_t)k0,
                                              x + second * row_bytes + 2 * (size_t)k0};
            multiply_rows(rows_y, rows_x, w);
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    const int n_blocks = (n + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    for (int r = 0; r < m && !accumulate; r++) {
        memset(y + (size_t)r * ldy, 0, sizeof *y * QE_PANEL_ROWS * (size_t)n_blocks);
    }
    for (int b = 0; b < n_blocks; b++) {
        multiply_block(y + QE_PANEL_ROWS * b, ldy, x, ldx * sizeof(qe_bf16), m,
                       panel + b * block_stride, k);
    }
}
