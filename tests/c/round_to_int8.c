/* round_to_int8.c: qe_int8_weights_open() from the command line, for a test that
 * compares its bits.
 *
 *     round_to_int8 hidden intermediate layers heads kv_heads head_dim vocab files...
 *
 * Writes, for each layer, the two norms' weights in fp32, then each matrix: scales
 * fp32, values int8. */
#include <stdio.h>

#include "../../csrc/cpu/int8_weights.h"
#include "model_args.h"

#define INT8_ZERO 128

/* Exits unless each group's offset is its sum times -INT8_ZERO. */
static int
write_matrix(const struct qe_matrix *matrix, int k)
{
    int n_groups = (k + QE_GROUP - 1) / QE_GROUP;

    fwrite(matrix->scales, sizeof(float), (size_t)matrix->n, stdout);
    fwrite(matrix->rows, 1, (size_t)matrix->n * k, stdout);
    for (int i = 0; i < matrix->n; i++) {
        for (int g = 0; g < n_groups; g++) {
            int sum = 0;
            for (int j = g * QE_GROUP; j < k && j < (g + 1) * QE_GROUP; j++) {
                sum += ((const int8_t *)matrix->rows)[(size_t)i * k + j];
            }
            if (matrix->offsets[i * n_groups + g] != -INT8_ZERO * sum) {
                return 1;
            }
        }
    }
    return 0;
}

int
main(int argc, char **argv)
{
    struct qe_model model;
    struct qe_int8_weights weights;
    struct qe_threads *threads;
    struct qe_error err;
    int failed = 0;

    if (argc < 2 + N_MODEL_ARGS) {
        fprintf(stderr, "usage: round_to_int8 7 sizes, files\n");
        return 2;
    }
    struct qe_config c = model_config(argv + 1);
    if (qe_model_open(&c, (const char *const *)argv + 1 + N_MODEL_ARGS,
                      argc - 1 - N_MODEL_ARGS, &model, &err) < 0 ||
        qe_threads_open(3, &threads, &err) < 0 ||
        qe_int8_weights_open(&model, INT8_ZERO, threads, &weights, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    for (int l = 0; l < c.n_layers; l++) {
        const struct qe_cpu_layer *layer = &weights.tables->layers[l];
        fwrite(layer->input_layernorm, sizeof(float), (size_t)c.hidden_size, stdout);
        fwrite(layer->post_attention_layernorm, sizeof(float), (size_t)c.hidden_size,
               stdout);
        for (int i = 0; i < 3; i++) {
            failed |= write_matrix(&layer->qkv[i], c.hidden_size);
        }
        failed |= write_matrix(&layer->o[0], c.n_heads * c.head_dim);
        for (int i = 0; i < 2; i++) {
            failed |= write_matrix(&layer->gate_up[i], c.hidden_size);
        }
        failed |= write_matrix(&layer->down[0], c.intermediate_size);
    }
    if (failed) {
        fprintf(stderr, "the offset of a group is not that of its sum\n");
    }
    qe_int8_weights_close(&weights);
    qe_threads_close(threads);
    qe_model_close(&model);
    return failed;
}
