/* attention.cuh: declarations shared by the attention kernels. */
#ifndef QE_ATTENTION_CUH
#define QE_ATTENTION_CUH

#include <math_constants.h>

#include "attention/attention.h"
#include "common.cuh"

/* Arguments of a kernel. An item is a block of one kv head, or of one query head if
 * heads are raw. */
struct attention_work {
    bf16 *qkv;                     /* (T, NH + 2 NKV, HS) */
    const attention_block *blocks; /* (n_items / heads)   */
    int n_items, NKV, group;       /* NH / NKV            */
    float scale_log2;              /* log2(e) / sqrt(HS)  */
    head_norm norm;                /* for raw heads alone */
};

/* 2^x, flushed to 0 below 2^-126. */
static __device__ __forceinline__ float
power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* ---- attention_raw.cu ---- */

cudaError_t attention_raw_init(int HS);

/* Blocks of short rows whose keys are one tile. */
cudaError_t launch_attention_raw(int HS, const attention_work &work,
                                 struct stream stream);

/* ---- attention_sm90.cu ---- */

#define SM90_BLOCK_ROWS 128

/* Fills maps and sets sm90 if the library has code for the current device. */
cudaError_t attention_sm90_open(struct attention *attention, int T);

cudaError_t launch_attention_sm90(const struct attention *attention,
                                  const attention_work &work, struct stream stream);

#endif
