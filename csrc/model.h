/* model.h: the shape of a Qwen3 text model and its weights.
 *
 * qe_model_open() checks the name, dtype, shape and place of every tensor; no code
 * after it checks a shape again. bf16 matrices are used where they lie in the mapped
 * files; vectors become aligned fp32; F16 and F32 matrices are rounded once to bf16
 * into memory that the model owns. The matrices of the layers may be int8 with a scale
 * per row, all of them; those too are used where they lie. */
#ifndef QE_MODEL_H
#define QE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "safetensors.h"

struct qe_config {
    int hidden_size;       /* C */
    int intermediate_size; /* I */
    int n_layers;          /* L */
    int n_heads;           /* NH, a multiple of n_kv_heads */
    int n_kv_heads;        /* NKV */
    int head_dim;          /* HS, a multiple of 32, at most 256 */
    int vocab_size;        /* V, rows of embed_tokens */
    int max_length;        /* longest sequence, in tokens */
    float rms_norm_eps;
    float rope_scale;           /* multiplies cos and sin; 1 without YaRN */
    const float *rope_inv_freq; /* (HS/2) borrowed by qe_model_open, then copied */
};

/* In place of a matrix's scales: they are in its blocks, Q8_0 of GGUF. */
extern const float qe_in_blocks[1];

/* One scale per row of a layer's matrices in int8; NULL: the matrix is bf16. */
struct qe_row_scales {
    const float *q_proj, *k_proj, *v_proj, *o_proj, *gate_proj, *up_proj, *down_proj;
};

struct qe_layer {
    const float *input_layernorm;          /* (C) */
    const float *post_attention_layernorm; /* (C) */
    const float *q_norm;                   /* (HS) */
    const float *k_norm;                   /* (HS) */
    const void *q_proj;                    /* (NH * HS, C)  bf16, any alignment */
    const void *k_proj;                    /* (NKV * HS, C) bf16, any alignment */
    const void *v_proj;                    /* (NKV * HS, C) bf16, any alignment */
    const void *o_proj;                    /* (C, NH * HS)  bf16, any alignment */
    const void *gate_proj;                 /* (I, C)        bf16, any alignment */
    const void *up_proj;                   /* (I, C)        bf16, any alignment */
    const void *down_proj;                 /* (C, I)        bf16, any alignment */
    struct qe_row_scales scales;           /* ... of those matrices that are int8 */
};

/* The weights of a forward pass. */
struct qe_weights {
    const void
        *embed_tokens; /* (V, C) bf16, or Q8_0 if embed_in_blocks; any alignment */
    bool embed_in_blocks;
    const float *norm;       /* (C) */
    struct qe_layer *layers; /* (L) */
};

struct qe_prefetch;

struct qe_model {
    struct qe_config config;      /* rope_inv_freq points into owned memory */
    struct qe_weights weights;    /* layers is owned */
    struct qe_safetensors *files; /* (n_files) owned */
    int n_files;
    bool is_int8;                 /* the layers' matrices are, in the files: with a
                                     scale per row, or per block of Q8_0 */
    bool has_blocks;              /* ... the latter */
    float *vectors;               /* owned storage of all fp32 vectors */
    unsigned char *rounded;       /* owned storage of matrices rounded to bf16 */
    struct qe_prefetch *prefetch; /* owned; maps pages ahead of the first pass */
    size_t mapped_bytes;          /* file bytes mapped */
    size_t owned_bytes;           /* vectors and rounded matrices */
};

/* Binds the weights in the files at paths (n_paths). Names may carry the prefix
 * "model."; lm_head.weight or score.weight may be present. On failure *model is
 * left zeroed. */
int qe_model_open(const struct qe_config *config, const char *const *paths, int n_paths,
                  struct qe_model *model, struct qe_error *err);

/* The same of one GGUF file, whose header Python has read. */
int qe_model_open_places(const struct qe_config *config, const char *path,
                         const struct qe_place *places, int n_places,
                         struct qe_model *model, struct qe_error *err);

/* Starts a thread that maps the pages of the layers in the order of a forward pass, for
 * an engine that reads weights in place. At most once. */
void qe_model_prefetch(struct qe_model *model);

/* Releases the weights, for an engine whose device has copies. The shape stays; the
 * pointers of the table become NULL. */
void qe_model_unload(struct qe_model *model);

/* Accepts a zeroed or half-opened model. */
void qe_model_close(struct qe_model *model);

#endif
