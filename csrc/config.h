/* config.h: checks the shape of a model before anything is read by it. */
#ifndef QE_CONFIG_H
#define QE_CONFIG_H

#include "model.h"

/* QE_EFORMAT: a size or a number that no model of ours can have. */
int qe_config_check(const struct qe_config *config, struct qe_error *err);

#endif
