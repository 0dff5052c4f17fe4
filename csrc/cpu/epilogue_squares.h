/* epilogue_squares.h: applies store_square and store_gated to the squares of a tile.
 * The file that includes it defines both and SIDE, the rows and columns of a square. */
#ifndef QE_EPILOGUE_SQUARES_H
#define QE_EPILOGUE_SQUARES_H

#include "../arithmetic.h"
#include "isa_kernels.h"

void
ISA(qe_store)(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
              bool accumulate)
{
    for (int i = 0; i < m; i += SIDE) {
        int n_rows = smaller(m - i, SIDE);
        for (int j = 0; j < n; j += SIDE) {
            int n_columns = smaller(n - j, SIDE);
            float *square = y + i * ldy + j;
            if (n_rows == SIDE && n_columns == SIDE) { /* straight code */
                store_square(square, ldy, tile + j * ldt + i, ldt, SIDE, SIDE,
                             accumulate);
            } else {
                store_square(square, ldy, tile + j * ldt + i, ldt, n_rows, n_columns,
                             accumulate);
            }
        }
    }
}

void
ISA(qe_swiglu)(qe_bf16 *y, size_t ldy, const float *gate, const float *up, size_t ldt,
               int m, int n)
{
    for (int i = 0; i < m; i += SIDE) {
        for (int j = 0; j < n; j += 2 * SIDE) {
            size_t at = (size_t)j * ldt + i;
            store_gated(y + i * ldy + j, ldy, gate + at, up + at, ldt,
                        smaller(m - i, SIDE), smaller(n - j, 2 * SIDE));
        }
    }
}

#endif
