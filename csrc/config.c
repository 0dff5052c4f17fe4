/* config.c: bounds of every number in a config. */
#include "config.h"

#include <math.h>

#define MAX_SIZE (1 << 20) /* of any one size in a config */
#define MAX_LAYERS 1024
#define MAX_HEAD_DIM 256
#define HEAD_DIM_STEP 32 /* attention and RoPE work on blocks of this */

int
qe_config_check(const struct qe_config *config, struct qe_error *err)
{
    const struct {
        const char *name;
        int value, max;
    } sizes[] = {
        {"hidden_size", config->hidden_size, MAX_SIZE},
        {"intermediate_size", config->intermediate_size, MAX_SIZE},
        {"num_hidden_layers", config->n_layers, MAX_LAYERS},
        {"num_attention_heads", config->n_heads, MAX_SIZE},
        {"num_key_value_heads", config->n_kv_heads, MAX_SIZE},
        {"head_dim", config->head_dim, MAX_HEAD_DIM},
        {"vocab_size", config->vocab_size, MAX_SIZE},
        {"max_length", config->max_length, MAX_SIZE},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max) {
            return qe_fail(err, QE_EFORMAT, "config: %s is %d, expected 1 to %d",
                           sizes[i].name, sizes[i].value, sizes[i].max);
        }
    }
    if (config->head_dim % HEAD_DIM_STEP != 0) {
        return qe_fail(err, QE_EFORMAT,
                       "config: head_dim is %d, expected a multiple of %d up to %d",
                       config->head_dim, HEAD_DIM_STEP, MAX_HEAD_DIM);
    }
    if (config->n_heads % config->n_kv_heads != 0) {
        return qe_fail(err, QE_EFORMAT,
                       "config: num_attention_heads is %d, expected a multiple of "
                       "num_key_value_heads, %d",
                       config->n_heads, config->n_kv_heads);
    }
    if (config->n_heads * config->head_dim > MAX_SIZE) {
        return qe_fail(
            err, QE_EFORMAT,
            "config: num_attention_heads * head_dim is %d, expected at most %d",
            config->n_heads * config->head_dim, MAX_SIZE);
    }
    /* Written so that NaN fails too. */
    if (!(config->rms_norm_eps > 0 && config->rms_norm_eps < 1)) {
        return qe_fail(err, QE_EFORMAT,
                       "config: rms_norm_eps is %g, expected more than 0, less than 1",
                       (double)config->rms_norm_eps);
    }
    if (!(config->rope_scale > 0 && config->rope_scale < INFINITY)) {
        return qe_fail(err, QE_EFORMAT,
                       "config: RoPE's scale is %g, expected finite and more than 0",
                       (double)config->rope_scale);
    }
    for (int i = 0; i < config->head_dim / 2; i++) {
        float frequency = config->rope_inv_freq[i];
        if (!(frequency >= 0 && frequency < INFINITY)) {
            return qe_fail(err, QE_EFORMAT,
                           "config: RoPE's frequency %d is %g, expected finite and not "
                           "negative; check rope_theta and the rope type's factors",
                           i, (double)frequency);
        }
    }
    return 0;
}

double
qe_config_token_flop(const struct qe_config *c)
{
    double width = (double)c->head_dim * (c->n_heads + c->n_kv_heads);

    return 4.0 * c->n_layers * c->hidden_size * (width + 1.5 * c->intermediate_size);
}
