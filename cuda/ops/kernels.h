/* kernels.h: every launcher, with its shapes.
 *
 * T rows, C hidden size, I intermediate size, NH and NKV heads, HS head size. C and I
 * are padded with zeros to multiples of 64, in weights and activations. A launcher
 * returns the status of the launch; errors of a running kernel appear when the stream
 * is synchronised. Order of arguments: output, inputs, weights, shapes, scalars,
 * stream. */
#ifndef QE_KERNELS_H
#define QE_KERNELS_H

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "products/linear_shape.h"
#include "stream.h"

typedef __nv_bfloat16 bf16;

/* Rows that a product reads: bf16, or e4m3 or int8 with one scale per row. */
struct operand {
    void *values;  /* (rows, .)                  */
    float *scales; /* (rows); NULL: they are bf16 */
};

/* The rows from row on, of k elements each. */
static inline struct operand
rows_from(struct operand x, size_t row, size_t k)
{
    if (x.scales == NULL) {
        return {static_cast<bf16 *>(x.values) + row * k, NULL};
    }
    return {static_cast<unsigned char *>(x.values) + row * k, x.scales + row};
}

/* The same rows of another layer, n_bytes further, a multiple of 4. */
static inline struct operand
moved(struct operand x, size_t n_bytes)
{
    return {static_cast<unsigned char *>(x.values) + n_bytes,
            x.scales == NULL ? NULL : x.scales + n_bytes / sizeof(float)};
}

/* ---- embed.cu ---- */

/* h (T, C) <- rows tokens (T) of embed_tokens (V, C). */
cudaError_t launch_embed(float *h, const int32_t *tokens, const bf16 *embed_tokens,
                         int T, int C, struct stream stream);

/* y (n_rows, row_bytes) <- rows (n_rows) of x (., row_bytes); row_bytes a multiple
 * of 16. y and x do not overlap. */
cudaError_t launch_gather_rows(void *y, const void *x, const int32_t *rows, int n_rows,
                               size_t row_bytes, struct stream stream);

/* ---- rms_norm.cu ---- */

/* x (T, C) <- h (T, C) / rms(h) * weight (C); the mean is over n_columns <= C. */
cudaError_t launch_rms_norm(struct operand x, const float *h, const float *weight,
                            int T, int C, int n_columns, float eps,
                            struct stream stream);

/* ---- quantize.cu ---- */

/* y (T, n) in e4m3 <- x (T, n) rows ldx elements apart; n a multiple of 8. */
cudaError_t launch_quantize(struct operand y, const bf16 *x, int T, int n, size_t ldx,
                            struct stream stream);

/* ---- int8_weights.cu ---- */

/* What equalises a matrix before it is rounded: powers of two. */
struct equalising {
    const float *columns; /* (n_columns) they are multiplied by; NULL: none */
    const float *rows;    /* (T) they are divided by; NULL: none            */
    int n_columns;        /* without padding                                */
};

/* y (T, n) in int8, in the order of int8_layout.h, <- x (T, n), contiguous; n a
 * multiple of 16. Scales are bf16 numbers. A row with NaN or infinity has such a scale,
 * and its products are NaN. */
cudaError_t launch_quantize_int8(struct operand y, const bf16 *x,
                                 struct equalising equalising, int T, int n,
                                 struct stream stream);

/* x (n) /= divisors (n). */
cudaError_t launch_divide(float *x, const float *divisors, int n, struct stream stream);

/* y (n, k) <- values times scales of w (n, k), rounded to bf16; k a multiple of 32. */
cudaError_t launch_expand_int8(bf16 *y, struct operand w, int n, int k,
                               struct stream stream);

/* ---- qk_norm_rope.cu ---- */

/* cos_sin (n_positions, 2, HS / 2), of fp32 angles, as in transformers. */
cudaError_t launch_rope_table(float *cos_sin, const float *inv_freq, int n_positions,
                              int HS, float scale, struct stream stream);

/* Norm weights and RoPE table of the heads of q and k. */
struct head_norm {
    const float *cos_sin;  /* (., 2, HS / 2) by position */
    const float *q_weight; /* (HS)                       */
    const float *k_weight; /* (HS)                       */
    float eps;
};

/* Norms and rotates heads [first_head, first_head + n_heads) of qkv
 * (T, NH + 2 NKV, HS) in place. Heads below NH are queries, others are keys; a row is
 * rotated by its entry of positions (T). */
cudaError_t launch_qk_norm_rope(bf16 *qkv, const int32_t *positions,
                                const struct head_norm *norm, int T, int NH, int NKV,
                                int HS, int first_head, int n_heads,
                                struct stream stream);

/* ---- attention.cu, attention_sm90.cu: launched through attention.h ---- */

/* A few consecutive queries of one text: the unit of attention work. */
struct alignas(16) attention_block {
    int32_t row;        /* of the first query in qkv                               */
    int32_t position;   /* of the first query in its text                          */
    int32_t n_queries;  /* tokens; each stands for NH / NKV rows of a tile         */
    int32_t n_prefix;   /* positions that the prefix holds                         */
    int32_t prefix_row; /* of position 0 in qkv                                    */
    int32_t own_row;    /* of position n_prefix in qkv                             */
    int32_t n_keys;     /* positions in the text                                   */
    int32_t unused;     /* fills 32 bytes                                          */
};

/* ---- swiglu.cu ---- */

/* silu(gate) * up replaces gate in gate_up (T, 2, I). */
cudaError_t launch_swiglu(bf16 *gate_up, int T, int I, struct stream stream);

/* The same in e4m3: I bytes from the beginning of each row, and scales (T). I at most
 * SWIGLU_FLOAT8_MAX. */
cudaError_t launch_swiglu_float8(bf16 *gate_up, float *scales, int T, int I,
                                 struct stream stream);

#define SWIGLU_FLOAT8_MAX 32768

/* ---- pool.cu ---- */

struct pool_row {
    int32_t row;   /* of h                                                         */
    int32_t n_out; /* floats to write                                              */
    int32_t unit;  /* divide by the L2 norm                                        */
    int32_t first; /* float of out at which the row begins                         */
};

/* out <- rows (n_rows) of h (., C), normed with weight (C), cut, and divided by their
 * L2 norm if asked. A row that is not finite becomes NaN. */
cudaError_t launch_pool(float *out, const float *h, const pool_row *rows,
                        const float *weight, int n_rows, int C, int n_columns,
                        float eps, struct stream stream);

/* ---- gemm_rows.cu ---- */

#define N_GEMM_ROWS_VARIANTS 7

/* Rows of x in one block of a variant. */
int gemm_rows_block(int variant);

/* To be called once per device, before the first launch. */
cudaError_t gemm_rows_init(void);

/* y (m, n) bf16 = x w^T, or y (m, n) fp32 += x w^T if add; x (m, k), w (n, k); rows of
 * x and y ldx and ldy elements apart. k a multiple of 8, n of 2. */
cudaError_t launch_gemm_rows(void *y, const bf16 *x, const bf16 *w, int m, int n, int k,
                             size_t ldx, size_t ldy, bool add, int variant,
                             struct stream stream);

/* ---- gemm_stream.cu ---- */

/* To be called once per device, before the first launch. */
cudaError_t gemm_stream_init(void);

/* The same sums for at most GEMM_STREAM_MAX_ROWS rows; k a multiple of
 * GEMM_STREAM_K, n of 16. */
cudaError_t launch_gemm_stream(void *y, const bf16 *x, const bf16 *w, int m, int n,
                               int k, size_t ldx, size_t ldy,
                               enum product_output output, struct stream stream);

/* ---- gemm_stream_int8.cu ---- */

/* To be called once per device, before the first launch. */
cudaError_t gemm_stream_int8_init(void);

/* The sums of launch_expand_int8()'s bf16, for any m; k a multiple of
 * GEMM_STREAM_K, n of 16. */
cudaError_t launch_gemm_stream_int8(void *y, const bf16 *x, struct operand w, int m,
                                    int n, int k, size_t ldx, size_t ldy,
                                    enum product_output output, struct stream stream);

#endif
