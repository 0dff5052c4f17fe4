/* neon.h: arm_neon.h, for kernels that keep their sums in registers. */
#ifndef QE_NEON_H
#define QE_NEON_H

/* gcc moves loads ahead before it gives out registers, and runs out of them; without
 * that it pairs the loads. The processors reorder by themselves. */
#if !defined(__clang__)
#pragma GCC optimize("no-schedule-insns")
#endif

#include <arm_neon.h>

#endif
