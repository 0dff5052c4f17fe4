/* int8_scales.h: computes the scale of a group or a row from its largest magnitude. */
#ifndef QE_INT8_SCALES_H
#define QE_INT8_SCALES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define QE_INT8_MAX 127.0f
#define QE_INT8_SMALLEST                                        \
    0x1p-100f /* smaller magnitudes give scale 0: their inverse \
                 could overflow */

struct qe_int8_scale {
    float scale, inverse;
};

/* If largest is NaN or infinity, the scale is NaN, and so are all results. */
static inline struct qe_int8_scale
qe_int8_scale_of(float largest)
{
    if (largest < QE_INT8_SMALLEST) {
        return (struct qe_int8_scale){0.0f, 0.0f};
    }
    if (!(largest < INFINITY)) {
        return (struct qe_int8_scale){NAN, 0.0f};
    }
    return (struct qe_int8_scale){largest / QE_INT8_MAX, QE_INT8_MAX / largest};
}

/* The same for the bits of a magnitude in bf16. */
static inline struct qe_int8_scale
qe_int8_scale(unsigned bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float largest;

    memcpy(&largest, &bits, sizeof largest);
    return qe_int8_scale_of(largest);
}

#endif
