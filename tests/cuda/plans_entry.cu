/* plans_entry.cu: cuda/products/gemm.h as a test calls it through ctypes. */
#include <stdio.h>

#include "products/plans.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

/* A product of every layer's kind, all of the same shape, whose canonical plan is
 * cuBLASLt's if library is not 0: as on a device where it has no algorithm with the
 * bits of the chain. NULL on failure. */
EXPORT struct gemm *
open_products(int n, int k, int output, int library)
{
    struct linear_shape shapes[N_LINEARS];
    struct stream stream = {};
    struct gemm *gemm;
    struct qe_error err;

    for (struct linear_shape &shape : shapes) {
        shape = {QE_BFLOAT16, n,         k,
                 (size_t)k,   (size_t)n, static_cast<enum product_output>(output)};
    }
    if (gemm_open(shapes, NULL, stream, &gemm, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return NULL;
    }
    if (library) {
        gemm->chain = false;
    }
    return gemm;
}

EXPORT int
is_chain(const struct gemm *gemm)
{
    return gemm->chain;
}

/* Forgets the plan for m rows, as if no fast one had the canonical bits. */
EXPORT void
forget_plan(struct gemm *gemm, int m)
{
    gemm->plans[LINEAR_QKV][bucket_of(m)] = {PLAN_CANONICAL, 0, {}};
}

/* trial_x (max_rows, k) and trial_y (max_rows, n) are overwritten. */
EXPORT int
prepare(struct gemm *gemm, int m, void *trial_x, void *trial_y, void *w, int max_rows)
{
    struct linear_trial trial = {};
    struct qe_error err = {};

    trial.x = {trial_x, NULL};
    trial.y = trial_y;
    trial.weights = {w, NULL};
    trial.n_layers = 1;
    trial.max_rows = max_rows;
    int status = gemm_prepare(gemm, LINEAR_QKV, m, &trial, {}, &err);
    if (status < 0) {
        fprintf(stderr, "%s\n", err.message);
    }
    return status;
}

EXPORT int
run(struct gemm *gemm, int m, void *y, void *x, void *w)
{
    return gemm_run(gemm, LINEAR_QKV, y, {x, NULL}, {w, NULL}, m, {});
}

EXPORT const char *
note(const struct gemm *gemm)
{
    return gemm_note(gemm);
}

EXPORT void
close_products(struct gemm *gemm)
{
    gemm_close(gemm);
}
