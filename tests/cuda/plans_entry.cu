/* plans_entry.cu: cuda/products/gemm.h as a test calls it through ctypes. */
#include <stdio.h>

#include "products/plans.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

/* A product of every layer's kind, all of the same shape, over weights in bf16 or int8.
 * Its canonical plan is cuBLASLt's if library is not 0: as on a device where it has no
 * algorithm with the bits of the chain. NULL on failure. */
EXPORT struct gemm *
open_products(int n, int k, int output, int library, int int8)
{
    struct linear_shape shapes[N_LINEARS];
    struct stream stream = {};
    struct gemm *gemm;
    struct qe_error err;

    for (struct linear_shape &shape : shapes) {
        shape = {int8 ? QE_INT8_WEIGHTS : QE_BFLOAT16,    n, k, (size_t)k, (size_t)n,
                 static_cast<enum product_output>(output)};
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

/* Rounds w (n, k) to values (n, k) and scales (n), and expands these to y (n, k).
 * columns (k), rows (n): as of struct equalising. */
EXPORT int
round_and_expand(void *y, void *values, float *scales, const void *w,
                 const float *columns, const float *rows, int n, int k)
{
    const struct operand rounded = {values, scales};
    cudaError_t status = launch_quantize_int8(rounded, static_cast<const bf16 *>(w),
                                              {columns, rows, k}, n, k, {});

    return status == cudaSuccess
               ? launch_expand_int8(static_cast<bf16 *>(y), rounded, n, k, {})
               : status;
}

/* Runs gemm_stream_int8.cu, whichever plan is the fastest. */
EXPORT int
run_stream(const struct gemm *gemm, int m, void *y, void *x, void *w, float *scales)
{
    const struct linear_shape *s = &gemm->shapes[LINEAR_QKV];

    return launch_gemm_stream_int8(y, static_cast<const bf16 *>(x), {w, scales}, m,
                                   s->n, s->k, s->ldx, s->ldy, s->output, {});
}

/* trial_x (max_rows, k) and trial_y (max_rows, n) are overwritten. scales: NULL unless
 * w is in int8. */
EXPORT int
prepare(struct gemm *gemm, int m, void *trial_x, void *trial_y, void *w, float *scales,
        int max_rows)
{
    struct linear_trial trial = {};
    struct qe_error err = {};

    trial.x = {trial_x, NULL};
    trial.y = trial_y;
    trial.weights = {w, scales};
    trial.n_layers = 1;
    trial.max_rows = max_rows;
    int status = gemm_prepare(gemm, LINEAR_QKV, m, &trial, {}, &err);
    if (status < 0) {
        fprintf(stderr, "%s\n", err.message);
    }
    return status;
}

EXPORT int
run(struct gemm *gemm, int m, void *y, void *x, void *w, float *scales)
{
    return gemm_run(gemm, LINEAR_QKV, y, {x, NULL}, {w, scales}, m, {});
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
