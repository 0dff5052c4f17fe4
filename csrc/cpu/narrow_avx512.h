/* narrow_avx512.h: fp32 rounded to bf16, to nearest, ties to even; NaN stays NaN. */
#ifndef QE_NARROW_AVX512_H
#define QE_NARROW_AVX512_H

#include <immintrin.h>

static inline __attribute__((always_inline)) __m256i
narrow(__m512 x)
{
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(x);
#else
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
    __m512i rounded = _mm512_add_epi32(bits, up);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);

    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

/* a, then b. */
static inline __attribute__((always_inline)) __m512i
narrow_two(__m512 a, __m512 b)
{
#ifdef __AVX512BF16__
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(a)), narrow(b), 1);
#endif
}

#endif
