/* gemm_amx.c: rows times panel with AMX: TDPBF16PS adds to a tile of 16 x 16 sums the
 * products of 16 rows and 32 columns with 32 columns and 16 rows of the panel.
 *
 * Up to 32 rows times two blocks of the panel keep their sums in four tiles over the
 * whole of k. Rows are loaded as they lie; a block of the panel is a column of tiles. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64

/* The operand of LDTILECFG, as the processor defines it. */
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tiles are named by constants: 0 to 3 are sums (row half, block), 4 and 5 rows,
 * 6 and 7 the panel. low and high: rows in the two halves of the strip. */
static void
configure(int low, int high)
{
    struct tile_config config = {.palette = 1};
    const int rows[8] = {low, low, high, high, low, high, TILE_ROWS, TILE_ROWS};

    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = TILE_ROW_BYTES;
        config.rows[t] = (uint8_t)rows[t];
    }
    _tile_loadconfig(&config);
}

struct strip {
    float *y; /* (n_rows, 16 * n_blocks), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    int n_rows;           /* at most 32 */
    const qe_bf16 *panel; /* (n_blocks, k/2, 16, 2), blocks block_stride apart */
    size_t block_stride;
    int n_blocks;
    int k;
    bool accumulate;
};

/* Each of the four does two blocks or one, of strips of more than 16 rows or fewer;
 * wide and tall are constants where this is inlined. */
static inline __attribute__((always_inline)) void
multiply_tiles(const struct strip *s, int block, const bool tall, const bool wide)
{
    const size_t y_row_bytes = s->ldy * sizeof(float);
    float *y = s->y + QE_PANEL_ROWS * block;
    float *y_high = y + TILE_ROWS * s->ldy;
    const unsigned char *x = s->x;
    const unsigned char *x_high = x + TILE_ROWS * s->row_bytes;
    const qe_bf16 *panel = s->panel + block * s->block_stride;
    const size_t stride = s->block_stride;

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
        _tile_loadd(6, panel, TILE_ROW_BYTES);
        _tile_loadd(4, x, s->row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, panel + stride, TILE_ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_loadd(5, x_high, s->row_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (tall && wide) {
            _tile_dpbf16ps(3, 5, 7);
        }
        panel += QE_PANEL_ROWS * QE_K_STEP;
        x += QE_K_STEP * sizeof(qe_bf16);
        x_high += QE_K_STEP * sizeof(qe_bf16);
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

/* Asks for the next strip while this one is multiplied: its rows lie far apart, so no
 * prefetcher of the processor's own follows them. */
static void
prefetch_rows(const unsigned char *x, size_t row_bytes, int n_rows, int k)
{
    for (int r = 0; r < n_rows; r++) {
        for (size_t at = 0; at < (size_t)k * sizeof(qe_bf16); at += TILE_ROW_BYTES) {
            _mm_prefetch((const char *)x + (size_t)r * row_bytes + at, _MM_HINT_T1);
        }
    }
}

static void
multiply_strip(const struct strip *s)
{
    bool tall = s->n_rows > TILE_ROWS;
    int block = 0;

    for (; block + 2 <= s->n_blocks; block += 2) {
        if (tall) {
            multiply_tiles(s, block, true, true);
        } else {
            multiply_tiles(s, block, false, true);
        }
    }
    if (block < s->n_blocks) {
        if (tall) {
            multiply_tiles(s, block, true, false);
        } else {
            multiply_tiles(s, block, false, false);
        }
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
        .panel = panel,
        .block_stride = block_stride,
        .n_blocks = n_blocks,
        .k = k,
        .accumulate = accumulate,
    };
    int configured = 0;

    for (int row = 0; row < m; row += 2 * TILE_ROWS) {
        s.n_rows = m - row < 2 * TILE_ROWS ? m - row : 2 * TILE_ROWS;
        s.y = y + (size_t)row * ldy;
        s.x = (const unsigned char *)x + (size_t)row * s.row_bytes;
        if (s.n_rows != configured) {
            int low = s.n_rows < TILE_ROWS ? s.n_rows : TILE_ROWS;
            configure(low, s.n_rows > TILE_ROWS ? s.n_rows - TILE_ROWS : TILE_ROWS);
            configured = s.n_rows;
        }
        prefetch_rows(s.x + 2 * TILE_ROWS * s.row_bytes, s.row_bytes, 2 * TILE_ROWS, k);
        multiply_strip(&s);
    }
    _tile_release();
}
