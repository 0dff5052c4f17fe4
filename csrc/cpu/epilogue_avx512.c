/* epilogue_avx512.c: writes a tile of sums, which holds a part of the transpose of Y,
 * to Y, by transposing 16 x 16 squares in registers. AMX fills a square in a few
 * hundred cycles, so every instruction counts here. */
#include "isa_kernels.h"

#include "../arithmetic.h"
#include "narrow_avx512.h"
#include "transpose.h"

#define SIDE 16 /* of a square */

/* y (m, n), m and n <= 16, = or += the transpose of tile (n, 16). */
static inline __attribute__((always_inline)) void
store_square(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
             bool accumulate)
{
    __mmask16 columns = (__mmask16)((1u << n) - 1);
    __m512i r[SIDE];

    for (int j = 0; j < SIDE; j++) {
        r[j] = _mm512_loadu_si512(tile + (size_t)(j < n ? j : n - 1) * ldt);
    }
    transpose_16x16(r);
    for (int i = 0; i < m; i++) {
        __m512 sum = _mm512_castsi512_ps(r[i]);
        if (accumulate) {
            sum = _mm512_add_ps(_mm512_maskz_loadu_ps(columns, y + i * ldy), sum);
        }
        _mm512_mask_storeu_ps(y + i * ldy, columns, sum);
    }
}

/* x / (1 + e^-x) * up. 2^f on [-1/2, 1/2] is a polynomial fitted to a relative error of
 * 1e-7. The reciprocal instruction is accurate to 2^-14, and to 2^-23 after one Newton
 * step. The total relative error is below 5e-7 + 1e-7 |x|, while bf16 keeps 4e-3. NaN
 * stays NaN. The bound on the exponent keeps e^-x finite: past it the factor is below
 * 1e-36. */
static inline __attribute__((always_inline)) __m512
gated(__m512 x, __m512 up)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 exponent = _mm512_min_ps(
        _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504088896f)), _mm512_set1_ps(120.0f));
    __m512 whole = _mm512_roundscale_ps(exponent, 0);
    __m512 f = _mm512_sub_ps(exponent, whole);
    __m512 p = _mm512_set1_ps(1.326472722e-3f);

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.671512812e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550733745e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402224208e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931469776e-1f));
    p = _mm512_fmadd_ps(p, f, one);
    __m512 divisor = _mm512_add_ps(_mm512_scalef_ps(p, whole), one);
    __m512 inverse = _mm512_rcp14_ps(divisor);
    inverse =
        _mm512_fmadd_ps(_mm512_fnmadd_ps(divisor, inverse, one), inverse, inverse);
    return _mm512_mul_ps(_mm512_mul_ps(x, inverse), up);
}

/* Sixteen pairs of bf16: the even elements of the result come from a, the odd ones from
 * b. */
static inline __attribute__((always_inline)) __m512i
pair_halves(__m512 a, __m512 b)
{
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

    return _mm512_permutexvar_epi16(interleave, narrow_two(a, b));
}

/* y (m, n), m <= 16 and n <= 32, = the transpose of silu(gate) * up, both (n, 16). Two
 * rows of it make one row of pairs. */
static inline __attribute__((always_inline)) void
store_gated(qe_bf16 *y, size_t ldy, const float *gate, const float *up, size_t ldt,
            int m, int n)
{
    __mmask32 columns = n >= 2 * SIDE ? ~0u : (1u << n) - 1;
    __m512i r[SIDE];

    for (int j = 0; j < SIDE; j++) {
        size_t a = (size_t)smaller(2 * j, n - 1) * ldt;
        size_t b = (size_t)smaller(2 * j + 1, n - 1) * ldt;
        r[j] = pair_halves(gated(_mm512_loadu_ps(gate + a), _mm512_loadu_ps(up + a)),
                           gated(_mm512_loadu_ps(gate + b), _mm512_loadu_ps(up + b)));
    }
    transpose_16x16(r);
    for (int i = 0; i < m; i++) {
        _mm512_mask_storeu_epi16(y + i * ldy, columns, r[i]);
    }
}

#include "epilogue_squares.h" /* store_square and store_gated, applied to a tile */
