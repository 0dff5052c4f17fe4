/* int8.cuh: from int8 weights to the bf16 that products multiply. Every kernel uses
 * this one function, so that all of them multiply by the same numbers. */
#ifndef QE_INT8_CUH
#define QE_INT8_CUH

#include "common.cuh"
#include "int8_layout.h"

/* a b + c of two bf16 each, rounded once. */
static __device__ __forceinline__ uint32_t
fma_pair(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* (x & mask) | bits, as one instruction. */
static __device__ __forceinline__ uint32_t
and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
    return y;
}

/* pairs[0] <- the even bytes of a word times the scale, pairs[1] <- the odd ones, the
 * first in the low half; rounded to bf16. scale_pair: the scale, a bf16, twice.
 *
 * 0x4300 is 128 in bf16, and its last seven bits count ones. So the low seven bits of a
 * byte give 128 + those; minus 128, or minus 256 for a byte below zero, whose sign bit
 * is where bf16's exponent begins, is the byte's value, exactly. */
static __device__ __forceinline__ void
widen_int8(uint32_t (&pairs)[2], uint32_t word, uint32_t scale_pair)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t bytes = word >> 8 * i;
        const uint32_t shifted = and_or(bytes, 0x007f007fu, 0x43004300u);
        const uint32_t offset = and_or(bytes, 0x00800080u, 0xc300c300u);
        const uint32_t value = fma_pair(shifted, 0x3f803f80u, offset); /* times one */
        pairs[i] = fma_pair(value, scale_pair, 0x80008000u);           /* minus zero */
    }
}

#endif
