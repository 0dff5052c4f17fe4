/* floats.h: conversion of BF16, F16 and F32 tensors to fp32 and bf16. */
#ifndef QE_FLOATS_H
#define QE_FLOATS_H

#include <stdint.h>

#include "safetensors.h"

float qe_float_of_f16(uint16_t f16);

/* out (elements of tensor): the exact values of a BF16, F16 or F32 tensor. */
void qe_floats_to_fp32(const struct qe_tensor *tensor, float *out);

/* out (elements of tensor) bf16: an F16 or F32 tensor rounded to nearest, ties to even;
 * values beyond the largest finite bf16 become infinity. A NaN stays a NaN. */
void qe_floats_to_bf16(const struct qe_tensor *tensor, uint16_t *out);

#endif
