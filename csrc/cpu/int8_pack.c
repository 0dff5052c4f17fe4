/* int8_pack.c: quantises rows of bf16 by groups and packs them into a panel; compiled
 * for the sets that have no file of their own. */
#include "isa_kernels.h"

#include "int8_scales.h"
#include "vec.h"

#if QE_INT8_ZERO > 0
typedef uint8_t panel_value;
#elif QE_INT8_BYTES == 1
typedef int8_t panel_value;
#else
typedef int16_t panel_value;
#endif

/* values (QE_GROUP) <- one group of one row, n_columns and then zeros. Returns the
 * scale. Magnitudes are compared as integers, which makes NaN the largest. */
static float
quantise_group(panel_value values[QE_GROUP], const unsigned char *row, int n_columns)
{
    const vec magic =
        vec_all(12582912.0f); /* 1.5 * 2^23: adding it rounds to integer */
    int16_t halves[QE_GROUP];
    int32_t wide[QE_GROUP];
    int16_t largest = 0;

    memset(halves, 0, n_columns < QE_GROUP ? sizeof halves : 0);
    memcpy(halves, row, (size_t)n_columns * sizeof *halves);
    for (int i = 0; i < QE_GROUP; i++) {
        int16_t magnitude = halves[i] & 0x7fff;
        largest = magnitude > largest ? magnitude : largest;
    }
    struct qe_int8_scale scale = qe_int8_scale((unsigned)largest);
    for (int i = 0; i < QE_GROUP; i += QE_LANES) {
        vec shifted = vec_load_bf16(halves + i) * scale.inverse + magic;
        ivec rounded = (ivec)shifted - (ivec)magic + QE_INT8_ZERO;
        memcpy(wide + i, &rounded, sizeof rounded);
    }
    for (int i = 0; i < QE_GROUP; i++) {
        values[i] = (panel_value)wide[i];
    }
    return scale.scale;
}

void
ISA(qe_pack_int8)(void *panel, float *scales, const void *x, size_t row_bytes,
                  int n_rows, int n_k, int k_padded)
{
    for (int k0 = 0; k0 < k_padded; k0 += QE_GROUP) {
        int n_columns = n_k - k0 < QE_GROUP ? n_k - k0 : QE_GROUP;
        panel_value *group = (panel_value *)panel + (size_t)k0 * QE_PANEL_ROWS;
        for (int r = 0; r < QE_PANEL_ROWS; r++) {
            panel_value values[QE_GROUP];
            if (r < n_rows) {
                const unsigned char *row =
                    (const unsigned char *)x + r * row_bytes + 2 * (size_t)k0;
                scales[r] = quantise_group(values, row, n_columns);
            } else {
                scales[r] = 0.0f;
                memset(values, 0, sizeof values);
            }
            for (int i = 0; i < QE_GROUP; i += QE_INT8_COLUMNS) {
                memcpy(group + (size_t)i * QE_PANEL_ROWS + r * QE_INT8_COLUMNS,
                       values + i, QE_INT8_COLUMNS * sizeof *values);
            }
        }
        scales += QE_PANEL_ROWS;
    }
}
