// cuda_plans.cpp: the pure functions of cuda/ as a test calls them through ctypes.
#include <vector>

#include "int8_layout.h"
#include "memory_plan.h"
#include "products/stream_plan.h"
#include "shared_memory.h"
#include "split_plan.h"

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

// Layers [first, first + n) of the model.
struct qe_cuda_memory
stage_memory(const struct qe_config *config, int first, int n, int batch_tokens)
{
    const struct device_shape whole = device_shape_of(config, QE_BFLOAT16, false);
    const struct device_shape shape = shape_of_layers(whole, {first, n});

    return plan_memory(&shape, batch_tokens, config->max_length, 0, 0);
}

void
layers_of_stages(const struct stage_room *rooms, int n_stages, int n_layers,
                 size_t layer_bytes, int *counts)
{
    split_layers(rooms, n_stages, n_layers, layer_bytes, counts);
}

// n_tokens (n_seqs); prefixes (n_seqs): as of struct qe_seq, or -2 for a prefix itself.
// Returns the number of micro-batches; of each sequence in them, origins has its index
// in the batch and found its prefix.
int
cut_texts(const int32_t *n_tokens, const int32_t *prefixes, int n_seqs, int n_out,
          const struct cut_limits *limits, struct micro_batch *micros, int32_t *origins,
          int32_t *found)
{
    std::vector<struct qe_seq> seqs(n_seqs), made(2 * n_seqs);
    std::vector<int32_t> places(n_seqs);
    struct cut cut = {made.data(), micros, places.data(), 0, 0};
    struct qe_batch batch = {};
    float out = 0;

    for (int i = 0; i < n_seqs; i++) {
        const bool is_prefix = prefixes[i] == -2;
        seqs[i] = {n_tokens + i, n_tokens[i], is_prefix ? -1 : prefixes[i],
                   QE_RAW,       n_out,       is_prefix ? NULL : &out};
        batch.n_tokens += n_tokens[i];
    }
    batch.seqs = seqs.data();
    batch.n_seqs = n_seqs;
    cut_batch(&batch, limits, &cut);
    for (int i = 0; i < cut.n_seqs; i++) {
        origins[i] = (int32_t)(made[i].tokens - n_tokens);
        found[i] = made[i].prefix;
    }
    return cut.n_micros;
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
