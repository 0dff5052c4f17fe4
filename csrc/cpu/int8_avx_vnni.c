/* int8_avx_vnni.c: int8 rows times panel with VPDPBUSD, which multiplies
 * signed by unsigned bytes and adds four products to each of 8 integer sums.
 *
 * Six rows are multiplied by one block of the panel together; the 12 registers of
 * integer sums hide the latency. Four columns of a row are one broadcast. After each
 * group the sums are scaled and accumulated as floats, in the L1 cache. This reaches 95
 * % of a register-only loop. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#include "int8_avx2.h"

#define STRIP_ROWS 6

/* to (6, 16) += one group of the rows times one block of the panel. Prefetches the same
 * group of the rows ahead_bytes further on. */
static inline __attribute__((always_inline)) void
add_group(__m256i to[STRIP_ROWS][2], const int8_t *const w[STRIP_ROWS],
          const uint8_t *panel, size_t ahead_bytes)
{
    /* A local array: clang would keep the caller's in memory. */
    __m256i sum[STRIP_ROWS][2];

    memcpy(sum, to, sizeof sum);
    for (int r = 0; r < STRIP_ROWS; r++) {
        _mm_prefetch((const char *)w[r] + ahead_bytes, _MM_HINT_T1);
        _mm_prefetch((const char *)w[r] + ahead_bytes + 64, _MM_HINT_T1);
    }
    for (int c0 = 0; c0 < QE_GROUP; c0 += 32) {
#pragma GCC unroll 8
        for (int c = c0; c < c0 + 32; c += 4) {
            const __m256i *quads =
                (const __m256i *)(const void *)(panel + (size_t)c * QE_PANEL_ROWS);
            __m256i low = _mm256_loadu_si256(quads);
            __m256i high = _mm256_loadu_si256(quads + 1);
            for (int r = 0; r < STRIP_ROWS; r++) {
                int32_t quad;
                memcpy(&quad, w[r] + c, sizeof quad);
                __m256i a = _mm256_set1_epi32(quad);
                sum[r][0] = DOT(sum[r][0], low, a);
                sum[r][1] = DOT(sum[r][1], high, a);
            }
        }
    }
    memcpy(to, sum, sizeof sum);
}

/* y (n_rows, 16), rows ldy apart, = or += the rows times one block of the panel. A
 * strip that has fewer rows than STRIP_ROWS reads its last row again for each missing
 * one and does not store the result. */
static void
multiply_strip(float *y, size_t ldy, const struct qe_int8_rows *rows, int n_rows,
               const uint8_t *panel, const float *scales, int n_groups, bool accumulate,
               bool finish)
{
    const int8_t *w[STRIP_ROWS];
    const int32_t *offset[STRIP_ROWS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        int row = r < n_rows ? r : n_rows - 1;
        w[r] = rows->values + (size_t)row * rows->row_bytes;
        offset[r] = rows->offsets + (size_t)row * rows->offset_stride;
    }
    for (int g = 0; g < n_groups; g++) {
        bool first = g == 0 && !accumulate;
        bool last = g == n_groups - 1 && finish;
        __m256i sum[STRIP_ROWS][2];
        for (int r = 0; r < STRIP_ROWS; r++) {
            sum[r][0] = sum[r][1] = _mm256_set1_epi32(offset[r][g]);
        }
        add_group(sum, w, panel, STRIP_ROWS * rows->row_bytes);
        for (int r = 0; r < STRIP_ROWS; r++) {
            w[r] += QE_GROUP;
            if (r < n_rows) {
                float *part = y + r * ldy;
                store_sum(part, sum[r][0], scales, first, last, rows->scales[r]);
                store_sum(part + 8, sum[r][1], scales + 8, first, last,
                          rows->scales[r]);
            }
        }
        panel += QE_GROUP * QE_PANEL_ROWS;
        scales += QE_PANEL_ROWS;
    }
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    struct qe_int8_rows rows = *w;

    for (int row = 0; row < n; row += STRIP_ROWS) {
        int n_rows = n - row < STRIP_ROWS ? n - row : STRIP_ROWS;
        for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
            multiply_strip(y + row * ldy + block * QE_PANEL_ROWS, ldy, &rows, n_rows,
                           (const uint8_t *)panel->values + block * panel->block_bytes,
                           panel->scales + block * panel->scale_stride, n_groups,
                           accumulate, finish);
        }
        rows.values += STRIP_ROWS * rows.row_bytes;
        rows.scales += STRIP_ROWS;
        rows.offsets += STRIP_ROWS * rows.offset_stride;
    }
}
