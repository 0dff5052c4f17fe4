/* gemm_avx2.c: rows times panel with FMA on 8 floats.
 *
 * A strip of six rows is widened to fp32 once and runs against all blocks from the L1
 * cache, with its sums in registers. A pair of the panel is one 32-bit element: shifts
 * make floats of its lower half, the first of the pair, and of its upper half. */
#include "isa_kernels.h"

#include <immintrin.h>

#define STRIP_ROWS 6
#define STRIP_K 256 /* columns widened at a time */

static inline __attribute__((always_inline)) __m256
first_of(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

/* Two shifts instead of a mask, which would take the last free register. */
static inline __attribute__((always_inline)) __m256
second_of(__m256i pairs)
{
    return first_of(_mm256_srli_epi32(pairs, 16));
}

/* strip (6, k), rows STRIP_K apart, <- x (n_rows, k) bf16, rows row_bytes apart.
 * Missing rows repeat the last. Prefetches the same columns ahead_bytes further on. */
static void
widen_strip(float *strip, const unsigned char *x, size_t row_bytes, int n_rows, int k,
            size_t ahead_bytes)
{
    for (int r = 0; r < STRIP_ROWS; r++) {
        const unsigned char *row =
            x + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
        for (int c = 0; c < k; c += QE_K_STEP) {
            _mm_prefetch((const char *)row + 2 * c + ahead_bytes, _MM_HINT_T1);
            for (int i = c; i < c + QE_K_STEP; i += 8) {
                __m128i halves = _mm_loadu_si128((const __m128i *)(row + 2 * i));
                _mm256_storeu_ps(strip + (size_t)r * STRIP_K + i,
                                 first_of(_mm256_cvtepu16_epi32(halves)));
            }
        }
    }
}

/* y (n_rows, 16), rows ldy apart, = or += strip (6, k) times panel (k/2, 16, 2). A
 * strip that repeats its last row stores the same sums again. */
static void
multiply_strip(float *y, size_t ldy, const float *strip, int n_rows,
               const qe_bf16 *panel, int k, bool accumulate)
{
    float *rows[STRIP_ROWS];
    __m256 sum[STRIP_ROWS][2];

    for (int r = 0; r < STRIP_ROWS; r++) {
        rows[r] = y + (size_t)(r < n_rows ? r : n_rows - 1) * ldy;
        sum[r][0] = accumulate ? _mm256_loadu_ps(rows[r]) : _mm256_setzero_ps();
        sum[r][1] = accumulate ? _mm256_loadu_ps(rows[r] + 8) : _mm256_setzero_ps();
    }
    for (int c = 0; c < k; c += 2) {
        const __m256i *pairs = (const __m256i *)(panel + (size_t)c * QE_PANEL_ROWS);
        __m256 low = first_of(_mm256_loadu_si256(pairs));
        __m256 high = first_of(_mm256_loadu_si256(pairs + 1));
        for (int r = 0; r < STRIP_ROWS; r++) {
            __m256 a = _mm256_broadcast_ss(strip + r * STRIP_K + c);
            sum[r][0] = _mm256_fmadd_ps(a, low, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(a, high, sum[r][1]);
        }
        __asm__(""
                : "+r"(pairs)); /* makes the compiler load them again: there are too few
                                   registers */
        low = second_of(_mm256_loadu_si256(pairs));
        high = second_of(_mm256_loadu_si256(pairs + 1));
        for (int r = 0; r < STRIP_ROWS; r++) {
            __m256 a = _mm256_broadcast_ss(strip + r * STRIP_K + c + 1);
            sum[r][0] = _mm256_fmadd_ps(a, low, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(a, high, sum[r][1]);
        }
    }
    for (int r = 0; r < STRIP_ROWS; r++) {
        _mm256_storeu_ps(rows[r], sum[r][0]);
        _mm256_storeu_ps(rows[r] + 8, sum[r][1]);
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    const int n_blocks = (n + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    const size_t row_bytes = ldx * sizeof(qe_bf16);
    float strip[STRIP_ROWS * STRIP_K];

    for (int row = 0; row < m; row += STRIP_ROWS) {
        const unsigned char *rows = (const unsigned char *)x + (size_t)row * row_bytes;
        int n_rows = m - row < STRIP_ROWS ? m - row : STRIP_ROWS;
        for (int k0 = 0; k0 < k; k0 += STRIP_K) {
            int n_k = k - k0 < STRIP_K ? k - k0 : STRIP_K;
            widen_strip(strip, rows + 2 * (size_t)k0, row_bytes, n_rows, n_k,
                        STRIP_ROWS * row_bytes);
            for (int b = 0; b < n_blocks; b++) {
                multiply_strip(y + (size_t)row * ldy + QE_PANEL_ROWS * b, ldy, strip,
                               n_rows,
                               panel + b * block_stride + (size_t)k0 * QE_PANEL_ROWS,
                               n_k, accumulate || k0 > 0);
            }
        }
    }
}
