/* embed.cu: copies of rows by index: token embeddings, and the last rows of h. */
#include "common.cuh"
#include "ops/kernels.h"

static __global__ void
embed_kernel(float *h, const int32_t *tokens, const bf16 *embed_tokens, int C)
{
    release_next_grid();
    wait_for_grid();

    const size_t row = blockIdx.x;
    const bf16 *from = embed_tokens + (size_t)tokens[row] * C;

    for (int c = threadIdx.x * 8; c < C; c += blockDim.x * 8) {
        float y[8];
        widen(y, load_16_bytes(from + c));
        store_8_floats(h + row * C + c, y);
    }
}

static __global__ void
gather_rows_kernel(uint4 *y, const uint4 *x, const int32_t *rows, size_t n_units)
{
    release_next_grid();
    wait_for_grid();

    const uint4 *from = x + rows[blockIdx.x] * n_units;
    uint4 *to = y + blockIdx.x * n_units;

    for (size_t i = threadIdx.x; i < n_units; i += blockDim.x) {
        to[i] = from[i];
    }
}

cudaError_t
launch_embed(float *h, const int32_t *tokens, const bf16 *embed_tokens, int T, int C,
             struct stream stream)
{
    return launch(embed_kernel, dim3(T), 128, 0, stream, h, tokens, embed_tokens, C);
}

cudaError_t
launch_gather_rows(void *y, const void *x, const int32_t *rows, int n_rows,
                   size_t row_bytes, struct stream stream)
{
    return launch(gather_rows_kernel, dim3(n_rows), 128, 0, stream,
                  static_cast<uint4 *>(y), static_cast<const uint4 *>(x), rows,
                  row_bytes / sizeof(uint4));
}
