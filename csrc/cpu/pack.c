/* pack.c: regroups rows of bf16 into a panel; compiled for the sets without a file of
 * their own. */
#include "isa_kernels.h"

#include <string.h>

#include "../arithmetic.h"

static void
pack_block(qe_bf16 *panel, const unsigned char *w, size_t row_bytes, int n_rows,
           int n_columns)
{
    memset(panel, 0, 16 * 32 * sizeof *panel);
    for (int i = 0; i < n_rows; i++) {
        qe_bf16 row[32] = {0};
        memcpy(row, w + (size_t)i * row_bytes, (size_t)n_columns * sizeof *row);
        for (int c = 0; c < 32; c += QE_PANEL_COLUMNS) {
            memcpy(panel + QE_PANEL_ROWS * c + QE_PANEL_COLUMNS * i, row + c,
                   QE_PANEL_COLUMNS * sizeof *row);
        }
    }
}

void
ISA(qe_pack)(qe_bf16 *panel, const void *w, size_t row_bytes, int n_rows, int n_k,
             int k_padded)
{
    for (int r0 = 0; r0 < n_rows; r0 += QE_PANEL_ROWS) {
        const unsigned char *rows = (const unsigned char *)w + (size_t)r0 * row_bytes;
        for (int k0 = 0; k0 < k_padded; k0 += QE_K_STEP) {
            int n_columns = smaller(n_k - k0, QE_K_STEP);
            pack_block(panel, rows + 2 * (size_t)k0, row_bytes,
                       smaller(n_rows - r0, QE_PANEL_ROWS),
                       n_columns > 0 ? n_columns : 0);
            panel += QE_PANEL_ROWS * QE_K_STEP;
        }
    }
}
