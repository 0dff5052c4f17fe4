/* vec_avx2.h: powers of two, rounding to bf16 and transposes in 256-bit registers. */
#ifndef QE_VEC_AVX2_H
#define QE_VEC_AVX2_H

#include <immintrin.h>

/* x = whole + f; 2^x is a polynomial near 2^f, scaled by scale_power(). */
struct split_power {
    __m256 f;         /* in [-1/2, 1/2] */
    __m256i exponent; /* whole, in place of a float's exponent */
};

/* x from -126 to 127, or NaN; then f is NaN. */
static inline __attribute__((always_inline)) struct split_power
split_power(__m256 x)
{
    /* 1.5 * 2^23: adding it rounds to integer. */
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 shifted = _mm256_add_ps(x, magic);

    return (struct split_power){
        .f = _mm256_sub_ps(x, _mm256_sub_ps(shifted, magic)),
        .exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23),
    };
}

static inline __attribute__((always_inline)) __m256
scale_power(__m256 p, struct split_power power)
{
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), power.exponent));
}

/* To nearest, ties to even; NaN stays NaN. The bf16 are the upper halves of the result;
 * the lower halves are not cleared. */
static inline __attribute__((always_inline)) __m256i
round_bf16(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));

    return _mm256_castps_si256(_mm256_blendv_ps(
        _mm256_castsi256_ps(_mm256_add_epi32(bits, up)), _mm256_castsi256_ps(quiet),
        _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

/* The upper halves of a, then of b. */
static inline __attribute__((always_inline)) __m256i
pack_upper(__m256i a, __m256i b)
{
    __m256i packed =
        _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));

    return _mm256_permute4x64_epi64(packed, 0xd8);
}

/* r[i] element j <-> r[j] element i, of 32 bits. */
static inline __attribute__((always_inline)) void
transpose_8x8(__m256i r[8])
{
    __m256i t[8];

    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    for (int i = 0; i < 4; i++) {
        __m256i low = r[i], high = r[i + 4];
        r[i] = _mm256_permute2x128_si256(low, high, 0x20);
        r[i + 4] = _mm256_permute2x128_si256(low, high, 0x31);
    }
}

#endif
