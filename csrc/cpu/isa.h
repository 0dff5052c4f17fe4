/* isa.h: the inner kernels, compiled once per instruction set, chosen at run time.
 *
 * Every matrix product here has one form, Y = X W^T, in two steps. pack() regroups
 * some rows of one operand into a panel; multiply() runs rows of the other, as they
 * lie, against it. A few columns of a row lie together, the P that the instruction
 * multiplies at once, panel_columns:
 *
 *     panel  (rows / 16, k / P, 16, P) bf16
 *
 * so element (row r, column c) lies at [r / 16][c / P][r % 16][c % P]. With P = 2 this
 * is what AMX calls VNNI.
 *
 * The canonical sum: each element of a product is one chain over k, in order, from 0
 * (or from what the output holds), whatever the number of rows, blocks and threads, and
 * whichever operand is the panel. So a text's bits do not depend on its company. */
#ifndef QE_ISA_H
#define QE_ISA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../error.h"

typedef uint16_t qe_bf16; /* the upper half of a float */

#define QE_PANEL_ROWS 16 /* rows in one block of a panel                            */
#define QE_K_STEP 32     /* k is padded with zeros to a multiple of this            */
#define QE_GROUP 128     /* activations of a token that share a scale in int8       */

struct qe_attend;

/* Rows of int8 weights, each with a scale. */
struct qe_int8_rows {
    const int8_t *values; /* (n, k), rows row_bytes apart, any alignment           */
    size_t row_bytes;
    const float *scales;    /* (n)                                                  */
    const int32_t *offsets; /* (n, groups), rows offset_stride apart: the sum of each
                               group's values, times -int8_zero; NULL if that is 0  */
    size_t offset_stride;
};

/* Rows of weights in blocks of 32, see q8_0.h. */
struct qe_q8_0_rows {
    const unsigned char *blocks; /* (n, k / 32, 34 bytes), rows row_bytes apart     */
    size_t row_bytes;
    const int16_t *sums; /* (n, groups, 4), rows sum_stride apart: of each block    */
    size_t sum_stride;
};

/* Rows of activations, quantised and regrouped into a panel. */
struct qe_int8_panel {
    const void *values; /* see pack_int8; blocks of 16 rows block_bytes apart       */
    size_t block_bytes;
    const float *scales; /* (blocks, groups, 16), blocks scale_stride apart         */
    size_t scale_stride;
};

struct qe_isa {
    const char *name;  /* as in QWEN3_EMBED_ISA                                    */
    int max_task_m;    /* rows of X whose panel stays in the L2 cache: 256 or 512 */
    int panel_columns; /* of a row that lie together in a panel of bf16: 2 or 4   */
    int int8_bytes;    /* of a value in an int8 panel                             */
    int int8_zero;     /* added to each value there: 128 where they are unsigned   */

    /* panel (ceil(n_rows/16), k_padded/P, 16, P) <- w (n_rows, n_k), rows row_bytes
     * apart at any alignment. Rows past n_rows and columns past n_k become zero;
     * k_padded is a multiple of QE_K_STEP. */
    void (*pack)(qe_bf16 *panel, const void *w, size_t row_bytes, int n_rows, int n_k,
                 int k_padded);

    /* y (m, n), rows ldy floats apart, = (or +=, if accumulate) x (m, k) bf16 at any
     * alignment, rows ldx elements apart, times panel (ceil(n/16), k/P, 16, P), blocks
     * block_stride elements apart; k a multiple of QE_K_STEP. Columns of y from n to
     * the next multiple of 16 may be overwritten. */
    void (*multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                     const qe_bf16 *panel, size_t block_stride, int n, int k,
                     bool accumulate);

    /* x (n_rows, n_k) bf16, at most 16 rows, row_bytes apart, to int8 by groups of
     * QE_GROUP columns. With s the group's largest magnitude over 127, and its values
     * divided by s and rounded to nearest, ties to even:
     *   scales (k_padded / QE_GROUP, 16)  s; 0 where it is below 2^-100 / 127
     *   values (k_padded / C, 16, C), C being 4 or 8 for bytes and 2 for int16
     * k_padded is a multiple of QE_GROUP. NaN and infinity make NaN of the group. */
    void (*pack_int8)(void *values, float *scales, const void *x, size_t row_bytes,
                      int n_rows, int n_k, int k_padded);

    /* y (n, m), rows ldy floats apart, = (or +=, if accumulate) w (n, k) times panel
     * (ceil(m/16) blocks), k n_groups times QE_GROUP; by w's scales if finish. Sums of
     * a group are integers; y is a chain of one fused multiply-add per group, so the
     * bits are the same on every instruction set. Columns of y from m to the next
     * multiple of 16 may be overwritten. */
    void (*multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                          const struct qe_int8_panel *panel, int m, int n_groups,
                          bool accumulate, bool finish);

    /* The same with Q8_0 weights. A block's sum is an integer; a group's is a chain of
     * one fused multiply-add per block, from 0, with the block's scale; y is a chain
     * over groups, with the scales of the activations. */
    void (*multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                          const struct qe_int8_panel *panel, int m, int n_groups,
                          bool accumulate);

    /* y (m, n), rows ldy floats apart, = (or +=, if accumulate) the transpose of
     * tile (n, round_up(m, 16)), rows ldt floats apart. */
    void (*store)(float *y, size_t ldy, const float *tile, size_t ldt, int m, int n,
                  bool accumulate);

    /* y (m, n) bf16, rows ldy elements apart, = the transpose of silu(gate) * up, both
     * (n, round_up(m, 16)), rows ldt floats apart. */
    void (*swiglu)(qe_bf16 *y, size_t ldy, const float *gate, const float *up,
                   size_t ldt, int m, int n);

    /* h (n_padded) fp32 <- row (n) bf16 at any alignment. Here and below, n_padded is n
     * rounded up to QE_K_STEP and what is past n is zero, in vectors of weights too. */
    void (*widen)(float *h, const void *row, int n, int n_padded);

    /* x (n_padded) bf16 = h / sqrt(mean(h^2) + eps) * w */
    void (*rms_norm)(qe_bf16 *x, const float *h, const float *w, int n, int n_padded,
                     float eps);

    /* y (HS) bf16 = rope(rms_norm(x) * w); cos_sin (2, HS/2) */
    void (*norm_rope)(qe_bf16 *y, const float *x, const float *w, const float *cos_sin,
                      int head_dim, float eps);

    /* y (n) bf16 = x; n a multiple of 16 */
    void (*narrow)(qe_bf16 *y, const float *x, int n);

    /* y = softmax(q k^T / sqrt(HS)) v, causal; see ops.h. scratch (QE_ATTEND_FLOATS) */
    void (*attend)(const struct qe_attend *attend, float *scratch);

    /* out (n_out) = h / sqrt(mean(h^2) + eps) * w, cut; divided by its L2 norm if unit.
     * All NaN if an element of h (n) or of the result is not finite. */
    void (*pool)(float *out, const float *h, const float *w, int n, int n_out,
                 float eps, bool unit);
};

/* Returns the named set or, for NULL, the best that this machine can run. Returns NULL,
 * with QE_EVALUE in err, for a set that it cannot run. */
const struct qe_isa *qe_isa_choose(const char *name, struct qe_error *err);

#define QE_MAX_SETS 7

/* Fills names, best first, with the sets that this machine can run; returns their
 * number. */
int qe_isa_list(const char *names[QE_MAX_SETS]);

/* The name of a function in the instruction set being compiled: QE_ISA is set on the
 * compiler's command line. */
#define QE_PASTE2(a, b) a##_##b
#define QE_PASTE(a, b) QE_PASTE2(a, b)
#define ISA(name) QE_PASTE(name, QE_ISA)

#endif
