/* gemm_stream.cu: products of few rows over weights in bf16. */
#include "products/stream_kernel.cuh"

cudaError_t
gemm_stream_init(void)
{
    return init_kernels<false>();
}

cudaError_t
launch_gemm_stream(void *y, const bf16 *x, const bf16 *w, int m, int n, int k,
                   size_t ldx, size_t ldy, enum product_output output,
                   struct stream stream)
{
    const struct operand weights = {const_cast<bf16 *>(w), NULL};

    return launch_stream<false>(y, x, weights, m, n, k, ldx, ldy, output, stream);
}
