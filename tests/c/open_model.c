/* open_model.c: qe_model_open() from the command line, for pytest.
 *
 *     open_model hidden intermediate layers heads kv_heads head_dim vocab files...
 *
 * Prints the status and the message of a failure, or "ok", the bytes mapped and owned,
 * and, from the next line on, every weight as it is kept: fp32 vectors, bf16 matrices,
 * in the order of the structs in model.h. */
#include <stdio.h>

#include "model_args.h"

static void
write_layer(const struct qe_config *config, const struct qe_layer *layer)
{
    size_t c = (size_t)config->hidden_size, i = (size_t)config->intermediate_size;
    size_t hs = (size_t)config->head_dim, q = (size_t)config->n_heads * hs;
    size_t kv = (size_t)config->n_kv_heads * hs;

    fwrite(layer->input_layernorm, sizeof(float), c, stdout);
    fwrite(layer->post_attention_layernorm, sizeof(float), c, stdout);
    fwrite(layer->q_norm, sizeof(float), hs, stdout);
    fwrite(layer->k_norm, sizeof(float), hs, stdout);
    fwrite(layer->q_proj, sizeof(uint16_t), q * c, stdout);
    fwrite(layer->k_proj, sizeof(uint16_t), kv * c, stdout);
    fwrite(layer->v_proj, sizeof(uint16_t), kv * c, stdout);
    fwrite(layer->o_proj, sizeof(uint16_t), c * q, stdout);
    fwrite(layer->gate_proj, sizeof(uint16_t), i * c, stdout);
    fwrite(layer->up_proj, sizeof(uint16_t), i * c, stdout);
    fwrite(layer->down_proj, sizeof(uint16_t), c * i, stdout);
}

int
main(int argc, char **argv)
{
    struct qe_model model;
    struct qe_error err;

    if (argc < 2 + N_MODEL_ARGS) {
        fprintf(stderr, "usage: open_model 7 sizes, files\n");
        return 2;
    }
    struct qe_config config = model_config(argv + 1);
    const char *const *paths = (const char *const *)argv + 1 + N_MODEL_ARGS;
    int n_paths = argc - 1 - N_MODEL_ARGS;
    if (qe_model_open(&config, paths, n_paths, &model, &err) < 0) {
        printf("%d %s\n", err.status, err.message);
        return 1;
    }
    printf("ok %zu %zu\n", model.mapped_bytes, model.owned_bytes);
    fwrite(model.weights.embed_tokens, sizeof(uint16_t),
           (size_t)config.vocab_size * (size_t)config.hidden_size, stdout);
    fwrite(model.weights.norm, sizeof(float), (size_t)config.hidden_size, stdout);
    for (int i = 0; i < config.n_layers; i++) {
        write_layer(&model.config, &model.weights.layers[i]);
    }
    qe_model_close(&model);
    return 0;
}
