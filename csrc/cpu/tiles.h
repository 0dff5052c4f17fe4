/* tiles.h: AMX's tile registers, configured for strips of up to 32 rows: tiles 0 to 3
 * hold sums (half of the strip, block), 4 and 5 rows, 6 and 7 the panel. */
#ifndef QE_TILES_H
#define QE_TILES_H

#include <immintrin.h>
#include <stdint.h>

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

static inline void
configure_tiles(int n_rows)
{
    struct tile_config config = {.palette = 1};
    const int low = n_rows < TILE_ROWS ? n_rows : TILE_ROWS;
    const int high = n_rows > TILE_ROWS ? n_rows - TILE_ROWS : TILE_ROWS;
    const int rows[8] = {low, low, high, high, low, high, TILE_ROWS, TILE_ROWS};

    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = TILE_ROW_BYTES;
        config.rows[t] = (uint8_t)rows[t];
    }
    __asm__ volatile("" ::"m"(config)); /* gcc 12 sees only 8 bytes of it used */
    _tile_loadconfig(&config);
}

#endif
