/* floats.c: conversions on bit patterns, so that no rounding or flush-to-zero mode of
 * the process can change a weight. Tensors lie at any alignment. */
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

/* The bits of the fp32 of the same value. */
static inline uint32_t
widen_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t magnitude = bits & 0x7fff;

    if (magnitude >= 0x7c00) { /* infinity, NaN */
        return sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
    }
    if (magnitude >= 0x400) { /* from exponent bias 15 to 127 */
        return sign | ((magnitude << 13) + ((127 - 15) << 23));
    }
    if (magnitude == 0) {
        return sign;
    }
    /* A subnormal is magnitude * 2^-24: its highest bit becomes the hidden one. */
    uint32_t shift = (uint32_t)__builtin_clz(magnitude) - 21;
    return sign | ((113 - shift) << 23) | ((magnitude << shift & 0x3ff) << 13);
}

static inline uint16_t
round_to_bf16(uint32_t bits)
{
    /* Half of the last kept place, less one when that place is even. */
    uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    uint32_t nan = bits | 0x400000; /* quiet: never the pattern of infinity */

    return (uint16_t)(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16);
}

void
qe_floats_to_fp32(const struct qe_tensor *tensor, float *out)
{
    uint64_t n;

    switch (tensor->dtype) {
    case QE_BF16:
        n = tensor->n_bytes / 2;
        for (uint64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)load16(tensor->data, i) << 16;
            memcpy(&out[i], &bits, sizeof bits);
        }
        break;
    case QE_F16:
        n = tensor->n_bytes / 2;
        for (uint64_t i = 0; i < n; i++) {
            uint32_t bits = widen_f16(load16(tensor->data, i));
            memcpy(&out[i], &bits, sizeof bits);
        }
        break;
    default: /* QE_F32 */
        memcpy(out, tensor->data, tensor->n_bytes);
    }
}

void
qe_floats_to_bf16(const struct qe_tensor *tensor, uint16_t *out)
{
    uint64_t n;

    switch (tensor->dtype) {
    case QE_BF16:
        memcpy(out, tensor->data, tensor->n_bytes);
        break;
    case QE_F16:
        n = tensor->n_bytes / 2;
        for (uint64_t i = 0; i < n; i++) {
            out[i] = round_to_bf16(widen_f16(load16(tensor->data, i)));
        }
        break;
    default: /* QE_F32 */
        n = tensor->n_bytes / 4;
        for (uint64_t i = 0; i < n; i++) {
            out[i] = round_to_bf16(load32(tensor->data, i));
        }
    }
}
