/* gemm_amx.c: rows times panel with AMX: TDPBF16PS adds to a tile of 16 x 16 sums the
 * products of 16 rows and 32 columns with 32 columns and 16 rows of the panel.
 *
 * Strips of 32 rows times two blocks of the panel keep their sums in four tiles. The
 * two blocks stay in the L1 cache while the rows, loaded as they lie, stream by. */
#include "isa_kernels.h"

#include <immintrin.h>
#include <string.h>

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64
#define STRIP_ROWS 32
#define CACHED_K 512 /* columns of two blocks of the panel that the L1 cache holds */

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
    __asm__ volatile("" ::"m"(config)); /* gcc 12 sees only 8 bytes of it used */
    _tile_loadconfig(&config);
}

struct strip {
    float *y; /* (n_rows, 16 * blocks), rows ldy apart */
    size_t ldy;
    const unsigned char *x; /* (n_rows, k) bf16, rows row_bytes apart */
    size_t row_bytes;
    const qe_bf16 *panel; /* (blocks, k/2, 16, 2), blocks block_stride apart */
    size_t block_stride;
    int k;
    bool accumulate;
    int n_ahead; /* rows after this strip to ask for meanwhile */
};

/* tall: more than 16 rows; wide: two blocks; both constants where this is inlined. */
static inline __attribute__((always_inline)) void
multiply_strip(const struct strip *s, const bool tall, const bool wide)
{
    const size_t y_row_bytes = s->ldy * sizeof(float);
    float *y = s->y;
    float *y_high = y + TILE_ROWS * s->ldy;
    const unsigned char *x = s->x;
    const qe_bf16 *panel = s->panel;

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
        const unsigned char *ahead = x + STRIP_ROWS * s->row_bytes;
        for (int r = 0; r < s->n_ahead; r++) {
            _mm_prefetch((const char *)ahead + (size_t)r * s->row_bytes, _MM_HINT_T1);
        }
        _tile_loadd(6, panel, TILE_ROW_BYTES);
        _tile_stream_loadd(4, x, s->row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, panel + s->block_stride, TILE_ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_stream_loadd(5, x + TILE_ROWS * s->row_bytes, s->row_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (tall && wide) {
            _tile_dpbf16ps(3, 5, 7);
        }
        panel += QE_PANEL_ROWS * QE_K_STEP;
        x += TILE_ROW_BYTES;
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

/* m rows, either fewer than 32 or a multiple, times up to two blocks of the panel. */
static void
multiply_pair(struct strip s, int m, bool wide)
{
    for (int row = 0; row < m; row += STRIP_ROWS) {
        bool tall = m - row > TILE_ROWS;
        if (tall && wide) {
            multiply_strip(&s, true, true);
        } else if (tall) {
            multiply_strip(&s, true, false);
        } else if (wide) {
            multiply_strip(&s, false, true);
        } else {
            multiply_strip(&s, false, false);
        }
        s.x += STRIP_ROWS * s.row_bytes;
        s.y += STRIP_ROWS * s.ldy;
    }
}

/* m rows, either fewer than 32 or a multiple, times the whole panel. */
static void
multiply_rows(struct strip s, int m, int n_blocks, int k)
{
    struct strip pair = s;
    int low = m < TILE_ROWS ? m : TILE_ROWS;

    configure(low, m > TILE_ROWS && m < STRIP_ROWS ? m - TILE_ROWS : TILE_ROWS);
    for (int k0 = 0; k0 < k; k0 += CACHED_K) {
        pair.k = k - k0 < CACHED_K ? k - k0 : CACHED_K;
        pair.accumulate = s.accumulate || k0 > 0;
        pair.x = s.x + (size_t)k0 * sizeof(qe_bf16);
        for (int block = 0; block < n_blocks; block += 2) {
            pair.y = s.y + QE_PANEL_ROWS * block;
            pair.panel = s.panel + block * s.block_stride + (size_t)k0 * QE_PANEL_ROWS;
            pair.n_ahead = block == 0 ? STRIP_ROWS : 0;
            multiply_pair(pair, m, block + 1 < n_blocks);
        }
    }
}

void
ISA(qe_multiply)(float *y, size_t ldy, const void *x, size_t ldx, int m,
                 const qe_bf16 *panel, size_t block_stride, int n_blocks, int k,
                 bool accumulate)
{
    int whole = m - m % STRIP_ROWS;
    struct strip s = {
        .y = y,
        .ldy = ldy,
        .x = x,
        .row_bytes = ldx * sizeof(qe_bf16),
        .panel = panel,
        .block_stride = block_stride,
        .accumulate = accumulate,
    };

    if (whole > 0) {
        multiply_rows(s, whole, n_blocks, k);
    }
    if (whole < m) {
        s.x += (size_t)whole * s.row_bytes;
        s.y += (size_t)whole * s.ldy;
        multiply_rows(s, m - whole, n_blocks, k);
    }
    _tile_release();
}
