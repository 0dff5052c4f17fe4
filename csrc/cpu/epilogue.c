/* epilogue.c: writes a tile of sums, which holds a part of the transpose of Y, to Y, in
 * squares of 16 rows and columns; compiled for the sets without a file of their own. */
#include "isa_kernels.h"

#include "../arithmetic.h"
#include "vec.h"

#define SIDE 16 /* of a square; a row of it is one vec */

static void
store_square(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
             bool accumulate)
{
    for (int i = 0; i < m; i++) {
        float *row = y + i * ldy;
        for (int j = 0; j < n; j++) {
            float sum = tile[(size_t)j * ldt + i];
            row[j] = accumulate ? row[j] + sum : sum;
        }
    }
}

static void
store_halves(qe_bf16 *y, size_t ldy, const vec rounded[2 * SIDE], int m, int n)
{
    for (int j = 0; j < n; j++) {
        qe_bf16 column[SIDE];
        vec_store_rounded(column, rounded[j]);
        for (int i = 0; i < m; i++) {
            y[i * ldy + j] = column[i];
        }
    }
}

void
ISA(qe_store)(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
              bool accumulate)
{
    for (int i = 0; i < m; i += SIDE) {
        for (int j = 0; j < n; j += SIDE) {
            store_square(y + i * ldy + j, ldy, tile + j * ldt + i, ldt,
                         smaller(m - i, SIDE), smaller(n - j, SIDE), accumulate);
        }
    }
}

/* x / (1 + e^-x), relative error below 4e-7 + 1e-7 |x|, where bf16 keeps 4e-3. The
 * bound on the exponent keeps e^-x finite: past it the factor is below 2e-38. */
static vec
silu(vec x)
{
    vec exponent = x * -1.44269504088896f;

    return x /
           (vec_exp2(vec_select(exponent > 126.0f, vec_all(126.0f), exponent)) + 1.0f);
}

void
ISA(qe_swiglu)(qe_bf16 *y, size_t ldy, const float *gate, const float *up, size_t ldt,
               int m, int n)
{
    vec rounded[2 * SIDE] = {{0}};

    for (int i = 0; i < m; i += SIDE) {
        for (int j0 = 0; j0 < n; j0 += 2 * SIDE) {
            int n_columns = smaller(n - j0, 2 * SIDE);
            for (int j = 0; j < n_columns; j++) {
                size_t at = (size_t)(j0 + j) * ldt + i;
                rounded[j] =
                    vec_round_bf16(silu(vec_load(gate + at)) * vec_load(up + at));
            }
            store_halves(y + i * ldy + j0, ldy, rounded, smaller(m - i, SIDE),
                         n_columns);
        }
    }
}
