/* int8_avx512.c: int8 rows times panel with VPDPBUSD, which multiplies
 * signed by unsigned bytes and adds four products to each of 16 integer sums.
 *
 * A few rows are multiplied by up to three blocks of the panel together; the integer
 * sums of one group stay in registers. Four columns of a row are one broadcast. After
 * each group the sums are scaled and accumulated as floats, in the L1 cache. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define MAX_ROWS 8
#define MAX_BLOCKS 3

struct strip {
    float *y; /* (n_rows, 16 * blocks), rows ldy apart */
    size_t ldy;
    struct qe_int8_rows w;
    int n_rows;
    const uint8_t *panel; /* (blocks, k/4, 16, 4), blocks block_bytes apart */
    size_t block_bytes;
    const float *scales; /* (blocks, n_groups, 16), blocks scale_stride apart */
    size_t scale_stride;
    int n_groups;
    bool accumulate, finish;
    size_t ahead_bytes; /* from a row to the same row of the next strip */
};

static inline __attribute__((always_inline)) __m512i
broadcast_quad(const int8_t *w)
{
    int32_t quad;

    memcpy(&quad, w, sizeof quad);
    return _mm512_set1_epi32(quad);
}

/* sum (rows, blocks) += one group of the rows times the panel. */
static inline __attribute__((always_inline)) void
add_group(__m512i sum[MAX_ROWS][MAX_BLOCKS], const int8_t *const w[MAX_ROWS],
          const uint8_t *panel, const struct strip *s, const int rows, const int blocks)
{
    for (int c = 0; c < QE_GROUP; c += 16) {
        if (c / 16 < rows) {
            const char *row = (const char *)w[c / 16];
            _mm_prefetch(row + 2 * QE_GROUP, _MM_HINT_T0);
            _mm_prefetch(row + s->ahead_bytes, _MM_HINT_T1);
            _mm_prefetch(row + s->ahead_bytes + 64, _MM_HINT_T1);
        }
#pragma GCC unroll 4
        for (int quad = c; quad < c + 16; quad += 4) {
            __m512i x[MAX_BLOCKS];
            for (int b = 0; b < blocks; b++) {
                x[b] = _mm512_loadu_si512(panel + b * s->block_bytes + 16 * quad);
            }
            for (int r = 0; r < rows; r++) {
                __m512i a = broadcast_quad(w[r] + quad);
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_dpbusd_epi32(sum[r][b], x[b], a);
                }
            }
        }
    }
}

/* rows and blocks are constants after inlining. A strip that has fewer rows than that
 * reads its last row again for each missing one and stores the same sums again. */
static inline __attribute__((always_inline)) void
multiply_strip(const struct strip *s, const int rows, const int blocks)
{
    const __mmask16 initial = s->accumulate ? 0xffff : 0;
    _Alignas(64) float total[MAX_ROWS][MAX_BLOCKS][16];
    const int32_t *offset[MAX_ROWS];
    const int8_t *w[MAX_ROWS];
    int index[MAX_ROWS];

    for (int r = 0; r < rows; r++) {
        index[r] = r < s->n_rows ? r : s->n_rows - 1;
        w[r] = s->w.values + (size_t)index[r] * s->w.row_bytes;
        offset[r] = s->w.offsets + (size_t)index[r] * s->w.offset_stride;
        for (int b = 0; b < blocks; b++) {
            const float *y = s->y + index[r] * s->ldy + 16 * b;
            _mm512_store_ps(total[r][b], _mm512_maskz_loadu_ps(initial, y));
        }
    }
    for (int g = 0; g < s->n_groups; g++) {
        __m512i sum[MAX_ROWS][MAX_BLOCKS];
        for (int r = 0; r < rows; r++) {
            for (int b = 0; b < blocks; b++) {
                sum[r][b] = _mm512_set1_epi32(offset[r][g]);
            }
        }
        add_group(sum, w, s->panel + (size_t)g * QE_GROUP * 16, s, rows, blocks);
        for (int b = 0; b < blocks; b++) {
            __m512 scale = _mm512_loadu_ps(s->scales + b * s->scale_stride + 16 * g);
            for (int r = 0; r < rows; r++) {
                _mm512_store_ps(total[r][b],
                                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][b]), scale,
                                                _mm512_load_ps(total[r][b])));
            }
        }
        for (int r = 0; r < rows; r++) {
            w[r] += QE_GROUP;
        }
    }
    for (int r = 0; r < rows; r++) {
        __m512 scale = _mm512_set1_ps(s->finish ? s->w.scales[index[r]] : 1.0f);
        for (int b = 0; b < blocks; b++) {
            _mm512_storeu_ps(s->y + index[r] * s->ldy + 16 * b,
                             _mm512_mul_ps(_mm512_load_ps(total[r][b]), scale));
        }
    }
}

/* All rows times up to three blocks. */
static void
multiply_blocks(struct strip s, int n, int blocks)
{
    const int max_rows = blocks == 1   ? 8
                         : blocks == 2 ? 6
                                       : 4; /* 8 to 12 sums hide latency */

    s.ahead_bytes = (size_t)max_rows * s.w.row_bytes;
    for (int row = 0; row < n; row += max_rows) {
        s.n_rows = n - row < max_rows ? n - row : max_rows;
        switch (blocks) {
        case 1:
            multiply_strip(&s, 8, 1);
            break;
        case 2:
            multiply_strip(&s, 6, 2);
            break;
        default:
            multiply_strip(&s, 4, 3);
            break;
        }
        s.w.values += s.ahead_bytes;
        s.w.scales += max_rows;
        s.w.offsets += (size_t)max_rows * s.w.offset_stride;
        s.y += (size_t)max_rows * s.ldy;
    }
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    int n_blocks = (m + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    struct strip s = {
        .ldy = ldy,
        .w = *w,
        .block_bytes = panel->block_bytes,
        .scale_stride = panel->scale_stride,
        .n_groups = n_groups,
        .accumulate = accumulate,
        .finish = finish,
    };

    for (int block = 0; block < n_blocks;) {
        int n_parts = (n_blocks - block + MAX_BLOCKS - 1) / MAX_BLOCKS;
        int blocks = (n_blocks - block + n_parts - 1) / n_parts;
        s.y = y + QE_PANEL_ROWS * block;
        s.panel = (const uint8_t *)panel->values + block * panel->block_bytes;
        s.scales = panel->scales + block * panel->scale_stride;
        multiply_blocks(s, n, blocks);
        block += blocks;
    }
}
