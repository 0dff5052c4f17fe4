/* int8_pack_avx512.c: quantises rows of bf16 by groups and packs them into a panel.
 * Four columns are one 32-bit element, so packing 16 rows and 64 columns is a transpose
 * of 16 x 16 elements. */
#include "isa_kernels.h"

#include <immintrin.h>

#include "int8_scales.h"
#include "transpose.h"

#define N_PARTS (QE_GROUP / 32) /* vectors of bf16 in a group */

static inline __attribute__((always_inline)) __m512
widen(__m256i halves)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Sixteen bf16 to bytes. */
static inline __attribute__((always_inline)) __m128i
quantise(__m256i halves, __m512 inverse)
{
    __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(widen(halves), inverse));

    return _mm512_cvtepi32_epi8(
        _mm512_add_epi32(rounded, _mm512_set1_epi32(QE_INT8_ZERO)));
}

/* bytes (QE_GROUP) <- one group of one row, n_columns and then zeros. Returns the
 * scale. Magnitudes are compared as integers, which makes NaN the largest. */
static inline __attribute__((always_inline)) float
quantise_group(__m512i bytes[2], const unsigned char *row, int n_columns)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i halves[N_PARTS], top = _mm512_setzero_si512();

    for (int i = 0; i < N_PARTS; i++) {
        int n = n_columns - 32 * i;
        __mmask32 mask = n >= 32 ? ~0u : n <= 0 ? 0 : (1u << n) - 1;
        halves[i] = _mm512_maskz_loadu_epi16(mask, row + 64 * i);
        top = _mm512_max_epu16(top, _mm512_and_si512(halves[i], magnitude));
    }
    __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(top),
                                    _mm512_extracti64x4_epi64(top, 1));
    __m128i quarter =
        _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    /* One instruction finds the minimum of words; that of the complements gives the
     * maximum. */
    unsigned least = (unsigned)_mm_cvtsi128_si32(
        _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1))));
    struct qe_int8_scale scale = qe_int8_scale(0xffff - (least & 0xffff));
    const __m512 inverse = _mm512_set1_ps(scale.inverse);
    for (int i = 0; i < N_PARTS / 2; i++) {
        __m128i part[4];
        for (int j = 0; j < 4; j++) {
            __m512i pair = halves[2 * i + j / 2];
            part[j] = quantise(j % 2 ? _mm512_extracti64x4_epi64(pair, 1)
                                     : _mm512_castsi512_si256(pair),
                               inverse);
        }
        bytes[i] = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_set_m128i(part[1], part[0])),
            _mm256_set_m128i(part[3], part[2]), 1);
    }
    return scale.scale;
}

void
ISA(qe_pack_int8)(void *values, float *scales, const void *x, size_t row_bytes,
                  int n_rows, int n_k, int k_padded)
{
    unsigned char *panel = values;

    for (int k0 = 0; k0 < k_padded; k0 += QE_GROUP) {
        const unsigned char *row = (const unsigned char *)x + 2 * (size_t)k0;
        __m512i low[16], high[16];
        for (int r = 0; r < 16; r++) {
            __m512i bytes[2] = {_mm512_set1_epi8((char)QE_INT8_ZERO),
                                _mm512_set1_epi8((char)QE_INT8_ZERO)};
            scales[r] = 0.0f;
            if (r < n_rows) {
                scales[r] = quantise_group(bytes, row, n_k - k0);
                row += row_bytes;
            }
            low[r] = bytes[0];
            high[r] = bytes[1];
        }
        transpose_16x16(low);
        transpose_16x16(high);
        for (int i = 0; i < 16; i++) {
            _mm512_storeu_si512(panel + 64 * i, low[i]);
            _mm512_storeu_si512(panel + 64 * (16 + i), high[i]);
        }
        panel += QE_GROUP * 16;
        scales += 16;
    }
}
