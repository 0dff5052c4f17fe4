/* pack_avx512.c: regroups rows of bf16 into a panel. Two columns of a row are one
 * 32-bit element, so a block of 16 rows and 32 columns is a 16 x 16 transpose of
 * elements. */
#include "isa_kernels.h"

#include "../arithmetic.h"
#include "transpose.h"

static inline __attribute__((always_inline)) void
pack_block(qe_bf16 *panel, const unsigned char *w, size_t row_bytes, int n_rows,
           int n_columns)
{
    __mmask32 columns = n_columns >= 32 ? ~0u : (1u << n_columns) - 1;
    __m512i r[16];

    for (int i = 0; i < 16; i++) {
        r[i] = _mm512_setzero_si512();
    }
    for (int i = 0; i < n_rows; i++) {
        r[i] = _mm512_maskz_loadu_epi16(columns, w + (size_t)i * row_bytes);
    }
    transpose_16x16(r);
    for (int i = 0; i < 16; i++) {
        _mm512_storeu_si512(panel + 32 * i, r[i]);
    }
}

void
ISA(qe_pack)(qe_bf16 *panel, const void *w, size_t row_bytes, int n_rows, int n_k,
             int k_padded)
{
    for (int r0 = 0; r0 < n_rows; r0 += QE_PANEL_ROWS) {
        const unsigned char *block = (const unsigned char *)w + (size_t)r0 * row_bytes;
        int rows = smaller(n_rows - r0, QE_PANEL_ROWS);
        for (int k0 = 0; k0 < k_padded; k0 += QE_K_STEP) {
            int n_columns = smaller(n_k - k0, QE_K_STEP);
            if (rows == QE_PANEL_ROWS && n_columns == QE_K_STEP) { /* straight code */
                pack_block(panel, block, row_bytes, QE_PANEL_ROWS, QE_K_STEP);
            } else {
                pack_block(panel, block, row_bytes, rows,
                           n_columns > 0 ? n_columns : 0);
            }
            panel += QE_PANEL_ROWS * QE_K_STEP;
            block += QE_K_STEP * sizeof(qe_bf16);
        }
    }
}
