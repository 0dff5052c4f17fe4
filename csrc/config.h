/* config.h: a model's shape: checked before anything is read by it. */
#ifndef QE_CONFIG_H
#define QE_CONFIG_H

#include "model.h"

/* QE_EFORMAT: a size or a number that no model of ours can have. */
int qe_config_check(const struct qe_config *config, struct qe_error *err);

/* FLOP of a token's matrix products. */
double qe_config_token_flop(const struct qe_config *config);

#endif
