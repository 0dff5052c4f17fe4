/* weight_table.c: the table of tensors, and functions that read it. */
#include "weight_table.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
#define MEMBER(name) offsetof(struct qe_layer, name)
#define MATRIX(name) MEMBER(name), MEMBER(scales.name)
const struct qe_weight qe_layer_weights[QE_N_LAYER_WEIGHTS] = {
    {"input_layernorm.weight",           {QE_C},        MEMBER(input_layernorm), 0},
    {"self_attn.q_proj.weight",          {QE_Q, QE_C},  MATRIX(q_proj)},
    {"self_attn.k_proj.weight",          {QE_KV, QE_C}, MATRIX(k_proj)},
    {"self_attn.v_proj.weight",          {QE_KV, QE_C}, MATRIX(v_proj)},
    {"self_attn.q_norm.weight",          {QE_HS},       MEMBER(q_norm), 0},
    {"self_attn.k_norm.weight",          {QE_HS},       MEMBER(k_norm), 0},
    {"self_attn.o_proj.weight",          {QE_C, QE_Q},  MATRIX(o_proj)},
    {"post_attention_layernorm.weight", {QE_C}, MEMBER(post_attention_layernorm), 0},
    {"mlp.gate_proj.weight",             {QE_I, QE_C},  MATRIX(gate_proj)},
    {"mlp.up_proj.weight",               {QE_I, QE_C},  MATRIX(up_proj)},
    {"mlp.down_proj.weight",             {QE_C, QE_I},  MATRIX(down_proj)},
};

const struct qe_weight qe_layer_scales[QE_N_LAYER_MATRICES] = {
    {"self_attn.q_proj.weight_scale",    {QE_Q, QE_ONE},   MEMBER(scales.q_proj), 0},
    {"self_attn.k_proj.weight_scale",    {QE_KV, QE_ONE},  MEMBER(scales.k_proj), 0},
    {"self_attn.v_proj.weight_scale",    {QE_KV, QE_ONE},  MEMBER(scales.v_proj), 0},
    {"self_attn.o_proj.weight_scale",    {QE_C, QE_ONE},   MEMBER(scales.o_proj), 0},
    {"mlp.gate_proj.weight_scale",       {QE_I, QE_ONE},   MEMBER(scales.gate_proj), 0},
    {"mlp.up_proj.weight_scale",         {QE_I, QE_ONE},   MEMBER(scales.up_proj), 0},
    {"mlp.down_proj.weight_scale",       {QE_C, QE_ONE},   MEMBER(scales.down_proj), 0},
};
/* clang-format on */

const struct qe_weight qe_embed_tokens = {
    "embed_tokens.weight", {QE_V, QE_C}, offsetof(struct qe_weights, embed_tokens), 0};
const struct qe_weight qe_norm = {
    "norm.weight", {QE_C}, offsetof(struct qe_weights, norm), 0};
const struct qe_weight qe_heads[QE_N_HEADS] = {{"lm_head.weight", {QE_V, QE_C}, 0, 0},
                                               {"score.weight", {QE_ONE, QE_C}, 0, 0}};

void
qe_weight_sizes(const struct qe_config *config, uint64_t sizes[QE_N_SIZES])
{
    sizes[QE_NONE] = 0;
    sizes[QE_ONE] = 1;
    sizes[QE_C] = (uint64_t)config->hidden_size;
    sizes[QE_I] = (uint64_t)config->intermediate_size;
    sizes[QE_Q] = (uint64_t)(config->n_heads * config->head_dim);
    sizes[QE_KV] = (uint64_t)(config->n_kv_heads * config->head_dim);
    sizes[QE_HS] = (uint64_t)config->head_dim;
    sizes[QE_V] = (uint64_t)config->vocab_size;
}

bool
qe_weight_is_vector(const struct qe_weight *weight)
{
    return weight->shape[1] == QE_NONE;
}

bool
qe_weight_is_scale(const struct qe_weight *weight)
{
    return weight >= qe_layer_scales && weight < qe_layer_scales + QE_N_LAYER_MATRICES;
}

static bool
is_in_layer(const struct qe_weight *weight)
{
    return (weight >= qe_layer_weights &&
            weight < qe_layer_weights + QE_N_LAYER_WEIGHTS) ||
           qe_weight_is_scale(weight);
}

bool
qe_weight_is_head(const struct qe_weight *weight)
{
    return weight >= qe_heads && weight < qe_heads + QE_N_HEADS;
}

void
qe_weight_name(const struct qe_weight *weight, int layer, const char *prefix,
               char name[QE_WEIGHT_NAME_BYTES])
{
    if (is_in_layer(weight)) {
        snprintf(name, QE_WEIGHT_NAME_BYTES, "%slayers.%d.%s", prefix, layer,
                 weight->name);
    } else {
        int length = (int)strlen(prefix);
        if (qe_weight_is_head(weight) && length >= 6 &&
            strcmp(prefix + length - 6, "model.") == 0) {
            length -= 6;
        }
        snprintf(name, QE_WEIGHT_NAME_BYTES, "%.*s%s", length, prefix, weight->name);
    }
}

/* The last part of a path. */
static const char *
file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* Whether text[0:length] is a row of the words that training wraps put before names. */
static bool
is_prefix(const char *text, size_t length)
{
    static const char *const words[] = {"model.", "module.", "_orig_mod.",
                                        "base_model."};

    while (length > 0) {
        size_t i = 0, n_words = sizeof words / sizeof words[0];
        while (i < n_words && (strlen(words[i]) > length ||
                               strncmp(text, words[i], strlen(words[i])) != 0)) {
            i++;
        }
        if (i == n_words) {
            return false;
        }
        text += strlen(words[i]);
        length -= strlen(words[i]);
    }
    return true;
}

int
qe_weight_prefix(const struct qe_safetensors *files, int n_files,
                 char prefix[QE_PREFIX_BYTES], struct qe_error *err)
{
    static const char anchor[] = "layers.0.input_layernorm.weight";

    prefix[0] = '\0';
    for (int i = 0; i < n_files; i++) {
        for (int j = 0; j < files[i].n_tensors; j++) {
            const char *name = files[i].tensors[j].name;
            size_t length = strlen(name);
            if (strncmp(name, "model.", 6) == 0 && prefix[0] == '\0') {
                memcpy(prefix, "model.", sizeof "model.");
            }
            if (length < sizeof anchor - 1 ||
                strcmp(name + length - (sizeof anchor - 1), anchor) != 0) {
                continue;
            }
            length -= sizeof anchor - 1;
            if (length >= QE_PREFIX_BYTES || !is_prefix(name, length)) {
                return qe_fail(err, QE_EFORMAT,
                               "%.120s: the prefix of the name is unknown (in %.120s), "
                               "expected none, \"model.\", or \"module.\", "
                               "\"_orig_mod.\" and \"base_model.\" before it; save the "
                               "text model alone",
                               name, file_name(files[i].path));
            }
            memcpy(prefix, name, length);
            prefix[length] = '\0';
            return 0;
        }
    }
    return 0;
}
