/* int8_avx2.c: int8 rows times panel with VPMADDWD, which multiplies 16-bit values and
 * adds pairs of products to 8 integer sums. VPMADDUBSW, which multiplies bytes, would
 * saturate.
 *
 * One group of six rows is widened to 16 bits once and then multiplied by all blocks of
 * the panel. It stays in the L1 cache, the sums of one block stay in registers. Two
 * columns of a row are one broadcast. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#include "int8_avx2.h"

#define STRIP_ROWS 6

/* strip (6, QE_GROUP) <- one group of w's n_rows rows, row_bytes apart. Missing rows
 * are copies of the last. Prefetches the same group of the next strip. */
static void
widen_strip(int16_t *strip, const int8_t *w, size_t row_bytes, int n_rows)
{
    for (int r = 0; r < STRIP_ROWS; r++) {
        const int8_t *row = w + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
        for (int c = 0; c < QE_GROUP; c += 64) {
            _mm_prefetch((const char *)row + c + STRIP_ROWS * row_bytes, _MM_HINT_T1);
            for (int i = c; i < c + 64; i += 16) {
                __m128i bytes = _mm_loadu_si128((const __m128i *)(row + i));
                _mm256_storeu_si256((__m256i *)(strip + r * QE_GROUP + i),
                                    _mm256_cvtepi8_epi16(bytes));
            }
        }
    }
}

/* sum (6, 16) = one group of the strip times one block of the panel. */
static inline __attribute__((always_inline)) void
multiply_group(__m256i to[STRIP_ROWS][2], const int16_t *strip, const int16_t *panel)
{
    /* A local array: clang would keep the caller's in memory. */
    __m256i sum[STRIP_ROWS][2];

    for (int r = 0; r < STRIP_ROWS; r++) {
        sum[r][0] = _mm256_setzero_si256();
        sum[r][1] = _mm256_setzero_si256();
    }
    for (int c0 = 0; c0 < QE_GROUP; c0 += 16) {
#pragma GCC unroll 8
        for (int c = c0; c < c0 + 16; c += 2) {
            const __m256i *pairs =
                (const __m256i *)(const void *)(panel + (size_t)c * QE_PANEL_ROWS);
            __m256i low = _mm256_loadu_si256(pairs);
            __m256i high = _mm256_loadu_si256(pairs + 1);
            for (int r = 0; r < STRIP_ROWS; r++) {
                int32_t pair;
                memcpy(&pair, strip + r * QE_GROUP + c, sizeof pair);
                __m256i a = _mm256_set1_epi32(pair);
                sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(a, low));
                sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(a, high));
                /* Compilers would reorder the additions and run out of registers. */
                __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
            }
        }
    }
    memcpy(to, sum, sizeof sum);
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    int16_t strip[STRIP_ROWS * QE_GROUP];

    for (int row = 0; row < n; row += STRIP_ROWS) {
        int n_rows = n - row < STRIP_ROWS ? n - row : STRIP_ROWS;
        for (int g = 0; g < n_groups; g++) {
            widen_strip(strip, w->values + row * w->row_bytes + (size_t)g * QE_GROUP,
                        w->row_bytes, n_rows);
            bool first = g == 0 && !accumulate;
            bool last = g == n_groups - 1 && finish;
            for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
                const unsigned char *values =
                    (const unsigned char *)panel->values + block * panel->block_bytes;
                const float *scales = panel->scales + block * panel->scale_stride +
                                      (size_t)g * QE_PANEL_ROWS;
                __m256i sum[STRIP_ROWS][2];
                multiply_group(sum, strip,
                               (const int16_t *)(const void *)values +
                                   (size_t)g * QE_GROUP * QE_PANEL_ROWS);
                for (int r = 0; r < STRIP_ROWS && r < n_rows; r++) {
                    float *part = y + (row + r) * ldy + block * QE_PANEL_ROWS;
                    store_sum(part, sum[r][0], scales, first, last, w->scales[row + r]);
                    store_sum(part + 8, sum[r][1], scales + 8, first, last,
                              w->scales[row + r]);
                }
            }
        }
    }
}
