/* isa_table.c: the table of one instruction set's kernels; compiled once per set. */
#include "isa_kernels.h"

#define QE_STRING2(name) #name
#define QE_STRING(name) QE_STRING2(name)

extern const struct qe_isa ISA(qe_isa);

const struct qe_isa ISA(qe_isa) = {
    .name = QE_STRING(QE_ISA),
    .pack = ISA(qe_pack),
    .multiply = ISA(qe_multiply),
    .max_task_m = 256,
    .panel_columns = QE_PANEL_COLUMNS,
    .int8_bytes = QE_INT8_BYTES,
    .int8_zero = QE_INT8_ZERO,
    .pack_int8 = ISA(qe_pack_int8),
    .multiply_int8 = ISA(qe_multiply_int8),
    .multiply_q8_0 = ISA(qe_multiply_q8_0),
    .store = ISA(qe_store),
    .swiglu = ISA(qe_swiglu),
    .widen = ISA(qe_widen),
    .rms_norm = ISA(qe_rms_norm),
    .norm_rope = ISA(qe_norm_rope),
    .narrow = ISA(qe_narrow),
    .attend = ISA(qe_attend),
    .pool = ISA(qe_pool),
};
