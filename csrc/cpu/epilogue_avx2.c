/* epilogue_avx2.c: writes a tile of sums, which holds a part of the transpose of Y, to
 * Y, by transposing 8 x 8 squares in registers. */
#include "isa_kernels.h"

#include <string.h>

#include "../arithmetic.h"
#include "vec_avx2.h"

#define SIDE 8 /* of a square */

/* The first n lanes. */
static inline __attribute__((always_inline)) __m256i
first_lanes(int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
}

/* y (m, n), m and n <= 8, = or += the transpose of tile (n, 8). */
static inline __attribute__((always_inline)) void
store_square(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
             bool accumulate)
{
    const __m256i columns = first_lanes(n);
    __m256i r[SIDE];

    for (int j = 0; j < SIDE; j++) {
        r[j] = _mm256_loadu_si256((const __m256i *)(tile + smaller(j, n - 1) * ldt));
    }
    transpose_8x8(r);
    for (int i = 0; i < m; i++) {
        float *row = y + i * ldy;
        __m256 sum = _mm256_castsi256_ps(r[i]);
        if (n == SIDE) { /* some processors are slow to store by a mask */
            sum = accumulate ? _mm256_add_ps(_mm256_loadu_ps(row), sum) : sum;
            _mm256_storeu_ps(row, sum);
        } else {
            sum =
                accumulate ? _mm256_add_ps(_mm256_maskload_ps(row, columns), sum) : sum;
            _mm256_maskstore_ps(row, columns, sum);
        }
    }
}

/* x / (1 + e^-x) * up, with a relative error below 5e-7 + 1e-7 |x|, while bf16 keeps
 * 4e-3; NaN stays NaN. 2^f is a polynomial fitted to a relative error of 1.1e-7. The
 * bounds keep e^-x finite and its exponent in range: past them 1 + e^-x is 1, or the
 * result is below 1e-34. */
static inline __attribute__((always_inline)) __m256
gated(__m256 x, __m256 up)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 exponent = _mm256_mul_ps(x, _mm256_set1_ps(-1.44269504088896f));
    struct split_power power = split_power(_mm256_min_ps(
        _mm256_set1_ps(120.0f), _mm256_max_ps(_mm256_set1_ps(-120.0f), exponent)));
    __m256 p = _mm256_set1_ps(1.326472149e-3f);

    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(9.671512991e-3f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(5.550733954e-2f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(2.402224243e-1f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(6.931470037e-1f));
    p = _mm256_fmadd_ps(p, power.f, one);
    __m256 divisor = _mm256_add_ps(scale_power(p, power), one);
    return _mm256_mul_ps(_mm256_div_ps(x, divisor), up);
}

/* Eight pairs of bf16: the even elements of the result come from a, the odd ones from
 * b. */
static inline __attribute__((always_inline)) __m256i
pair_halves(__m256 a, __m256 b)
{
    return _mm256_blend_epi16(_mm256_srli_epi32(round_bf16(a), 16), round_bf16(b),
                              0xaa);
}

/* y (m, n), m <= 8 and n <= 16, = the transpose of silu(gate) * up, both (n, 8). Two
 * rows of it make one row of pairs. */
static inline __attribute__((always_inline)) void
store_gated(qe_bf16 *y, size_t ldy, const float *gate, const float *up, size_t ldt,
            int m, int n)
{
    __m256i r[SIDE];

    for (int j = 0; j < SIDE; j++) {
        size_t a = (size_t)smaller(2 * j, n - 1) * ldt;
        size_t b = (size_t)smaller(2 * j + 1, n - 1) * ldt;
        r[j] = pair_halves(gated(_mm256_loadu_ps(gate + a), _mm256_loadu_ps(up + a)),
                           gated(_mm256_loadu_ps(gate + b), _mm256_loadu_ps(up + b)));
    }
    transpose_8x8(r);
    for (int i = 0; i < m; i++) {
        if (n == 2 * SIDE) {
            _mm256_storeu_si256((__m256i *)(y + i * ldy), r[i]);
        } else {
            memcpy(y + i * ldy, &r[i], (size_t)n * sizeof *y);
        }
    }
}

#include "epilogue_squares.h" /* store_square and store_gated, applied to a tile */
