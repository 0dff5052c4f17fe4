/* q8_0_avx512.c: Q8_0 rows times panel with VPDPBUSD, as in int8_avx512.c.
 *
 * A few rows are multiplied by up to three blocks of the panel together. The integer
 * sums of 32 columns and the float sums of a group stay in registers. The AMX set uses
 * this kernel too, because its tiles sum 64 columns and would be half empty. Its panels
 * hold signed bytes, which are made unsigned as they are loaded. */
#include "isa_kernels.h"

#include <immintrin.h>

#include "q8_0.h"

#define MAX_ROWS 8
#define MAX_BLOCKS 3
#define UNSIGNED_ZERO 128 /* offset of unsigned values */

struct strip {
    float *y; /* (n_rows, 16 * blocks), rows ldy apart */
    size_t ldy;
    struct qe_q8_0_rows w;
    int n_rows;
    const uint8_t *panel; /* (blocks, k/4, 16, 4), blocks block_bytes apart */
    size_t block_bytes;
    const float *scales; /* (blocks, n_groups, 16), blocks scale_stride apart */
    size_t scale_stride;
    int n_groups;
    bool accumulate;
    size_t ahead_bytes; /* from a row to the same row of the next strip */
};

static inline __attribute__((always_inline)) __m512i
broadcast_quad(const int8_t *w)
{
    int32_t quad;

    memcpy(&quad, w, sizeof quad);
    return _mm512_set1_epi32(quad);
}

static inline __attribute__((always_inline)) __m512i
load_unsigned(const uint8_t *panel)
{
    __m512i x = _mm512_loadu_si512(panel);

    return QE_INT8_ZERO == UNSIGNED_ZERO
               ? x
               : _mm512_xor_si512(x, _mm512_set1_epi8((char)UNSIGNED_ZERO));
}

/* One group of each row: the scales of its blocks, and the values at which their
 * integer sums start, which cancel the offset of the panel. */
struct group {
    _Alignas(16) float scales[MAX_ROWS][QE_Q8_0_BLOCKS];
    _Alignas(16) int32_t starts[MAX_ROWS][QE_Q8_0_BLOCKS];
};

static inline __attribute__((always_inline)) void
load_group(struct group *group, int r, const unsigned char *w, const int16_t *sums)
{
    __m128i halves = _mm_cvtsi32_si128(qe_q8_0_scale(w));
    __m128i wide =
        _mm_cvtepi16_epi32(_mm_loadl_epi64((const __m128i *)(const void *)sums));

    halves = _mm_insert_epi16(halves, qe_q8_0_scale(w + QE_Q8_0_BYTES), 1);
    halves = _mm_insert_epi16(halves, qe_q8_0_scale(w + 2 * QE_Q8_0_BYTES), 2);
    halves = _mm_insert_epi16(halves, qe_q8_0_scale(w + 3 * QE_Q8_0_BYTES), 3);
    _mm_store_ps(group->scales[r], _mm_cvtph_ps(halves));
    _mm_store_si128((__m128i *)(void *)group->starts[r],
                    _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(wide, 7)));
}

/* part (rows, blocks) += Q8_0 block `block` of each row's group times 32 columns of the
 * panel. */
static inline __attribute__((always_inline)) void
add_block(__m512 part[MAX_ROWS][MAX_BLOCKS], const unsigned char *const w[MAX_ROWS],
          const struct group *group, const int block, const uint8_t *panel,
          const struct strip *s, const int rows, const int blocks)
{
    __m512i sum[MAX_ROWS][MAX_BLOCKS];

    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_set1_epi32(group->starts[r][block]);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < QE_Q8_0_BLOCK; c += 4) {
        __m512i x[MAX_BLOCKS];
        for (int b = 0; b < blocks; b++) {
            x[b] = load_unsigned(panel + b * s->block_bytes + 16 * c);
        }
        for (int r = 0; r < rows; r++) {
            __m512i a =
                broadcast_quad(qe_q8_0_values(w[r] + block * QE_Q8_0_BYTES) + c);
            for (int b = 0; b < blocks; b++) {
                sum[r][b] = _mm512_dpbusd_epi32(sum[r][b], x[b], a);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        __m512 scale = _mm512_set1_ps(group->scales[r][block]);
        for (int b = 0; b < blocks; b++) {
            part[r][b] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][b]), scale, part[r][b]);
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
    const unsigned char *w[MAX_ROWS];
    const int16_t *sums[MAX_ROWS];
    int index[MAX_ROWS];

    for (int r = 0; r < rows; r++) {
        index[r] = r < s->n_rows ? r : s->n_rows - 1;
        w[r] = s->w.blocks + (size_t)index[r] * s->w.row_bytes;
        sums[r] = s->w.sums + (size_t)index[r] * s->w.sum_stride;
        for (int b = 0; b < blocks; b++) {
            const float *y = s->y + index[r] * s->ldy + 16 * b;
            _mm512_store_ps(total[r][b], _mm512_maskz_loadu_ps(initial, y));
        }
    }
    const uint8_t *panel = s->panel;
    for (int g = 0; g < s->n_groups; g++) {
        __m512 part[MAX_ROWS][MAX_BLOCKS];
        struct group group;
        for (int r = 0; r < rows; r++) {
            const char *at = (const char *)w[r];
            _mm_prefetch(at + 2 * QE_Q8_0_GROUP_BYTES, _MM_HINT_T0);
            _mm_prefetch(at + 2 * QE_Q8_0_GROUP_BYTES + 64, _MM_HINT_T0);
            _mm_prefetch(at + s->ahead_bytes, _MM_HINT_T1);
            _mm_prefetch(at + s->ahead_bytes + 64, _MM_HINT_T1);
            load_group(&group, r, w[r], sums[r]);
            for (int b = 0; b < blocks; b++) {
                part[r][b] = _mm512_setzero_ps();
            }
        }
#pragma GCC unroll 4
        for (int block = 0; block < QE_Q8_0_BLOCKS; block++) {
            add_block(part, w, &group, block, panel, s, rows, blocks);
            panel += QE_Q8_0_BLOCK * QE_PANEL_ROWS;
        }
        for (int b = 0; b < blocks; b++) {
            __m512 scale = _mm512_loadu_ps(s->scales + b * s->scale_stride + 16 * g);
            for (int r = 0; r < rows; r++) {
                _mm512_store_ps(
                    total[r][b],
                    _mm512_fmadd_ps(part[r][b], scale, _mm512_load_ps(total[r][b])));
            }
        }
        for (int r = 0; r < rows; r++) {
            w[r] += QE_Q8_0_GROUP_BYTES;
            sums[r] += QE_Q8_0_BLOCKS;
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int b = 0; b < blocks; b++) {
            _mm512_storeu_ps(s->y + index[r] * s->ldy + 16 * b,
                             _mm512_load_ps(total[r][b]));
        }
    }
}

/* All rows times up to three blocks of the panel. */
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
        s.w.blocks += s.ahead_bytes;
        s.w.sums += (size_t)max_rows * s.w.sum_stride;
        s.y += (size_t)max_rows * s.ldy;
    }
}

void
ISA(qe_multiply_q8_0)(float *y, size_t ldy, const struct qe_q8_0_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate)
{
    int n_blocks = (m + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    struct strip s = {
        .ldy = ldy,
        .w = *w,
        .block_bytes = panel->block_bytes,
        .scale_stride = panel->scale_stride,
        .n_groups = n_groups,
        .accumulate = accumulate,
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
