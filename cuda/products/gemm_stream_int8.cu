/* gemm_stream_int8.cu: products of few rows over int8 weights, at half the bytes of
 * bf16.
 *
 * The ring holds weights in int8. Warps that multiply widen the weights of the next
 * step while they wait for the chain of sums of this one. What they multiply by is what
 * expand_int8_kernel writes, so the sums have the bits of every other plan. */
#include "products/stream_kernel.cuh"

cudaError_t
gemm_stream_int8_init(void)
{
    return init_kernels<true>();
}

/* Rows of x are independent, so more of them than a kernel takes are several launches,
 * each of which reads all the weights. */
cudaError_t
launch_gemm_stream_int8(void *y, const bf16 *x, struct operand w, int m, int n, int k,
                        size_t ldx, size_t ldy, enum product_output output,
                        struct stream stream)
{
    const size_t y_bytes = output == PRODUCT_ADD ? sizeof(float) : sizeof(bf16);
    cudaError_t status = cudaSuccess;

    for (int row = 0; row < m && status == cudaSuccess; row += GEMM_STREAM_MAX_ROWS) {
        status = launch_stream<true>(
            static_cast<unsigned char *>(y) + row * ldy * y_bytes, x + row * ldx, w,
            smaller(m - row, GEMM_STREAM_MAX_ROWS), n, k, ldx, ldy, output, stream);
    }
    return status;
}
