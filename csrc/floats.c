/* floats.c: conversions that no rounding or flush-to-zero mode of the process can
 * change: on bit patterns, or exact and far from what such a mode touches. Tensors lie
 * at any alignment. */
#include "floats.h"

#include <string.h>

static inline uint16_t
load16(const unsigned char *data, uint64_t i)
{
    uint16_t bits;

    memcpy(&bits, data + 2 * i, sizeof bits);
    return bits;
}

static inline uint32_t
load32(const unsigned char *data, uint64_t i)
{
    uint32_t bits;

    memcpy(&bits, data + 4 * i, sizeof bits);
    return bits;
}

/* The bits of the fp32 of the same value. Masks, not branches: so it vectorises. */
static inline uint32_t
widen_f16(uint16_t bits)
{
    uint32_t magnitude = bits & 0x7fff;
    /* From exponent bias 15 to 127; infinity and NaN go on to the largest exponent. */
    uint32_t wide = (magnitude << 13) + ((127 - 15) << 23);
    /* Exact, and as fp32 not subnormal. */
    float subnormal = (float)(int)magnitude * 0x1p-24f;
    uint32_t subnormal_bits;

    memcpy(&subnormal_bits, &subnormal, sizeof subnormal);
    uint32_t is_largest = -(uint32_t)(magnitude >= 0x7c00);
    uint32_t is_subnormal = -(uint32_t)(magnitude < 0x400);
    wide += is_largest & (127 - 15) << 23;
    wide = (is_subnormal & subnormal_bits) | (~is_subnormal & wide);
    return wide | (uint32_t)(bits & 0x8000) << 16;
}

static inline uint16_t
round_to_bf16(uint32_t bits)
{
    /* Half of the last kept place, less one when that place is even. */
    uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    uint32_t nan = bits | 0x400000; /* quiet: never the pattern of infinity */

    return (uint16_t)(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16);
}

float
qe_float_of_f16(uint16_t f16)
{
    uint32_t bits = widen_f16(f16);
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

void
qe_floats_to_fp32(const struct qe_tensor *tensor, float *out)
{
    if (tensor->dtype == QE_F32) {
        memcpy(out, tensor->data, tensor->n_bytes);
        return;
    }
    for (uint64_t i = 0; i < tensor->n_bytes / 2; i++) {
        uint16_t half = load16(tensor->data, i);
        uint32_t bits =
            tensor->dtype == QE_F16 ? widen_f16(half) : (uint32_t)half << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

void
qe_floats_to_bf16(const struct qe_tensor *tensor, uint16_t *out)
{
    if (tensor->dtype == QE_F16) {
        for (uint64_t i = 0; i < tensor->n_bytes / 2; i++) {
            out[i] = round_to_bf16(widen_f16(load16(tensor->data, i)));
        }
    } else { /* QE_F32 */
        for (uint64_t i = 0; i < tensor->n_bytes / 4; i++) {
            out[i] = round_to_bf16(load32(tensor->data, i));
        }
    }
}
