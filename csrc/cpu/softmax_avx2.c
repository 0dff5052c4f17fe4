/* softmax_avx2.c: turns one row of scores of one key tile into probabilities, ten times
 * faster than softmax.c: GCC lowers comparisons of vec.h's sixteen lanes to scalars. */
#include <math.h>

#include "isa_kernels.h"
#include "ops.h"
#include "vec_avx2.h"

/* 2^x with a relative error below 4e-6, while bf16 keeps 4e-3; x below -126 gives
 * 2^-126; NaN stays NaN. 2^f is a polynomial fitted to that error, exactly 1 at 0. */
static inline __attribute__((always_inline)) __m256
exp2_rough(__m256 x)
{
    struct split_power power = split_power(_mm256_max_ps(_mm256_set1_ps(-126.0f), x));
    __m256 p = _mm256_set1_ps(9.582852945e-3f);

    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(5.590642616e-2f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(2.402409911e-1f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(6.931241751e-1f));
    p = _mm256_fmadd_ps(p, power.f, _mm256_set1_ps(1.0f));
    return scale_power(p, power);
}

static float
max_lane(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static float
sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Lanes from i on that are below n_valid. */
static inline __attribute__((always_inline)) __m256
valid_lanes(int i, int n_valid)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_castsi256_ps(
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n_valid - i), lane));
}

static inline __attribute__((always_inline)) __m256i
probabilities(const float *s, __m256 factor, __m256 shift, int i, int n_valid,
              const bool is_whole)
{
    __m256 score = _mm256_mul_ps(_mm256_loadu_ps(s + i), factor);
    __m256i rounded = round_bf16(exp2_rough(_mm256_sub_ps(score, shift)));

    return is_whole ? rounded
                    : _mm256_and_si256(rounded,
                                       _mm256_castps_si256(valid_lanes(i, n_valid)));
}

/* is_whole: n_valid >= n, so no score is hidden. */
static inline __attribute__((always_inline)) float
step(qe_bf16 *p, const float *s, int n, int n_valid, const bool is_whole, float scale,
     struct qe_softmax_row *row)
{
    const __m256 hidden = _mm256_set1_ps(-INFINITY);
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    const __m256 factor = _mm256_set1_ps(scale);
    __m256 top[2] = {_mm256_set1_ps(row->max), _mm256_set1_ps(row->max)};
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    for (int i = 0; i < n; i += 16) {
        for (int half = 0; half < 2; half++) {
            int at = i + 8 * half;
            __m256 score = _mm256_mul_ps(_mm256_loadu_ps(s + at), factor);
            if (!is_whole) {
                score = _mm256_blendv_ps(hidden, score, valid_lanes(at, n_valid));
            }
            top[half] = _mm256_max_ps(score, top[half]);
        }
    }
    float max = max_lane(_mm256_max_ps(top[0], top[1]));
    const __m256 shift = _mm256_set1_ps(max);
    for (int i = 0; i < n; i += 16) {
        __m256i low = probabilities(s, factor, shift, i, n_valid, is_whole);
        __m256i high = probabilities(s, factor, shift, i + 8, n_valid, is_whole);
        _mm256_storeu_si256((__m256i *)(p + i), pack_upper(low, high));
        sum[0] =
            _mm256_add_ps(sum[0], _mm256_castsi256_ps(_mm256_and_si256(low, upper)));
        sum[1] =
            _mm256_add_ps(sum[1], _mm256_castsi256_ps(_mm256_and_si256(high, upper)));
    }
    float rescale = max == row->max
                        ? 1.0f
                        : _mm256_cvtss_f32(exp2_rough(_mm256_set1_ps(row->max - max)));
    row->max = max;
    row->denominator =
        row->denominator * rescale + sum_lanes(_mm256_add_ps(sum[0], sum[1]));
    return rescale;
}

float
ISA(qe_softmax_step)(qe_bf16 *p, const float *s, int n, int n_valid, float scale,
                     struct qe_softmax_row *row)
{
    return n_valid >= n ? step(p, s, n, n_valid, true, scale, row)
                        : step(p, s, n, n_valid, false, scale, row);
}
