/* gemm_amx.c: rows times panel with AMX: TDPBF16PS adds to a 16 x 16 tile of sums the
 * product of 16 rows by 32 columns with 32 columns by 16 rows of the panel.
 *
 * A strip of 32 rows is first copied into tile layout, because loading tiles from rows
 * at arbitrary alignment is slow. The copy stays in the cache while the panel streams
 * past, two blocks at a time, so that the sums fill four tiles. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#include "tiles.h"

#define STRIP_ROWS (2 * TILE_ROWS)
#define STRIP_K 512 /* columns of a strip in the cache */

struct strip {
    float *y; /* (n_rows, 16 * n_blocks), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    int n_rows;           /* at most 32 */
    const qe_bf16 *panel; /* (n_blocks, k/2, 16, 2), blocks block_stride apart */
    size_t block_stride;
    int n_blocks;
    int k; /* at most STRIP_K */
    bool accumulate;
};

/* tiles (k/32, 2, 16, 64 bytes) <- the rows of the strip. Prefetches the rows after it.
 */
static void
copy_rows(unsigned char *tiles, const struct strip *s)
{
    for (int r = 0; r < s->n_rows; r++) {
        const unsigned char *row = s->x + (size_t)r * s->row_bytes;
        const unsigned char *ahead = row + (size_t)s->n_rows * s->row_bytes;
        unsigned char *tile = tiles + (size_t)r * TILE_ROW_BYTES;
        for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            _mm512_store_si512(tile, _mm512_loadu_si512(row));
            row += TILE_ROW_BYTES;
            ahead += TILE_ROW_BYTES;
            tile += STRIP_ROWS * TILE_ROW_BYTES;
        }
    }
}

/* The copied rows times one or two blocks of the panel. tall: more than 16 rows; wide:
 * two blocks. Both are constants after inlining. */
static inline __attribute__((always_inline)) void
multiply_tiles(const struct strip *s, const unsigned char *tiles, int block,
               const bool tall, const bool wide)
{
    const size_t y_row_bytes = s->ldy * sizeof(float);
    float *y = s->y + QE_PANEL_ROWS * block;
    float *y_high = y + TILE_ROWS * s->ldy;
    const qe_bf16 *panel = s->panel + block * s->block_stride;

    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (s->accumulate) {
        _tile_loadd(0, y, y_row_bytes);
        if (wide) {
            _tile_loadd(1, y + QE_PANEL_ROWS, y_row_bytes);
        }
        if (tall) {
            _tile_loadd(2, y_high, y_row_bytes);
        }
        if (tall && wide) {
            _tile_loadd(3, y_high + QE_PANEL_ROWS, y_row_bytes);
        }
    }
    for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
        _tile_loadd(4, tiles, TILE_ROW_BYTES);
        _tile_loadd(6, panel, TILE_ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, panel + s->block_stride, TILE_ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_loadd(5, tiles + TILE_ROWS * TILE_ROW_BYTES, TILE_ROW_BYTES);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (tall && wide) {
            _tile_dpbf16ps(3, 5, 7);
        }
        panel += QE_PANEL_ROWS * QE_K_STEP;
        tiles += STRIP_ROWS * TILE_ROW_BYTES;
    }
    _tile_stored(0, y, y_row_bytes);
    if (wide) {
        _tile_stored(1, y + QE_PANEL_ROWS, y_row_bytes);
    }
    if (tall) {
        _tile_stored(2, y_high, y_row_bytes);
    }
    if (tall && wide) {
        _tile_stored(3, y_high + QE_PANEL_ROWS, y_row_bytes);
    }
}

static void
multiply_strip(const struct strip *s)
{
    _Alignas(
        TILE_ROW_BYTES) unsigned char tiles[STRIP_K * STRIP_ROWS * sizeof(qe_bf16)];
    bool tall = s->n_rows > TILE_ROWS;

    copy_rows(tiles, s);
    for (int block = 0; block < s->n_blocks; block += 2) {
        bool wide = block + 1 < s->n_blocks;
        if (tall && wide) {
            multiply_tiles(s, tiles, block, true, true);
        } else if (tall) {
            multiply_tiles(s, tiles, block, true, false);
        } else if (wide) {
            multiply_tiles(s, tiles, block, false, true);
        } else {
            multiply_tiles(s, tiles, block, false, false);
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n, int k,
                 bool accumulate)
{
    const int n_blocks = (n + QE_PANEL_ROWS - 1) / QE_PANEL_ROWS;
    struct strip s = {
        .ldy = ldy,
        .row_bytes = ldx * sizeof(qe_bf16),
        .block_stride = block_stride,
        .n_blocks = n_blocks,
    };
    int configured = 0;

    for (int row = 0; row < m; row += STRIP_ROWS) {
        s.n_rows = m - row < STRIP_ROWS ? m - row : STRIP_ROWS;
        s.y = y + (size_t)row * ldy;
        if (s.n_rows != configured) {
            configure_tiles(s.n_rows);
            configured = s.n_rows;
        }
        for (int k0 = 0; k0 < k; k0 += STRIP_K) {
            s.x = (const unsigned char *)x + (size_t)row * s.row_bytes + 2 * (size_t)k0;
            s.panel = panel + (size_t)k0 * QE_PANEL_ROWS;
            s.k = k - k0 < STRIP_K ? k - k0 : STRIP_K;
            s.accumulate = accumulate || k0 > 0;
            multiply_strip(&s);
        }
    }
    _tile_release();
}
