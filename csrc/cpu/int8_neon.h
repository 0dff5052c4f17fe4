/* int8_neon.h: integer sums of four rows of weights times one block of the panel. The
 * sets that have SMMLA use it: it adds the product of 2 x 8 and 8 x 2 bytes to 2 x 2
 * sums. The others use SDOT, which adds four products to each of 4 sums. Both give the
 * same sums. */
#ifndef QE_INT8_NEON_H
#define QE_INT8_NEON_H

#include "neon.h"

#include "isa_kernels.h"

#define STRIP_ROWS 4
#define QUADS (QE_PANEL_ROWS / 4)
#define HALF_COLUMNS 16 /* columns of a row in one register */

struct sums {
    int32x4_t of[STRIP_ROWS * QUADS];
};

#if QE_INT8_COLUMNS == 8

/* Adds 16 columns. of[8r + p] has the sums of rows 2r and 2r + 1 times rows 2p and
 * 2p + 1 of the panel. */
static inline __attribute__((always_inline)) void
add_columns(struct sums *sums, const int8_t *const w[STRIP_ROWS], int column,
            const int8_t *panel)
{
    int8x16_t rows[2][STRIP_ROWS / 2];

#pragma GCC unroll 3
    for (int r = 0; r < STRIP_ROWS / 2; r++) {
        int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(w[2 * r] + column));
        int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(w[2 * r + 1] + column));
        rows[0][r] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
        rows[1][r] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int8x16_t x[2 * QUADS];
#pragma GCC unroll 8
        for (int p = 0; p < 2 * QUADS; p++) {
            x[p] = vld1q_s8(panel + 128 * half + 16 * p);
        }
#pragma GCC unroll 2
        for (int r = 0; r < STRIP_ROWS / 2; r++) {
#pragma GCC unroll 8
            for (int p = 0; p < 2 * QUADS; p++) {
                int32x4_t *sum = &sums->of[r * 2 * QUADS + p];
                *sum = vmmlaq_s32(*sum, rows[half][r], x[p]);
            }
        }
    }
}

static inline __attribute__((always_inline)) int32x4_t
sum_of(const struct sums *sums, int r, int q)
{
    const int32x4_t *pair = &sums->of[r / 2 * 2 * QUADS + 2 * q];

    return r % 2 == 0 ? vcombine_s32(vget_low_s32(pair[0]), vget_low_s32(pair[1]))
                      : vcombine_s32(vget_high_s32(pair[0]), vget_high_s32(pair[1]));
}

#else

/* Adds four columns, those in the given lane of each row. */
static inline __attribute__((always_inline)) void
add_quad(struct sums *sums, const int8x16_t rows[STRIP_ROWS], const int lane,
         const int8_t *panel)
{
    int8x16_t x[QUADS];

#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q++) {
        x[q] = vld1q_s8(panel + 16 * q);
    }

#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q++) {
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++) {
            int32x4_t *sum = &sums->of[r * QUADS + q];
            switch (lane) {
            case 0:
                *sum = vdotq_laneq_s32(*sum, x[q], rows[r], 0);
                break;
            case 1:
                *sum = vdotq_laneq_s32(*sum, x[q], rows[r], 1);
                break;
            case 2:
                *sum = vdotq_laneq_s32(*sum, x[q], rows[r], 2);
                break;
            default:
                *sum = vdotq_laneq_s32(*sum, x[q], rows[r], 3);
                break;
            }
        }
    }
}

/* Adds 16 columns. of[4r + q] has the sums of row r times rows 4q to 4q + 3 of the
 * panel. */
static inline __attribute__((always_inline)) void
add_columns(struct sums *sums, const int8_t *const w[STRIP_ROWS], int column,
            const int8_t *panel)
{
    int8x16_t rows[STRIP_ROWS];

#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) {
        rows[r] = vld1q_s8(w[r] + column);
    }
    add_quad(sums, rows, 0, panel);
    add_quad(sums, rows, 1, panel + 64);
    add_quad(sums, rows, 2, panel + 128);
    add_quad(sums, rows, 3, panel + 192);
}

static inline __attribute__((always_inline)) int32x4_t
sum_of(const struct sums *sums, int r, int q)
{
    return sums->of[r * QUADS + q];
}

#endif

/* The sums of n_columns (a multiple of 16) of four rows times one block of the panel.
 */
static inline __attribute__((always_inline)) struct sums
sum_columns(const int8_t *const w[STRIP_ROWS], const int8_t *panel, int n_columns)
{
    struct sums sums;

#pragma GCC unroll 24
    for (int i = 0; i < STRIP_ROWS * QUADS; i++) {
        sums.of[i] = vdupq_n_s32(0);
    }
    for (int c = 0; c < n_columns; c += HALF_COLUMNS) {
        add_columns(&sums, w, c, panel + c * QE_PANEL_ROWS);
    }
    return sums;
}

#endif
