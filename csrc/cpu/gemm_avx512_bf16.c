/* gemm_avx512_bf16.c: rows times panel with VDPBF16PS, which adds two products of bf16,
 * in order, to each of 16 sums.
 *
 * A strip of a few rows times up to four blocks of the panel keeps its sums in
 * registers over the whole of k. Two columns of a row are one broadcast. Half a block
 * uses registers of half the width and takes half the time. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define MAX_ROWS 8
#define MAX_BLOCKS 4

struct strip {
    float *y; /* (n_rows, 16 * blocks, and 8 with a half), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    int n_rows;
    const qe_bf16 *panel; /* (blocks, k/2, 16, 2), blocks block_stride apart */
    size_t block_stride;
    int k;
    bool accumulate;
    size_t ahead_bytes; /* from a row to the data needed after this strip */
};

static inline __attribute__((always_inline)) __m512bh
broadcast_pair(const unsigned char *x)
{
    int32_t pair;

    memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* rows, blocks and half are constants after inlining, so all loops unroll. A strip of
 * fewer rows repeats its last one, and stores the same sums again. */
static inline __attribute__((always_inline)) void
multiply_strip(const struct strip *s, const int rows, const int blocks, const bool half)
{
    const __mmask16 initial = s->accumulate ? 0xffff : 0;
    const unsigned char *x[MAX_ROWS];
    float *y[MAX_ROWS];
    __m512 sum[MAX_ROWS][MAX_BLOCKS];
    __m256 half_sum[MAX_ROWS];

    for (int r = 0; r < rows; r++) {
        int row = r < s->n_rows ? r : s->n_rows - 1;
        x[r] = s->x + (size_t)row * s->row_bytes;
        y[r] = s->y + (size_t)row * s->ldy;
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_maskz_loadu_ps(initial, y[r] + 16 * b);
        }
        if (half) {
            half_sum[r] = _mm256_maskz_loadu_ps((__mmask8)initial, y[r] + 16 * blocks);
        }
    }
    const qe_bf16 *panel = s->panel;
    for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
#pragma GCC unroll 16
        for (int pair = 0; pair < QE_K_STEP / 2; pair++) {
            __m512bh w[MAX_BLOCKS];
            if (pair % 2 == 0 && pair / 2 < rows) {
                const char *row = (const char *)x[pair / 2];
                _mm_prefetch(row + 2 * QE_K_STEP, _MM_HINT_T0);
                _mm_prefetch(row + s->ahead_bytes, _MM_HINT_T1);
            }
            for (int b = 0; b < blocks; b++) {
                w[b] = (__m512bh)_mm512_loadu_si512(panel + b * s->block_stride);
            }
            const __m256i *half_w = (const __m256i *)(panel + blocks * s->block_stride);
            for (int r = 0; r < rows; r++) {
                __m512bh a = broadcast_pair(x[r] + 4 * pair);
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_dpbf16_ps(sum[r][b], w[b], a);
                }
                if (half) {
                    half_sum[r] = _mm256_dpbf16_ps(
                        half_sum[r], (__m256bh)_mm256_loadu_si256(half_w),
                        (__m256bh)_mm512_castsi512_si256((__m512i)a));
                }
            }
            panel += 2 * QE_PANEL_ROWS;
        }
        for (int r = 0; r < rows; r++) {
            x[r] += 2 * QE_K_STEP;
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            _mm512_storeu_ps(y[r] + 16 * b, sum[r][b]);
        }
        if (half) {
            _mm256_storeu_ps(y[r] + 16 * blocks, half_sum[r]);
        }
    }
}

/* All rows times one group of blocks and the half block, as many rows at a time as
 * registers hold. */
static void
multiply_group(struct strip s, int m, int halves)
{
    const int max_rows = halves < 2 * MAX_BLOCKS - 1 ? 8 : 6;

    s.ahead_bytes = (size_t)max_rows * s.row_bytes;
    for (int row = 0; row < m; row += max_rows) {
        s.n_rows = m - row < max_rows ? m - row : max_rows;
        switch (halves) {
        case 1:
            multiply_strip(&s, 8, 0, true);
            break;
        case 2:
            multiply_strip(&s, 8, 1, false);
            break;
        case 3:
            multiply_strip(&s, 8, 1, true);
            break;
        case 4:
            multiply_strip(&s, 8, 2, false);
            break;
        case 5:
            multiply_strip(&s, 8, 2, true);
            break;
        case 6:
            multiply_strip(&s, 8, 3, false);
            break;
        case 7:
            multiply_strip(&s, 6, 3, true);
            break;
        default:
            multiply_strip(&s, 6, 4, false);
            break;
        }
        s.x += s.ahead_bytes;
        s.y += (size_t)max_rows * s.ldy;
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    int n_blocks = (n + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    struct strip s = {
        .ldy = ldy,
        .x = x,
        .row_bytes = ldx * sizeof(qe_bf16),
        .block_stride = block_stride,
        .k = k,
        .accumulate = accumulate,
    };

    for (int block = 0; block < n_blocks;) {
        int n_groups = (n_blocks - block + MAX_BLOCKS - 1) / MAX_BLOCKS;
        int blocks = (n_blocks - block + n_groups - 1) / n_groups;
        int halves = (n - QE_PANEL_ROWS * block + 7) / 8;
        s.y = y + QE_PANEL_ROWS * block;
        s.panel = panel + block * block_stride;
        multiply_group(s, m, halves < 2 * blocks ? halves : 2 * blocks);
        block += blocks;
    }
}
