/* isa_kernels.h: the kernels of the instruction set being compiled, as their files
 * define them and isa_table.c lists them; contracts are in isa.h. */
#ifndef QE_ISA_KERNELS_H
#define QE_ISA_KERNELS_H

#include "isa.h"

/* Columns of a row that lie together in a panel of bf16, and of int8. */
#ifndef QE_PANEL_COLUMNS
#define QE_PANEL_COLUMNS 2
#endif
#ifndef QE_INT8_COLUMNS
#define QE_INT8_COLUMNS (4 / QE_INT8_BYTES)
#endif

void ISA(qe_pack)(qe_bf16 *panel, const void *w, size_t row_bytes, int n_rows, int n_k,
                  int k_padded);

void ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                      const qe_bf16 *panel, size_t block_stride, int n, int k,
                      bool accumulate);

void ISA(qe_pack_int8)(void *values, float *scales, const void *x, size_t row_bytes,
                       int n_rows, int n_k, int k_padded);

void ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                           const struct qe_int8_panel *panel, int m, int n_groups,
                           bool accumulate, bool finish);

void ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                           const struct qe_int8_panel *panel, int m, int n_groups,
                           bool accumulate);

void ISA(qe_store)(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
                   bool accumulate);

void ISA(qe_swiglu)(qe_bf16 *y, size_t ldy, const float *gate, const float *up,
                    size_t ldt, int m, int n);

void ISA(qe_widen)(float *h, const void *row, int n, int n_padded);

void ISA(qe_rms_norm)(qe_bf16 *x, const float *h, const float *w, int n, int n_padded,
                      float eps);

void ISA(qe_norm_rope)(qe_bf16 *y, const float *x, const float *w, const float *cos_sin,
                       int head_dim, float eps);

void ISA(qe_narrow)(qe_bf16 *y, const float *x, int n);

void ISA(qe_attend)(const struct qe_attend *attend, float *scratch);

struct qe_softmax_row;

/* Of qe_attend, not in the table. p (n) bf16 <- 2^(scale * s - max) for the first
 * n_valid of n scores, else 0; n is QE_K_STEP or QE_KEY_TILE. Returns what the
 * accumulator must be multiplied by. */
float ISA(qe_softmax_step)(qe_bf16 *p, const float *s, int n, int n_valid, float scale,
                           struct qe_softmax_row *row);

void ISA(qe_pool)(float *out, const float *h, const float *w, int n, int n_out,
                  float eps, bool unit);

#endif
