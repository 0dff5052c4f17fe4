/* fault_runs.h: every call to the system fails once, in turn; the error must be clean.
 *
 * The calls of a scenario are counted once; then each of them fails, one per run. Clean
 * means: the status that fits what failed, with a message that ends, and nothing left
 * behind (built with the address sanitizer, each run is searched for leaks). A failure
 * of a mere hint may leave no trace at all. */
#ifndef FAULT_RUNS_H
#define FAULT_RUNS_H

#include "model_args.h"

struct inputs {
    struct qe_config config;
    const char *const *paths; /* (n_paths) */
    int n_paths;
};

/* Returns 0 or the status of what failed. */
typedef int scenario(const struct inputs *inputs, struct qe_error *err);

/* From the command line: sizes of the config, as in model_args.h, and files. */
struct inputs read_inputs(int argc, char **argv);

/* Exits 1, and says why, if some fault is not met cleanly. */
void run_scenario(const char *name, scenario *run, const struct inputs *inputs);

/* Exits 1, and says what is broken. */
void require(int holds, const char *what);

#endif
