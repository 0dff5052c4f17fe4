/* gemm_avx512.c: rows times panel with FMA on 16 floats, for processors with AVX-512
 * but without its instructions for bf16.
 *
 * A strip of eight rows is widened to fp32 once and runs against all blocks from the L1
 * cache, up to three at a time, with its sums in registers. A pair of the panel is one
 * 32-bit element: its lower half is the first of the pair, its upper half the second.
 */
#include "isa_kernels.h"

#include <immintrin.h>

#define STRIP_ROWS 8
#define STRIP_K 256 /* columns widened at a time */
#define MAX_BLOCKS 3

/* strip (8, k), rows STRIP_K apart, <- x (n_rows, k) bf16, rows row_bytes apart.
 * Missing rows repeat the last. Prefetches the same columns of the next rows. */
static void
widen_strip(float *strip, const unsigned char *x, size_t row_bytes, int n_rows, int k)
{
    for (int r = 0; r < STRIP_ROWS; r++) {
        const unsigned char *row =
            x + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
        for (int c = 0; c < k; c += QE_K_STEP) {
            _mm_prefetch((const char *)row + 2 * c + STRIP_ROWS * row_bytes,
                         _MM_HINT_T1);
            for (int i = c; i < c + QE_K_STEP; i += 16) {
                __m256i halves = _mm256_loadu_si256((const __m256i *)(row + 2 * i));
                __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
                _mm512_storeu_si512(strip + (size_t)r * STRIP_K + i, wide);
            }
        }
    }
}

/* y (n_rows, 16 * blocks), rows ldy apart, = or += strip (8, k) times panel (blocks,
 * k/2, 16, 2), blocks block_stride apart; blocks is a constant after inlining. A strip
 * that repeats its last row stores the same sums again. */
static inline __attribute__((always_inline)) void
multiply_strip(float *y, size_t ldy, const float *strip, int n_rows,
               const qe_bf16 *panel, size_t block_stride, int k, bool accumulate,
               const int blocks)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    const __mmask16 initial = accumulate ? 0xffff : 0;
    float *rows[STRIP_ROWS];
    __m512 sum[STRIP_ROWS][MAX_BLOCKS];

    for (int r = 0; r < STRIP_ROWS; r++) {
        rows[r] = y + (size_t)(r < n_rows ? r : n_rows - 1) * ldy;
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_maskz_loadu_ps(initial, rows[r] + 16 * b);
        }
    }
    for (int c = 0; c < k; c += 2) {
        const qe_bf16 *pairs = panel + (size_t)c * QE_PANEL_ROWS;
        for (int half = 0; half < 2; half++) {
            __m512 w[MAX_BLOCKS];
            for (int b = 0; b < blocks; b++) {
                __m512i pair = _mm512_loadu_si512(pairs + b * block_stride);
                w[b] = _mm512_castsi512_ps(half == 0 ? _mm512_slli_epi32(pair, 16)
                                                     : _mm512_and_si512(pair, upper));
            }
            for (int r = 0; r < STRIP_ROWS; r++) {
                __m512 a = _mm512_set1_ps(strip[r * STRIP_K + c + half]);
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_fmadd_ps(a, w[b], sum[r][b]);
                }
            }
            __asm__(""
                    : "+r"(pairs)); /* makes the compiler load them again: there are too
                                       few registers */
        }
    }
    for (int r = 0; r < STRIP_ROWS; r++) {
        for (int b = 0; b < blocks; b++) {
            _mm512_storeu_ps(rows[r] + 16 * b, sum[r][b]);
        }
    }
}

/* A strip times all blocks. */
static void
multiply_blocks(float *y, size_t ldy, const float *strip, int n_rows,
                const qe_bf16 *panel, size_t block_stride, int n_blocks, int k,
                bool accumulate)
{
    for (int block = 0; block < n_blocks;) {
        int n_parts = (n_blocks - block + MAX_BLOCKS - 1) / MAX_BLOCKS;
        int blocks = (n_blocks - block + n_parts - 1) / n_parts;
        float *part = y + QE_PANEL_ROWS * block;
        const qe_bf16 *first = panel + block * block_stride;
        switch (blocks) {
        case 1:
            multiply_strip(part, ldy, strip, n_rows, first, block_stride, k, accumulate,
                           1);
            break;
        case 2:
            multiply_strip(part, ldy, strip, n_rows, first, block_stride, k, accumulate,
                           2);
            break;
        default:
            multiply_strip(part, ldy, strip, n_rows, first, block_stride, k, accumulate,
                           3);
            break;
        }
        block += blocks;
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
            widen_strip(strip, rows + 2 * (size_t)k0, row_bytes, n_rows, n_k);
            multiply_blocks(y + (size_t)row * ldy, ldy, strip, n_rows,
                            panel + (size_t)k0 * QE_PANEL_ROWS, block_stride, n_blocks,
                            n_k, accumulate || k0 > 0);
        }
    }
}
