/* int8_amx.c: int8 rows times panel with TDPBSSD, which multiplies a tile of 16 rows
 * and 64 columns by a tile of the panel and adds the products to 16 x 16 integer sums.
 *
 * One group of 32 rows is copied to an aligned buffer, because tiles load slowly from
 * unaligned rows, and is multiplied by all blocks of the panel, two at a time. AMX
 * cannot convert to float, so the sums of a group are stored to memory, then scaled and
 * accumulated with AVX-512. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#include "tiles.h"

#define STRIP_ROWS (2 * TILE_ROWS)
#define N_STEPS (QE_GROUP / TILE_ROW_BYTES) /* tiles per group of a row */

/* tiles (2 halves, N_STEPS, 16, 64 bytes) <- one group of w's n_rows rows, row_bytes
 * apart. Prefetches the same group of the next strip. */
static void
copy_rows(unsigned char tiles[2][N_STEPS][TILE_ROWS][TILE_ROW_BYTES], const int8_t *w,
          size_t row_bytes, int n_rows)
{
    for (int r = 0; r < n_rows; r++) {
        const char *row = (const char *)w + (size_t)r * row_bytes;
        for (int i = 0; i < N_STEPS; i++) {
            _mm_prefetch(row + STRIP_ROWS * row_bytes + (size_t)i * TILE_ROW_BYTES,
                         _MM_HINT_T1);
            _mm512_store_si512(tiles[r / TILE_ROWS][i][r % TILE_ROWS],
                               _mm512_loadu_si512(row + (size_t)i * TILE_ROW_BYTES));
        }
    }
}

/* sums (half, block) <- one group of the copied rows times two blocks of the panel. If
 * not tall, only the first half has rows. */
static inline __attribute__((always_inline)) void
multiply_group(int32_t sums[2][2][TILE_ROWS][TILE_ROWS],
               unsigned char tiles[2][N_STEPS][TILE_ROWS][TILE_ROW_BYTES],
               const unsigned char *panel, const unsigned char *next_panel, bool tall)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < N_STEPS; i++) {
        _tile_loadd(4, tiles[0][i], TILE_ROW_BYTES);
        _tile_loadd(6, panel + (size_t)i * TILE_ROWS * TILE_ROW_BYTES, TILE_ROW_BYTES);
        _tile_loadd(7, next_panel + (size_t)i * TILE_ROWS * TILE_ROW_BYTES,
                    TILE_ROW_BYTES);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        if (tall) {
            _tile_loadd(5, tiles[1][i], TILE_ROW_BYTES);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0], TILE_ROW_BYTES);
    _tile_stored(1, sums[0][1], TILE_ROW_BYTES);
    if (tall) {
        _tile_stored(2, sums[1][0], TILE_ROW_BYTES);
        _tile_stored(3, sums[1][1], TILE_ROW_BYTES);
    }
}

/* y (n_rows, 16), rows ldy apart, = sums times scales (16) for the first group, += for
 * the others. After the last group y is multiplied by the rows' scales. */
static void
store_sums(float *y, size_t ldy, int32_t sums[TILE_ROWS][TILE_ROWS], int n_rows,
           const float *scales, const float *row_scales, bool first, bool last)
{
    const __m512 scale = _mm512_loadu_ps(scales);
    const __mmask16 initial = first ? 0 : 0xffff;

    for (int r = 0; r < n_rows; r++) {
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[r]));
        __m512 total =
            _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(initial, y + r * ldy));
        if (last) {
            total = _mm512_mul_ps(total, _mm512_set1_ps(row_scales[r]));
        }
        _mm512_storeu_ps(y + r * ldy, total);
    }
}

/* One group of a strip of rows times all blocks of the panel. */
static void
multiply_strip(float *y, size_t ldy, const struct qe_int8_rows *w, int n_rows,
               const struct qe_int8_panel *panel, int n_blocks, int g, bool first,
               bool last)
{
    _Alignas(64) unsigned char tiles[2][N_STEPS][TILE_ROWS][TILE_ROW_BYTES];
    _Alignas(64) int32_t sums[2][2][TILE_ROWS][TILE_ROWS];
    const bool tall = n_rows > TILE_ROWS;

    copy_rows(tiles, w->values + (size_t)g * QE_GROUP, w->row_bytes, n_rows);
    for (int block = 0; block < n_blocks; block += 2) {
        int n_wide = n_blocks - block < 2 ? 1 : 2;
        const unsigned char *values = (const unsigned char *)panel->values +
                                      block * panel->block_bytes +
                                      (size_t)g * QE_GROUP * QE_PANEL_ROWS;
        const unsigned char *next = n_wide == 2 ? values + panel->block_bytes : values;
        if (tall) {
            multiply_group(sums, tiles, values, next, true);
        } else {
            multiply_group(sums, tiles, values, next, false);
        }
        for (int half = 0; half < 1 + tall; half++) {
            int first_row = half * TILE_ROWS;
            int rows = n_rows - first_row < TILE_ROWS ? n_rows - first_row : TILE_ROWS;
            for (int b = 0; b < n_wide; b++) {
                store_sums(y + first_row * ldy + (block + b) * QE_PANEL_ROWS, ldy,
                           sums[half][b], rows,
                           panel->scales + (block + b) * panel->scale_stride +
                               (size_t)g * QE_PANEL_ROWS,
                           w->scales + first_row, first, last);
            }
        }
    }
}

void
ISA(qe_multiply_int8)(float *y, size_t ldy, const struct qe_int8_rows *w, int n,
                      const struct qe_int8_panel *panel, int m, int n_groups,
                      bool accumulate, bool finish)
{
    const int n_blocks = (m + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    struct qe_int8_rows rows = *w;
    int configured = 0;

    for (int row = 0; row < n; row += STRIP_ROWS) {
        int n_rows = n - row < STRIP_ROWS ? n - row : STRIP_ROWS;
        if (n_rows != configured) {
            configure_tiles(n_rows);
            configured = n_rows;
        }
        for (int g = 0; g < n_groups; g++) {
            multiply_strip(y + row * ldy, ldy, &rows, n_rows, panel, n_blocks, g,
                           g == 0 && !accumulate, g == n_groups - 1 && finish);
        }
        rows.values += STRIP_ROWS * rows.row_bytes;
        rows.scales += STRIP_ROWS;
    }
    _tile_release();
}
