/* q8_0_avx2.c: Q8_0 rows times panel with VPMADDWD, as in int8_avx2.c: one group of six
 * rows is widened once and multiplied by all blocks of the panel. The sums of each 32
 * columns are scaled and accumulated as floats, in the L1 cache. */
#include "isa_kernels.h"

#include <immintrin.h>

#include "q8_0.h"

#define STRIP_ROWS 6

/* One group of a strip of rows, widened. */
struct strip {
    int16_t values[STRIP_ROWS][QE_GROUP];
    float scales[STRIP_ROWS][QE_Q8_0_BLOCKS];
};

/* Missing rows are copies of the last. Prefetches the same group of the next strip. */
static void
widen_strip(struct strip *strip, const unsigned char *w, size_t row_bytes, int n_rows)
{
    for (int r = 0; r < STRIP_ROWS; r++) {
        const unsigned char *block =
            w + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
        _mm_prefetch((const char *)block + STRIP_ROWS * row_bytes, _MM_HINT_T1);
        _mm_prefetch((const char *)block + STRIP_ROWS * row_bytes + 64, _MM_HINT_T1);
        for (int b = 0; b < QE_Q8_0_BLOCKS; b++) {
            for (int i = 0; i < QE_Q8_0_BLOCK; i += 16) {
                __m128i bytes = _mm_loadu_si128(
                    (const __m128i *)(const void *)(qe_q8_0_values(block) + i));
                _mm256_storeu_si256(
                    (__m256i *)(void *)(strip->values[r] + b * QE_Q8_0_BLOCK + i),
                    _mm256_cvtepi8_epi16(bytes));
            }
            strip->scales[r][b] = _cvtsh_ss(qe_q8_0_scale(block));
            block += QE_Q8_0_BYTES;
        }
    }
}

/* part (6, 16) = or += Q8_0 block b of each row times 32 columns of one block of the
 * panel. */
static inline __attribute__((always_inline)) void
add_block(float part[STRIP_ROWS][QE_PANEL_ROWS], const struct strip *strip, int b,
          const int16_t *panel)
{
    __m256i sum[STRIP_ROWS][2];

    for (int r = 0; r < STRIP_ROWS; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (int c = 0; c < QE_Q8_0_BLOCK; c += 2) {
        const __m256i *pairs =
            (const __m256i *)(const void *)(panel + (size_t)c * QE_PANEL_ROWS);
        __m256i low = _mm256_loadu_si256(pairs);
        __m256i high = _mm256_loadu_si256(pairs + 1);
        for (int r = 0; r < STRIP_ROWS; r++) {
            int32_t pair;
            memcpy(&pair, strip->values[r] + b * QE_Q8_0_BLOCK + c, sizeof pair);
            __m256i a = _mm256_set1_epi32(pair);
            sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(a, low));
            sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(a, high));
            /* Compilers would reorder the additions and run out of registers. */
            __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
        }
    }
    for (int r = 0; r < STRIP_ROWS; r++) {
        __m256 scale = _mm256_set1_ps(strip->scales[r][b]);
        for (int half = 0; half < 2; half++) {
            float *at = part[r] + 8 * half;
            __m256 before = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
            _mm256_storeu_ps(
                at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][half]), scale, before));
        }
    }
}

void
ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate)
{
    struct strip strip;

    for (int row = 0; row < n; row += STRIP_ROWS) {
        int n_rows = n - row < STRIP_ROWS ? n - row : STRIP_ROWS;
        for (int g = 0; g < n_groups; g++) {
            widen_strip(&strip,
                        w->blocks + row * w->row_bytes +
                            (size_t)g * QE_Q8_0_GROUP_BYTES,
                        w->row_bytes, n_rows);
            for (int block = 0; block * QE_PANEL_ROWS < m; block++) {
                const int16_t *values =
                    (const int16_t *)(const void *)((const unsigned char *)
                                                        panel->values +
                                                    block * panel->block_bytes) +
                    (size_t)g * QE_GROUP * QE_PANEL_ROWS;
                const float *scales = panel->scales + block * panel->scale_stride +
                                      (size_t)g * QE_PANEL_ROWS;
                float part[STRIP_ROWS][QE_PANEL_ROWS];
#pragma GCC unroll 4
                for (int b = 0; b < QE_Q8_0_BLOCKS; b++) {
                    add_block(part, &strip, b,
                              values + (size_t)b * QE_Q8_0_BLOCK * QE_PANEL_ROWS);
                }
                for (int i = 0; i < 2 * n_rows; i++) {
                    float *to =
                        y + (row + i / 2) * ldy + block * QE_PANEL_ROWS + i % 2 * 8;
                    __m256 before = g == 0 && !accumulate ? _mm256_setzero_ps()
                                                          : _mm256_loadu_ps(to);
                    _mm256_storeu_ps(
                        to,
                        _mm256_fmadd_ps(_mm256_loadu_ps(part[i / 2] + i % 2 * 8),
                                        _mm256_loadu_ps(scales + i % 2 * 8), before));
                }
            }
        }
    }
}
