/* floats.h: the numbers of a BF16, F16 or F32 tensor, in the form that a model keeps.
 */
#ifndef QE_FLOATS_H
#define QE_FLOATS_H

#include <stdint.h>

#include "safetensors.h"

/* out (elements of tensor): exact, from BF16, F16 or F32. */
void qe_floats_to_fp32(const struct qe_tensor *tensor, float *out);

/* out (elements of tensor) bf16, from F16 or F32: rounded to nearest, ties to even;
 * past the largest finite bf16 that is infinity. A NaN stays a NaN. */
void qe_floats_to_bf16(const struct qe_tensor *tensor, uint16_t *out);

#endif
