/* int8_avx2.h: helpers of the 256-bit kernels for int8 and Q8_0. */
#ifndef QE_INT8_AVX2_H
#define QE_INT8_AVX2_H

#include <immintrin.h>
#include <stdbool.h>

/* VPDPBUSD has two encodings. The kernels are also tested on processors that have only
 * the AVX-512 one. */
#ifdef __AVXVNNI__
#define DOT _mm256_dpbusd_avx_epi32
#else
#define DOT _mm256_dpbusd_epi32
#endif

/* y (8) = sum times scale for the first group, += for the others. After the last group
 * y is multiplied by the row's scale. */
static inline __attribute__((always_inline)) void
store_sum(float *y, __m256i sum, const float *scale, bool first, bool last,
          float row_scale)
{
    __m256 total = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);

    total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scale), total);
    if (last) {
        total = _mm256_mul_ps(total, _mm256_set1_ps(row_scale));
    }
    _mm256_storeu_ps(y, total);
}

#endif
