/* attention.h: attention of one engine: which kernels its device and its heads get,
 * chosen once, and how a batch is cut for them.
 *
 * Blocks are short or tall. On Hopper, with a head size of 128, tall ones go to a
 * kernel of their own, whose tiles of keys are longer: there it depends on a text's
 * length alone which blocks it gets. */
#ifndef QE_ATTENTION_H
#define QE_ATTENTION_H

#include <cuda.h>

#include "ops/kernels.h"

/* qkv cut into boxes for Hopper's tensor copy. */
struct attention_maps {
    CUtensorMap queries; /* (T, NH + 2 NKV, HS) by (128 / group, group, 64) */
    CUtensorMap keys;    /* (T, columns) by (128, 64); values too           */
};

struct attention {
    bf16 *qkv; /* (T, NH + 2 NKV, HS) not owned                   */
    int NH, NKV, HS;
    int block_tokens[2]; /* queries in a block, short and tall             */
    int n_multiprocessors;
    bool sm90;                  /* tall blocks are attention_sm90.cu's             */
    struct attention_maps maps; /* if sm90 */
};

/* Keys per tile of the kernels for sm_80 and later. */
#define ATTENTION_BLOCK_KV 64

/* Whether there is a kernel for these heads. */
bool attention_fits(int NH, int NKV, int HS);

/* For the current device. Output will take the place of the queries in qkv
 * (T, NH + 2 NKV, HS). */
cudaError_t attention_open(struct attention *attention, bf16 *qkv, int T, int NH,
                           int NKV, int HS);

/* Whether a text's queries, n_tokens of its n_keys positions, are cut into tall blocks.
 */
bool attention_is_tall(const struct attention *attention, int n_tokens, int n_keys);

/* blocks (n_blocks), on the device, all tall or none, longest first. norm: what to make
 * of raw queries and keys on their way in, for short blocks alone, which are then read
 * before the kernel ahead in the stream is done; NULL: it has been made. */
cudaError_t attention_run(const struct attention *attention,
                          const struct attention_block *blocks, int n_blocks, bool tall,
                          const struct head_norm *norm, cudaStream_t stream);

#endif
