// cuda_plans.cpp: the pure functions of cuda/ as a test calls them through ctypes.
#include "products/stream_plan.h"
#include "shared_memory.h"

extern "C" {
struct stream_plan
stream_plan(int m, int n, int k, int swiglu, int n_multiprocessors, int smem_bytes)
{
    return plan_stream({m, n, k, swiglu != 0}, {n_multiprocessors, smem_bytes});
}

int
rows_smem(int block_m, int block_n, int block_k, int n_stages)
{
    return gemm_rows_smem_bytes(block_m, block_n, block_k, n_stages);
}

int
attention_smem(int head_dim, int n_rows, int block_kv)
{
    return attention_smem_bytes(head_dim, n_rows, block_kv);
}
}
