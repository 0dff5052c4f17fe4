/* model_args.c: what the arguments leave out is fixed: the tests look at sizes. */
#include "model_args.h"

#include <stdlib.h>

struct qe_config
model_config(char **args)
{
    static const float frequencies[128] = {1.0f, 0.5f, 0.25f}; /* and then 0 */

    return (struct qe_config){
        .hidden_size = atoi(args[0]),
        .intermediate_size = atoi(args[1]),
        .n_layers = atoi(args[2]),
        .n_heads = atoi(args[3]),
        .n_kv_heads = atoi(args[4]),
        .head_dim = atoi(args[5]),
        .vocab_size = atoi(args[6]),
        .max_length = 64,
        .rms_norm_eps = 1e-6f,
        .rope_scale = 1.0f,
        .rope_inv_freq = frequencies,
    };
}
