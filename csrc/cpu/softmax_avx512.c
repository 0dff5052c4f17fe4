/* softmax_avx512.c: turns one row of scores of one key tile into probabilities.
 * Attention runs it between two products of a few thousand cycles, so every instruction
 * counts. */
#include <immintrin.h>

#include "isa_kernels.h"
#include "narrow_avx512.h"
#include "ops.h"

/* 2^x with a relative error below 4e-6, while bf16 keeps 4e-3; x below -126 gives
 * 2^-126; NaN stays NaN. 2^f on [0, 1) is a polynomial fitted to that error, exactly 1
 * at 0. */
static inline __attribute__((always_inline)) __m512
exp2_rough(__m512 x)
{
    const __m512 lowest = _mm512_set1_ps(-126.0f);
    __m512 bounded = _mm512_max_ps(lowest, x);
    __m512 f = _mm512_reduce_ps(bounded, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_set1_ps(1.342668861e-2f);

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.224246716e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.412802081e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.930448445e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, bounded);
}

/* n is a constant after inlining. */
static inline __attribute__((always_inline)) float
step(qe_bf16 *p, const float *s, const int n, int n_valid, float scale,
     struct qe_softmax_row *row)
{
    const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
    const __m512 factor = _mm512_set1_ps(scale);
    __m512 top = _mm512_set1_ps(row->max);
    __m512 sum = _mm512_setzero_ps();
    __m512 score[QE_KEY_TILE / 16];
    uint64_t valid = n_valid >= 64 ? ~0ull : n_valid <= 0 ? 0 : (1ull << n_valid) - 1;

    for (int i = 0; i < n / 16; i++) {
        score[i] = _mm512_mask_mul_ps(hidden, (__mmask16)(valid >> 16 * i),
                                      _mm512_loadu_ps(s + 16 * i), factor);
        top = _mm512_max_ps(score[i], top);
    }
    float max = _mm512_reduce_max_ps(top);
    const __m512 shift = _mm512_set1_ps(max);
    for (int i = 0; i < n / 16; i++) {
        __m512 power = _mm512_maskz_mov_ps((__mmask16)(valid >> 16 * i),
                                           exp2_rough(_mm512_sub_ps(score[i], shift)));
        __m256i rounded = narrow(power);
        _mm256_storeu_si256((__m256i *)(p + 16 * i), rounded);
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(
                                     _mm512_cvtepu16_epi32(rounded), 16)));
    }
    float rescale = max == row->max
                        ? 1.0f
                        : _mm512_cvtss_f32(exp2_rough(_mm512_set1_ps(row->max - max)));
    row->max = max;
    row->denominator = row->denominator * rescale + _mm512_reduce_add_ps(sum);
    return rescale;
}

float
ISA(qe_softmax_step)(qe_bf16 *p, const float *s, int n, int n_valid, float scale,
                     struct qe_softmax_row *row)
{
    return n == QE_KEY_TILE ? step(p, s, QE_KEY_TILE, n_valid, scale, row)
                            : step(p, s, QE_K_STEP, n_valid, scale, row);
}
