/* gemm_avx2.c: rows times panel with FMA on 8 floats.
 *
 * A pair of bf16 is one 32-bit element: its upper half is the second of them as a
 * float once the lower is masked off, and a shift makes a float of the first. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define STRIP_ROWS 6

struct strip {
    float *y; /* (n_rows, 16), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    int n_rows;
    const qe_bf16 *panel; /* (k/2, 16, 2) */
    int k;
    bool accumulate;
    size_t ahead_bytes; /* from a row to what is needed after this strip */
};

static inline __attribute__((always_inline)) __m256i
broadcast_pair(const unsigned char *x)
{
    int32_t pair;

    memcpy(&pair, x, sizeof pair);
    return _mm256_set1_epi32(pair);
}

static inline __attribute__((always_inline)) __m256
first_of(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

static inline __attribute__((always_inline)) __m256
second_of(__m256i pairs)
{
    return _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32((int32_t)0xffff0000)));
}

/* A strip of fewer rows repeats its last one, and stores the same sums again. */
static void
multiply_strip(const struct strip *s)
{
    const unsigned char *x[STRIP_ROWS];
    float *y[STRIP_ROWS];
    __m256 sum[STRIP_ROWS][2];

    for (int r = 0; r < STRIP_ROWS; r++) {
        int row = r < s->n_rows ? r : s->n_rows - 1;
        x[r] = s->x + (size_t)row * s->row_bytes;
        y[r] = s->y + (size_t)row * s->ldy;
        for (int b = 0; b < 2; b++) {
            sum[r][b] =
                s->accumulate ? _mm256_loadu_ps(y[r] + 8 * b) : _mm256_setzero_ps();
        }
    }
    const qe_bf16 *panel = s->panel;
    for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
        for (int r = 0; r < STRIP_ROWS; r++) {
            _mm_prefetch((const char *)x[r] + s->ahead_bytes, _MM_HINT_T1);
        }
        for (int pair = 0; pair < QE_K_STEP / 2; pair++) {
            __m256i low = _mm256_loadu_si256((const __m256i *)panel);
            __m256i high = _mm256_loadu_si256((const __m256i *)(panel + 16));
            __m256 w[2] = {first_of(low), first_of(high)};
            for (int r = 0; r < STRIP_ROWS; r++) {
                __m256 a = first_of(broadcast_pair(x[r] + 4 * pair));
                sum[r][0] = _mm256_fmadd_ps(a, w[0], sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(a, w[1], sum[r][1]);
            }
            w[0] = second_of(low);
            w[1] = second_of(high);
            for (int r = 0; r < STRIP_ROWS; r++) {
                __m256 a = second_of(broadcast_pair(x[r] + 4 * pair));
                sum[r][0] = _mm256_fmadd_ps(a, w[0], sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(a, w[1], sum[r][1]);
            }
            panel += 2 * QE_PANEL_ROWS;
        }
        for (int r = 0; r < STRIP_ROWS; r++) {
            x[r] += 2 * QE_K_STEP;
        }
    }
    for (int r = 0; r < STRIP_ROWS; r++) {
        _mm256_storeu_ps(y[r], sum[r][0]);
        _mm256_storeu_ps(y[r] + 8, sum[r][1]);
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n_blocks, int k,
                 bool accumulate)
{
    struct strip s = {
        .ldy = ldy,
        .row_bytes = ldx * sizeof(qe_bf16),
        .k = k,
        .accumulate = accumulate,
    };

    for (int row = 0; row < m; row += STRIP_ROWS) {
        s.n_rows = m - row < STRIP_ROWS ? m - row : STRIP_ROWS;
        s.x = (const unsigned char *)x + (size_t)row * s.row_bytes;
        s.ahead_bytes = STRIP_ROWS * s.row_bytes;
        for (int b = 0; b < n_blocks; b++) {
            s.y = y + (size_t)row * ldy + QE_PANEL_ROWS * b;
            s.panel = panel + b * block_stride;
            multiply_strip(&s);
            s.ahead_bytes = 0; /* only once: the strip is now in the cache */
        }
    }
}
