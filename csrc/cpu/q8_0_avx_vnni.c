/* q8_0_avx_vnni.c: Q8_0 rows times panel with VPDPBUSD on 256 bits, as in
 * int8_avx_vnni.c. The sums of each 32 columns are scaled and accumulated as floats, in
 * the L1 cache. */
#include "isa_kernels.h"

#include <immintrin.h>

#include "int8_avx2.h"
#include "q8_0.h"

#define STRIP_ROWS 6

/* part (6, 16) = or += Q8_0 block b of each row times 32 columns of one block of the
 * panel. The panel's values have an offset of QE_INT8_ZERO, which the sums of the
 * weights cancel. */
static inline __attribute__((always_inline)) void
add_block(float part[STRIP_ROWS][QE_PANEL_ROWS],
          const unsigned char *const w[STRIP_ROWS],
          const int16_t *const sums[STRIP_ROWS], int b, const uint8_t *panel)
{
    __m256i sum[STRIP_ROWS][2];

    for (int r = 0; r < STRIP_ROWS; r++) {
        sum[r][0] = sum[r][1] = _mm256_set1_epi32(-QE_INT8_ZERO * sums[r][b]);
    }
#pragma GCC unroll 8
    for (int c = 0; c < QE_Q8_0_BLOCK; c += 4) {
        const __m256i *quads =
            (const __m256i *)(const void *)(panel + (size_t)c * QE_PANEL_ROWS);
        __m256i low = _mm256_loadu_si256(quads);
        __m256i high = _mm256_loadu_si256(quads + 1);
        for (int r = 0; r < STRIP_ROWS; r++) {
            int32_t quad;
            memcpy(&quad, qe_q8_0_values(w[r]) + c, sizeof quad);
            __m256i a = _mm256_set1_epi32(quad);
            sum[r][0] = DOT(sum[r][0], low, a);
            sum[r][1] = DOT(sum[r][1], high, a);
        }
    }
    for (int r = 0; r < STRIP_ROWS; r++) {
        __m256 scale = _mm256_set1_ps(_cvtsh_ss(qe_q8_0_scale(w[r])));
        for (int half = 0; half < 2; half++) {
            float *at = part[r] + 8 * half;
            __m256 before = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
            _mm256_storeu_ps(
                at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][half]), scale, before));
        }
    }
}

/* y (n_rows, 16), rows ldy apart, = or += the rows times one block of the panel. A
 * strip that has fewer rows than STRIP_ROWS reads its last row again for each missing
 * one and does not store the result. */
static void
multiply_strip(float *y, size_t ldy, const struct qe_q8_0_rows *rows, int n_rows,
               const uint8_t *panel, const float *scales, int n_groups, bool accumulate)
{
    const unsigned char *w[STRIP_ROWS];
    const int16_t *sums[STRIP_ROWS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        size_t row = (size_t)(r < n_rows ? r : n_rows - 1);
        w[r] = rows->blocks + row * rows->row_bytes;
        sums[r] = rows->sums + row * rows->sum_stride;
    }
    for (int g = 0; g < n_groups; g++) {
        float part[STRIP_ROWS][QE_PANEL_ROWS];
        for (int b = 0; b < QE_Q8_0_BLOCKS; b++) {
            add_block(part, w, sums, b, panel);
            panel += QE_Q8_0_BLOCK * QE_PANEL_ROWS;
            for (int r = 0; r < STRIP_ROWS; r++) {
                _mm_prefetch((const char *)w[r] + STRIP_ROWS * rows->row_bytes,
                             _MM_HINT_T1);
                w[r] += QE_Q8_0_BYTES;
            }
        }
        for (int r = 0; r < STRIP_ROWS; r++) {
            sums[r] += QE_Q8_0_BLOCKS;
        }
        for (int i = 0; i < 2 * n_rows; i++) {
            float *to = y + i / 2 * ldy + i % 2 * 8;
            __m256 before =
                g == 0 && !accumulate ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
            _mm256_storeu_ps(
                to, _mm256_fmadd_ps(_mm256_loadu_ps(part[i / 2] + i % 2 * 8),
                                    _mm256_loadu_ps(scales + i % 2 * 8), before));
        }
        scales += QE_PANEL_ROWS;
    }
}

void
ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate)
{
    struct qe_q8_0_rows rows = *w;

    for (int row = 0; row < n; row += STRIP_ROWS) {
        int n_rows = n - row < STRIP_ROWS ? n - row : STRIP_ROWS;
        for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
            multiply_strip(y + row * ldy + block * QE_PANEL_ROWS, ldy, &rows, n_rows,
                           (const uint8_t *)panel->values + block * panel->block_bytes,
                           panel->scales + block * panel->scale_stride, n_groups,
                           accumulate);
        }
        rows.blocks += STRIP_ROWS * rows.row_bytes;
        rows.sums += STRIP_ROWS * rows.sum_stride;
    }
}
