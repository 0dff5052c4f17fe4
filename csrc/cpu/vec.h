/* vec.h: sixteen floats at a time, in the compiler's vector extension.
 *
 * One source for every instruction set: the compiler lowers a vec to one, two or four
 * registers. Sums and maxima fold lanes in a fixed tree, so that a row's bits do not
 * depend on how wide the machine is. */
#ifndef QE_VEC_H
#define QE_VEC_H

#include <stdint.h>
#include <string.h>

#include "isa.h"

#define QE_LANES 16

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t hvec __attribute__((vector_size(32)));

static inline vec
vec_load(const float *p)
{
    vec v;

    memcpy(&v, p, sizeof v);
    return v;
}

static inline void
vec_store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

static inline vec
vec_all(float x)
{
    return x - (vec){0};
}

/* Sixteen bf16 at any alignment. */
static inline vec
vec_load_bf16(const void *p)
{
    hvec half;

    memcpy(&half, p, sizeof half);
    return (vec)(__builtin_convertvector(half, uvec) << 16);
}

static inline vec
vec_select(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* To nearest, ties to even; NaN stays NaN. The result is a float whose lower half is 0.
 * The test for NaN is a subtraction, because GCC compares vectors wider than a register
 * lane by lane. */
static inline vec
vec_round_bf16(vec v)
{
    uvec bits = (uvec)v;
    uvec rounded = bits + 0x7fff + ((bits >> 16) & 1);
    ivec is_nan = (0x7f800000 - ((ivec)v & 0x7fffffff)) >> 31;

    return vec_select(is_nan, (vec)(bits | 0x400000), (vec)(rounded & 0xffff0000u));
}

/* Stores a result of vec_round_bf16() as bf16. */
static inline void
vec_store_rounded(qe_bf16 *p, vec rounded)
{
    hvec half = __builtin_convertvector((uvec)rounded >> 16, hvec);

    memcpy(p, &half, sizeof half);
}

static inline void
vec_store_bf16(qe_bf16 *p, vec v)
{
    vec_store_rounded(p, vec_round_bf16(v));
}

static inline vec
vec_max(vec a, vec b)
{
    return vec_select(a > b, a, b);
}

static inline float
vec_sum(vec v)
{
    float lane[QE_LANES];

    vec_store(lane, v);
#pragma GCC unroll 4
    for (int width = QE_LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            lane[i] += lane[i + width];
        }
    }
    return lane[0];
}

static inline float
vec_max_lane(vec v)
{
    float lane[QE_LANES];

    vec_store(lane, v);
#pragma GCC unroll 4
    for (int width = QE_LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
        }
    }
    return lane[0];
}

/* 2^x, relative error below 2e-7; exactly 1 at 0; x below -126 gives 2^-126; NaN stays
 * NaN. 2^f on [-1/2, 1/2] is its Taylor series to the seventh power (the next term is
 * under 1e-9), 2^n is added to the exponent's bits. */
static inline vec
vec_exp2(vec x)
{
    const vec magic =
        vec_all(12582912.0f); /* 1.5 * 2^23: adding it rounds to integer */
    vec clamped = vec_select(x < -126.0f, vec_all(-126.0f), x);
    vec shifted = clamped + magic;
    vec f = clamped - (shifted - magic);
    vec p = vec_all(1.5252733804e-05f);

    p = p * f + 1.5403530394e-04f;
    p = p * f + 1.3333558146e-03f;
    p = p * f + 9.6181291076e-03f;
    p = p * f + 5.5504108665e-02f;
    p = p * f + 2.4022650696e-01f;
    p = p * f + 6.9314718056e-01f;
    p = p * f + 1.0f;
    return vec_select(x == x, (vec)((ivec)p + ((ivec)shifted << 23)), x);
}

#endif
