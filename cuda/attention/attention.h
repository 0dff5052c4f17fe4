/* attention.h: attention of one engine: the kernels for its device and heads, chosen
 * once, and the blocks that a batch is cut into.
 *
 * Blocks are short or tall. On Hopper, with a head size of 128, tall blocks have a
 * kernel of their own with longer key tiles: there the kind of a text's blocks depends
 * only on its length. */
#ifndef QE_ATTENTION_H
#define QE_ATTENTION_H

#include <cuda.h>

#include "ops/kernels.h"

/* Descriptions of qkv for Hopper's tensor copy. */
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

/* Returns whether there is a kernel for these heads. */
bool attention_fits(int NH, int NKV, int HS);

/* For the current device. Output replaces the queries in qkv (T, NH + 2 NKV, HS). */
cudaError_t attention_open(struct attention *attention, bf16 *qkv, int T, int NH,
                           int NKV, int HS);

/* Returns whether n_tokens queries of a text of n_keys positions get tall blocks. few:
 * the batch is so small that short blocks serve a text of one tile of keys better; its
 * bits are the same. */
bool attention_is_tall(const struct attention *attention, int n_tokens, int n_keys,
                       bool few);

/* blocks (n_blocks) in device memory, all tall or all short, longest first. norm: apply
 * q-norm, k-norm and RoPE while loading (short blocks of one tile of keys only, which
 * are then read before the preceding kernel has finished). NULL if already applied. */
cudaError_t attention_run(const struct attention *attention,
                          const struct attention_block *blocks, int n_blocks, bool tall,
                          const struct head_norm *norm, struct stream stream);

#endif
