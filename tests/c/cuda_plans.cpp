// cuda_plans.cpp: the pure functions of cuda/ as a test calls them through ctypes.
#include "int8_layout.h"
#include "memory_plan.h"
#include "products/stream_plan.h"
#include "shared_memory.h"

extern "C" {
struct stream_plan
stream_plan(int m, int n, int k, int swiglu, int int8, int n_multiprocessors,
            int smem_bytes)
{
    return plan_stream({m, n, k, swiglu != 0, int8 != 0},
                       {n_multiprocessors, smem_bytes});
}

int
place_in_group(int k)
{
    return int8_place(k);
}

int
offset_in_ring(int row, int group)
{
    return int8_ring_offset(row, group);
}

struct qe_cuda_memory
memory(const struct qe_config *config, int dtype, int host_table, int batch_tokens)
{
    const struct device_shape shape = device_shape_of(
        config, static_cast<enum qe_compute_dtype>(dtype), host_table != 0);

    return plan_memory(&shape, batch_tokens, config->max_length, 0, 0);
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
