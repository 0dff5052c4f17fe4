/* model_args.h: a model's config from the command line of a test program. */
#ifndef MODEL_ARGS_H
#define MODEL_ARGS_H

#include "model.h"

/* hidden intermediate layers heads kv_heads head_dim vocab */
#define N_MODEL_ARGS 7

struct qe_config model_config(char **args);

#endif
