/* gemm_trial.cu: measures the ways to compute a product and keeps the fastest that
 * gives the canonical bits.
 *
 * The bits are compared at the bucket's largest row count and at a ragged one, in the
 * first and the last rows, where tiles are cut. */
#include <cuda_fp8.h>
#include <math.h>

#include "arithmetic.h"
#include "common.cuh"
#include "cuda_error.h"
#include "products/plans.h"

#define TRIAL_MS 10.0f /* of launches of one plan: enough to draw power */
#define MAX_LAUNCHES 24
/* What a kernel that copies its weights before its predecessor ends saves in a pass,
 * and not here, where the predecessor is itself and keeps the memory busy. */
#define OVERLAP_MS 0.002f
#define THREADS 256

/* One product of one size on trial. */
struct candidate {
    struct gemm *gemm;
    enum qe_linear linear;
    const struct linear_trial *trial;
    int m;
    cudaStream_t stream;
};

/* ---- kernels ---- */

/* Sets *differs if y is not canonical in its first n_columns. NaN equals NaN. */
template <typename T>
static __global__ void
compare_kernel(int *differs, const T *y, const T *canonical, int n_columns, size_t ldy)
{
    const T *row = y + blockIdx.x * ldy, *expected = canonical + blockIdx.x * ldy;
    int different = 0;

    for (int i = threadIdx.x; i < n_columns; i += THREADS) {
        float a = static_cast<float>(row[i]), b = static_cast<float>(expected[i]);
        different |=
            __float_as_uint(a) != __float_as_uint(b) && !(isnan(a) && isnan(b));
    }
    if (different) {
        *differs = 1;
    }
}

/* About unit normal: the sum of four uniform numbers from a hash of the index. */
template <typename T>
static __global__ void
fill_kernel(T *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    uint64_t z = i * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    float sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
    if (i < n) {
        x[i] = static_cast<T>((sum / 65536.0f - 2.0f) * 1.7320508f);
    }
}

/* ---- steps ---- */

static size_t
element_bytes(const struct linear_shape *shape)
{
    return shape->output == PRODUCT_ADD ? sizeof(float) : sizeof(bf16);
}

template <typename T>
static cudaError_t
launch_fill(T *x, size_t n, cudaStream_t stream)
{
    fill_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, stream>>>(x, n);
    return cudaGetLastError();
}

static cudaError_t
launch_fill_rows(const struct linear_trial *trial, size_t ldx, cudaStream_t stream)
{
    const size_t n = trial->max_rows * ldx;

    if (trial->x.scales == NULL) {
        return launch_fill(static_cast<bf16 *>(trial->x.values), n, stream);
    }
    cudaError_t status =
        launch_fill(static_cast<__nv_fp8_e4m3 *>(trial->x.values), n, stream);
    return status == cudaSuccess ? launch_fill(trial->x.scales, trial->max_rows, stream)
                                 : status;
}

static cudaError_t
launch_plan(const struct candidate *c, const struct plan *plan, int launch)
{
    const struct linear_trial *t = c->trial;

    return run_plan(c->gemm, c->linear, plan, t->y, t->x,
                    moved(t->weights, launch % t->n_layers * t->layer_bytes), c->m,
                    c->stream);
}

/* canonical (n_rows, ldy) <- rows [first, first + n_rows) of the product, and the same
 * rows of y begin anew: from 0 where they are added to, so that every bit of the sum
 * shows, else NaN. */
static cudaError_t
launch_canonical(const struct candidate *c, unsigned char *canonical, int first,
                 int n_rows)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    const size_t width = s->n * element_bytes(s), pitch = s->ldy * element_bytes(s);
    const int byte = s->output == PRODUCT_ADD ? 0 : 0xff;
    const struct plan plan = canonical_plan(c->gemm, c->linear);
    cudaError_t status =
        cudaMemset2DAsync(static_cast<unsigned char *>(c->trial->y) + first * pitch,
                          pitch, byte, width, n_rows, c->stream);

    if (status == cudaSuccess) {
        status = cudaMemsetAsync(canonical, byte, pitch * n_rows, c->stream);
    }
    if (status != cudaSuccess) {
        return status;
    }
    return run_plan(c->gemm, c->linear, &plan, canonical,
                    rows_from(c->trial->x, first, s->ldx), c->trial->weights, n_rows,
                    c->stream);
}

static cudaError_t
launch_compare(const struct candidate *c, const unsigned char *canonical, int first,
               int n_rows)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    const unsigned char *y =
        static_cast<unsigned char *>(c->trial->y) + first * s->ldy * element_bytes(s);

    if (s->output == PRODUCT_ADD) {
        compare_kernel<<<n_rows, THREADS, 0, c->stream>>>(
            c->gemm->differs, reinterpret_cast<const float *>(y),
            reinterpret_cast<const float *>(canonical), s->n, s->ldy);
    } else {
        compare_kernel<<<n_rows, THREADS, 0, c->stream>>>(
            c->gemm->differs, reinterpret_cast<const bf16 *>(y),
            reinterpret_cast<const bf16 *>(canonical),
            s->output == PRODUCT_SWIGLU ? s->n / 2 : s->n, s->ldy);
    }
    return cudaGetLastError();
}

/* Whether the plan runs and gives the canonical bits. *equal is set on success. */
static int
check_plan(const struct candidate *c, const struct plan *plan, bool *equal,
           struct qe_error *err)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    unsigned char *first = static_cast<unsigned char *>(c->gemm->canonical);
    unsigned char *last = first + CHECKED_ROWS * s->ldy * element_bytes(s);
    const int n = smaller(c->m, CHECKED_ROWS);
    const int last_row = (c->m - n + 3) / 4 * 4; /* its factor at 16 bytes */

    CUDA_TRY(err, launch_canonical(c, first, 0, n));
    CUDA_TRY(err, launch_canonical(c, last, last_row, c->m - last_row));
    cudaError_t launched = launch_plan(c, plan, 0);
    if (launched == cudaErrorNotSupported) {
        *equal = false;
        return 0;
    }
    CUDA_TRY(err, launched);
    *c->gemm->differs = 0; /* nothing under way writes it */
    CUDA_TRY(err, launch_compare(c, first, 0, n));
    CUDA_TRY(err, launch_compare(c, last, last_row, c->m - last_row));
    CUDA_TRY(err, cudaStreamSynchronize(c->stream));
    *equal = *c->gemm->differs == 0;
    return 0;
}

/* *ms of one launch, weights out of the caches. */
static int
time_plan(const struct candidate *c, const struct plan *plan, float *ms,
          struct qe_error *err)
{
    int n_launches = 1;

    *ms = 0.0f;
    for (int round = 0; round < 3; round++) { /* the first warms up, the second sizes */
        CUDA_TRY(err, cudaEventRecord(c->gemm->start, c->stream));
        for (int i = 0; i < n_launches; i++) {
            CUDA_TRY(err, launch_plan(c, plan, i + 1));
        }
        CUDA_TRY(err, cudaEventRecord(c->gemm->stop, c->stream));
        CUDA_TRY(err, cudaEventSynchronize(c->gemm->stop));
        CUDA_TRY(err, cudaEventElapsedTime(ms, c->gemm->start, c->gemm->stop));
        *ms /= n_launches;
        n_launches = *ms > 0.0f ? (int)(TRIAL_MS / *ms) + 2 : MAX_LAUNCHES;
        n_launches = smaller(n_launches, MAX_LAUNCHES);
    }
    return 0;
}

/* Takes the plan if it is faster than the best so far and right at both row counts. */
static int
try_plan(struct candidate c, const struct plan *plan, struct plan *best, float *best_ms,
         struct qe_error *err)
{
    const int most = c.m, ragged = most - most / 5;
    bool equal = true;
    float ms;

    for (int i = 0; i < 2 && equal && plan->kind != PLAN_ROWS; i++) {
        c.m = i == 0 ? most : ragged;
        int status = check_plan(&c, plan, &equal, err);
        if (status < 0) {
            return status;
        }
    }
    if (!equal) {
        return 0;
    }
    c.m = most;
    int status = time_plan(&c, plan, &ms, err);
    if (plan->kind == PLAN_STREAM) {
        ms -= OVERLAP_MS;
    }
    if (status == 0 && ms < *best_ms) {
        *best = *plan;
        *best_ms = ms;
    }
    return status;
}

/* Those of gemm_stream.cu and gemm_rows.cu, all of bf16. */
static int
try_own_plans(struct candidate c, struct plan *best, float *best_ms,
              struct qe_error *err)
{
    int status = 0;

    if (gemm_stream_takes(c.m, c.gemm->shapes[c.linear].k)) {
        struct plan plan = {PLAN_STREAM, 0, {}};
        status = try_plan(c, &plan, best, best_ms, err);
    }
    for (int i = 0; i < N_GEMM_ROWS_VARIANTS && status == 0; i++) {
        struct plan plan = {PLAN_ROWS, i, {}};
        if (c.m <= CHECKED_ROWS && gemm_rows_block(i) <= (c.m < 16 ? 16 : c.m)) {
            status = try_plan(c, &plan, best, best_ms, err);
        }
    }
    return status;
}

int
plan_by_trial(struct gemm *gemm, enum qe_linear linear, int bucket,
              const struct linear_trial *trial, cudaStream_t stream,
              struct qe_error *err)
{
    cublasLtMatmulHeuristicResult_t found[MAX_ALGOS];
    const struct linear_shape *s = &gemm->shapes[linear];
    const int m = smaller(bucket_rows(bucket), trial->max_rows);
    const struct candidate c = {gemm, linear, trial, m, stream};
    const struct plan canonical = canonical_plan(gemm, linear);
    struct plan best = {};
    float best_ms = INFINITY;
    int status = 0;

    if (canonical.kind == PLAN_NONE) {
        return qe_fail(err, QE_EDEVICE,
                       "dtype float8: cuBLASLt %zu has no product of %d by %d; use "
                       "'bfloat16'",
                       cublasLtGetVersion(), s->n, s->k);
    }
    CUDA_TRY(err, launch_fill_rows(trial, s->ldx, stream));
    int n_found = find_algos(gemm, linear, m, found);
    for (int i = 0; i < n_found && status == 0; i++) {
        const struct plan plan = {PLAN_CUBLAS, 0, found[i].algo};
        if (found[i].state == CUBLAS_STATUS_SUCCESS &&
            found[i].workspaceSize <= WORKSPACE_BYTES) {
            status = try_plan(c, &plan, &best, &best_ms, err);
        }
    }
    if (s->dtype == QE_BFLOAT16 && status == 0) {
        status = try_own_plans(c, &best, &best_ms, err);
    }
    if (status == 0) {
        gemm->plans[linear][bucket] = best.kind == PLAN_NONE ? canonical : best;
    }
    return status;
}
