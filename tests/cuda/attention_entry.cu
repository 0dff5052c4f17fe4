/* attention_entry.cu: cuda/attention/attention.h as a test calls it through ctypes. */
#include <new>

#include "attention/attention.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT struct attention *
open_attention(bf16 *qkv, int T, int NH, int NKV, int HS)
{
    struct attention *attention = new (std::nothrow) struct attention;

    if (attention != nullptr &&
        attention_open(attention, qkv, T, NH, NKV, HS) != cudaSuccess) {
        delete attention;
        return nullptr;
    }
    return attention;
}

EXPORT int
is_tall(const struct attention *attention, int n_tokens, int n_keys)
{
    return attention_is_tall(attention, n_tokens, n_keys, false);
}

EXPORT int
block_tokens(const struct attention *attention, int tall)
{
    return attention->block_tokens[tall];
}

EXPORT int
run_attention(const struct attention *attention, const struct attention_block *blocks,
              int n_blocks, int tall, cudaStream_t stream)
{
    return attention_run(attention, blocks, n_blocks, tall != 0, nullptr,
                         {stream, false});
}

EXPORT void
close_attention(struct attention *attention)
{
    delete attention;
}
