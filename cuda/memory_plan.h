/* memory_plan.h: where the weights and the buffers of a pass lie, and how many bytes
 * they take, as pure functions in plain C++. Opening an engine reserves what these
 * say; `qwen3-embed info` asks them what another engine would reserve; a test without a
 * GPU knows them, too.
 *
 * C and I are padded with zeros to multiples of QE_PAD, so that every row is 16-byte
 * aligned and kernels need no code for edges. q, k and v are one matrix, and gate and
 * up are another. */
#ifndef QE_MEMORY_PLAN_H
#define QE_MEMORY_PLAN_H

#include "arithmetic.h"
#include "products/linear_shape.h"
#include "seam.h"

#define QE_PAD 64
#define ALIGN_BYTES 256

/* MLP activations are the widest. A text longer than a batch may be has them made in
 * parts, so that a smaller batch_tokens takes less memory; the parts are not so small
 * that products read the weights for a few rows at a time. */
#define MAX_MLP_ROWS 16896
#define MIN_MLP_ROWS 128

/* A model, or its layers [first_layer, first_layer + L) if it is split over GPUs: the
 * first GPU embeds, the last one pools. */
struct device_shape {
    enum qe_compute_dtype dtype; /* of the operands of products */
    int L, C, I, NH, NKV, HS, V; /* C and I padded        */
    int first_layer;
    bool embeds, pools;
    int n_columns;                    /* of C, before padding  */
    int q_width, kv_width, qkv_width; /* NH HS, NKV HS and q_width + 2 kv_width */
    bool host_table;                  /* embed_tokens are in host memory */
    size_t equaliser_floats;          /* of a layer; 0 unless weights become int8 */
};

static inline struct device_shape
device_shape_of(const struct qe_config *c, enum qe_compute_dtype dtype, bool host_table)
{
    struct device_shape s = {};

    s.dtype = dtype;
    s.L = c->n_layers;
    s.C = (int)round_up(c->hidden_size, QE_PAD);
    s.I = (int)round_up(c->intermediate_size, QE_PAD);
    s.NH = c->n_heads;
    s.NKV = c->n_kv_heads;
    s.HS = c->head_dim;
    s.V = c->vocab_size;
    s.n_columns = c->hidden_size;
    s.q_width = s.NH * s.HS;
    s.kv_width = s.NKV * s.HS;
    s.qkv_width = s.q_width + 2 * s.kv_width;
    s.embeds = s.pools = true;
    s.host_table = host_table;
    s.equaliser_floats = dtype == QE_INT8_WEIGHTS ? qe_equaliser_floats(c) : 0;
    return s;
}

/* Some consecutive layers of a model. */
struct layer_range {
    int first, n;
};

/* The shape of those layers of a whole model's shape. */
static inline struct device_shape
shape_of_layers(struct device_shape s, struct layer_range layers)
{
    const int n_model = s.L;

    s.first_layer = layers.first;
    s.L = layers.n;
    s.embeds = layers.first == 0;
    s.pools = layers.first + layers.n == n_model;
    s.host_table = s.host_table && s.embeds;
    return s;
}

/* Whether the model has layers on other GPUs. */
static inline bool
is_stage(const struct device_shape *s)
{
    return !s->embeds || !s->pools;
}

/* Bytes of a weight of a matrix. */
static inline size_t
weight_bytes(enum qe_compute_dtype dtype)
{
    return dtype == QE_BFLOAT16 ? BF16_BYTES : 1;
}

/* Whether each row of a matrix of weights has a scale. */
static inline bool
has_scales(enum qe_compute_dtype dtype)
{
    return dtype != QE_BFLOAT16;
}

/* Returns the offset of n_bytes after those that are used already. */
static inline size_t
take_bytes(size_t *used, size_t n_bytes)
{
    const size_t offset = *used;

    *used += round_up(n_bytes, ALIGN_BYTES);
    return offset;
}

/* ---- weights ---- */

struct matrix_place {
    size_t values, scales; /* the latter only if has_scales() */
};

/* Offsets from a layer's first byte. */
struct layer_places {
    struct matrix_place qkv_proj, o_proj, gate_up_proj, down_proj;
    size_t input_layernorm, post_attention_layernorm, q_norm, k_norm;
    size_t n_bytes; /* to the next layer's first */
};

/* Offsets from the first byte of weights. */
struct weight_places {
    size_t embed_tokens; /* unless they are in host memory */
    size_t norm, inv_freq, equalisers;
    size_t layers; /* the first one's first byte */
    struct layer_places layer;
    size_t n_bytes;    /* of device memory */
    size_t host_bytes; /* of host memory   */
};

static inline struct matrix_place
place_matrix(enum qe_compute_dtype dtype, size_t n, size_t k, size_t *used)
{
    struct matrix_place place = {};

    place.values = take_bytes(used, n * k * weight_bytes(dtype));
    if (has_scales(dtype)) {
        place.scales = take_bytes(used, n * sizeof(float));
    }
    return place;
}

static inline struct layer_places
place_layer(const struct device_shape *s)
{
    const size_t C = s->C, I = s->I;
    struct layer_places p;
    size_t used = 0;

    p.qkv_proj = place_matrix(s->dtype, s->qkv_width, C, &used);
    p.o_proj = place_matrix(s->dtype, C, s->q_width, &used);
    p.gate_up_proj = place_matrix(s->dtype, 2 * I, C, &used);
    p.down_proj = place_matrix(s->dtype, C, I, &used);
    p.input_layernorm = take_bytes(&used, C * sizeof(float));
    p.post_attention_layernorm = take_bytes(&used, C * sizeof(float));
    p.q_norm = take_bytes(&used, s->HS * sizeof(float));
    p.k_norm = take_bytes(&used, s->HS * sizeof(float));
    p.n_bytes = used;
    return p;
}

static inline struct weight_places
place_weights(const struct device_shape *s)
{
    const size_t table_bytes = s->embeds ? (size_t)s->V * s->C * BF16_BYTES : 0;
    struct weight_places p = {};
    size_t used = 0;

    if (s->host_table) {
        p.host_bytes = table_bytes;
    } else {
        p.embed_tokens = take_bytes(&used, table_bytes);
    }
    p.norm = take_bytes(&used, s->C * sizeof(float));
    p.inv_freq = take_bytes(&used, s->HS / 2 * sizeof(float));
    p.equalisers = take_bytes(&used, s->L * s->equaliser_floats * sizeof(float));
    p.layers = used;
    p.layer = place_layer(s);
    p.n_bytes = used + s->L * p.layer.n_bytes;
    return p;
}

/* ---- buffers of a pass ---- */

/* Offsets of the buffers of struct workspace. */
struct workspace_places {
    int max_rows, mlp_rows, second_rows;
    size_t h, second_h, x, x_scales, qkv, gate_up, cos_sin;
    size_t n_bytes;
};

static inline struct workspace_places
place_workspace(const struct device_shape *s, int batch_tokens, int max_length)
{
    const bool float8 = s->dtype == QE_FLOAT8;
    const size_t C = s->C, widest = C > (size_t)s->q_width ? C : s->q_width;
    const int wanted = (int)round_up(batch_tokens, MIN_MLP_ROWS);
    struct workspace_places p = {};

    p.max_rows = batch_tokens > max_length ? batch_tokens : max_length;
    p.mlp_rows = smaller(smaller(wanted, MAX_MLP_ROWS), p.max_rows);
    const size_t T = p.max_rows, M = p.mlp_rows;
    p.h = take_bytes(&p.n_bytes, T * C * sizeof(float));
    if (is_stage(s)) { /* another batch arrives or leaves meanwhile */
        p.second_rows = smaller(wanted, p.max_rows);
        p.second_h = take_bytes(&p.n_bytes, p.second_rows * C * sizeof(float));
    }
    p.x = take_bytes(&p.n_bytes, float8 ? T * widest : T * C * BF16_BYTES);
    if (float8) {
        p.x_scales = take_bytes(&p.n_bytes, T * sizeof(float));
    }
    p.qkv =
        take_bytes(&p.n_bytes, (T + 1) * s->qkv_width * BF16_BYTES); /* a spare row */
    p.gate_up = take_bytes(&p.n_bytes, M * 2 * s->I * BF16_BYTES);
    p.cos_sin = take_bytes(&p.n_bytes, (size_t)max_length * s->HS * sizeof(float));
    return p;
}

/* The shapes of a layer's products on these buffers. */
static inline void
layer_products(const struct device_shape *s, struct linear_shape linears[N_LINEARS])
{
    const size_t C = s->C, I = s->I, qkv = s->qkv_width;

    linears[LINEAR_QKV] = {s->dtype, s->qkv_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_KV] = {s->dtype, 2 * s->kv_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_Q] = {s->dtype, s->q_width, s->C, C, qkv, PRODUCT_STORE};
    linears[LINEAR_O] = {s->dtype, s->C, s->q_width, qkv, C, PRODUCT_ADD};
    linears[LINEAR_GATE_UP] = {s->dtype, 2 * s->I, s->C, C, 2 * I, PRODUCT_SWIGLU};
    linears[LINEAR_DOWN] = {s->dtype, s->C, s->I, 2 * I, C, PRODUCT_ADD};
    if (s->dtype == QE_FLOAT8) { /* between products, rows are rounded */
        linears[LINEAR_O].ldx = s->q_width;
        linears[LINEAR_GATE_UP].output = PRODUCT_STORE;
        linears[LINEAR_DOWN].ldx = 4 * I;
    }
}

/* ---- in all ---- */

/* What an engine takes; its layout, of layout_bytes, counts as activations. A stage has
 * two. Not filled: free and total. */
static inline struct qe_cuda_memory
plan_memory(const struct device_shape *s, int batch_tokens, int max_length,
            size_t layout_bytes, size_t spare_bytes)
{
    const struct weight_places weights = place_weights(s);
    struct linear_shape linears[N_LINEARS];
    struct qe_cuda_memory memory = {};

    layer_products(s, linears);
    memory.weights = weights.n_bytes;
    memory.host = weights.host_bytes;
    memory.activations = place_workspace(s, batch_tokens, max_length).n_bytes +
                         gemm_device_bytes(linears) +
                         (is_stage(s) ? 2 : 1) * layout_bytes;
    memory.spare = spare_bytes;
    memory.n_layers = s->L;
    memory.batch_tokens = batch_tokens;
    return memory;
}

static inline size_t
device_bytes(const struct qe_cuda_memory *memory)
{
    return memory->weights + memory->activations + memory->spare;
}

#endif
