/* shared_memory.h: the shared memory of the kernels that ask for more than a fixed
 * amount, in plain C++, so that a test without a GPU can compare it with every device's
 * limit. That of gemm_stream.cu is in products/stream_plan.h. */
#ifndef QE_SHARED_MEMORY_H
#define QE_SHARED_MEMORY_H

/* Rows of k bf16 in shared memory are 8 elements longer: an odd number of 16-byte
 * units, so that ldmatrix has no bank conflicts. */
static constexpr int
smem_row_length(int k)
{
    return k + 8;
}

/* gemm_rows.cu: a ring of n_stages tiles of block_m rows of x and block_n rows of w. */
static constexpr int
gemm_rows_smem_bytes(int block_m, int block_n, int block_k, int n_stages)
{
    return n_stages * (block_m + block_n) * smem_row_length(block_k) * 2;
}

/* attention.cu: n_rows rows of queries, and a tile each of keys and of values. */
static constexpr int
attention_smem_bytes(int head_dim, int n_rows, int block_kv)
{
    return (n_rows + 2 * block_kv) * smem_row_length(head_dim) * 2;
}

#endif
