/* gemm_trial.cu: measures the plans for a product and keeps the fastest one that gives
 * the canonical bits.
 *
 * Every plan is compared with the canonical plan at the bucket's largest row count and
 * at one that is no multiple of a tile, in the first and the last rows, where tiles are
 * cut. The plan that is kept has been compared in all rows. */
#include <cuda_fp8.h>
#include <math.h>

#include "arithmetic.h"
#include "common.cuh"
#include "cuda_error.h"
#include "products/plans.h"

#define TRIAL_MS 10.0f /* of launches per plan: enough to draw full power */
#define MAX_LAUNCHES 24
/* Time that a kernel saves in a pass by copying weights before its predecessor ends. It
 * saves none in a trial, where the predecessor is the same kernel and keeps the memory
 * busy. */
#define OVERLAP_MS 0.002f
#define THREADS 256

#define MAX_CANDIDATES (MAX_ALGOS + 2 + N_GEMM_ROWS_VARIANTS)

/* A plan that is right in the rows where tiles are cut, and the time of one launch. */
struct timed_plan {
    struct plan plan;
    float ms;
};

struct plan_list {
    struct timed_plan plans[MAX_CANDIDATES];
    int n;
};

/* One product at one row count. */
struct candidate {
    struct gemm *gemm;
    enum qe_linear linear;
    const struct linear_trial *trial;
    int m;
    struct stream stream;
    struct plan canonical;
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

/* Roughly unit normal: the sum of four uniform numbers from a hash of the index. */
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

static struct candidate
candidate_of(struct gemm *gemm, enum qe_linear linear, const struct linear_trial *trial,
             int m, struct stream stream)
{
    return {gemm, linear, trial, m, stream, canonical_plan(gemm, linear)};
}

static unsigned char *
y_row(const struct candidate *c, int row)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];

    return static_cast<unsigned char *>(c->trial->y) + row * s->ldy * output_bytes(s);
}

template <typename T>
static cudaError_t
launch_fill(T *x, size_t n, struct stream stream)
{
    fill_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, stream.handle>>>(
        x, n);
    return cudaGetLastError();
}

static cudaError_t
launch_fill_rows(const struct linear_trial *trial, size_t ldx, struct stream stream)
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

/* Resets rows of y: to 0 where the product is added to them, so that every bit of the
 * sum is seen, else to NaN. */
static cudaError_t
launch_reset(const struct candidate *c, void *y, int n_rows)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    const size_t width = s->n * output_bytes(s), pitch = s->ldy * output_bytes(s);

    return cudaMemset2DAsync(y, pitch, s->output == PRODUCT_ADD ? 0 : 0xff, width,
                             n_rows, c->stream.handle);
}

/* canonical (n_rows, ldy) <- rows [first, first + n_rows) of the product. */
static cudaError_t
launch_canonical(const struct candidate *c, unsigned char *canonical, int first,
                 int n_rows)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    cudaError_t status = launch_reset(c, canonical, n_rows);

    if (status != cudaSuccess) {
        return status;
    }
    return run_plan(c->gemm, c->linear, &c->canonical, canonical,
                    rows_from(c->trial->x, first, s->ldx), c->trial->weights, n_rows,
                    c->stream);
}

static cudaError_t
launch_compare(const struct candidate *c, const unsigned char *canonical, int first,
               int n_rows)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    const unsigned char *y = y_row(c, first);

    if (s->output == PRODUCT_ADD) {
        compare_kernel<<<n_rows, THREADS, 0, c->stream.handle>>>(
            c->gemm->differs, reinterpret_cast<const float *>(y),
            reinterpret_cast<const float *>(canonical), s->n, s->ldy);
    } else {
        compare_kernel<<<n_rows, THREADS, 0, c->stream.handle>>>(
            c->gemm->differs, reinterpret_cast<const bf16 *>(y),
            reinterpret_cast<const bf16 *>(canonical),
            s->output == PRODUCT_SWIGLU ? s->n / 2 : s->n, s->ldy);
    }
    return cudaGetLastError();
}

/* Sets *equal if the plan runs and gives the canonical bits in the first and the last
 * rows. Set on success. */
static int
check_plan(const struct candidate *c, const struct plan *plan, bool *equal,
           struct qe_error *err)
{
    const struct linear_shape *s = &c->gemm->shapes[c->linear];
    unsigned char *first = static_cast<unsigned char *>(c->gemm->canonical);
    unsigned char *last = first + CHECKED_ROWS * s->ldy * output_bytes(s);
    const int n = smaller(c->m, CHECKED_ROWS);
    const int last_row = (c->m - n + 3) / 4 * 4; /* its scale 16-byte aligned */

    CUDA_TRY(err, launch_reset(c, c->trial->y, n));
    CUDA_TRY(err, launch_reset(c, y_row(c, last_row), c->m - last_row));
    cudaError_t launched = launch_canonical(c, first, 0, n);
    if (launched == cudaSuccess) {
        launched = launch_canonical(c, last, last_row, c->m - last_row);
    }
    if (launched == cudaSuccess) {
        launched = launch_plan(c, plan, 0);
    }
    if (launched == cudaErrorNotSupported) {
        *equal = false;
        return 0;
    }
    CUDA_TRY(err, launched);
    *c->gemm->differs = 0; /* nothing under way writes it */
    CUDA_TRY(err, launch_compare(c, first, 0, n));
    CUDA_TRY(err, launch_compare(c, last, last_row, c->m - last_row));
    CUDA_TRY(err, cudaStreamSynchronize(c->stream.handle));
    *equal = *c->gemm->differs == 0;
    return 0;
}

/* The same for all rows of a plan that runs. */
static int
check_all_rows(const struct candidate *c, const struct plan *plan, bool *equal,
               struct qe_error *err)
{
    unsigned char *canonical = static_cast<unsigned char *>(c->gemm->canonical);

    CUDA_TRY(err, launch_reset(c, c->trial->y, c->m));
    CUDA_TRY(err, launch_plan(c, plan, 0));
    *c->gemm->differs = 0; /* nothing under way writes it */
    for (int row = 0; row < c->m; row += CHECKED_ROWS) {
        const int n_rows = smaller(CHECKED_ROWS, c->m - row);
        CUDA_TRY(err, launch_canonical(c, canonical, row, n_rows));
        CUDA_TRY(err, launch_compare(c, canonical, row, n_rows));
    }
    CUDA_TRY(err, cudaStreamSynchronize(c->stream.handle));
    *equal = *c->gemm->differs == 0;
    return 0;
}

/* Sets *ms to the time of one launch with weights that are in no cache. */
static int
time_plan(const struct candidate *c, const struct plan *plan, float *ms,
          struct qe_error *err)
{
    int n_launches = 1;

    *ms = 0.0f;
    for (int round = 0; round < 3; round++) { /* the first warms up, the second sizes */
        CUDA_TRY(err, cudaEventRecord(c->gemm->start, c->stream.handle));
        for (int i = 0; i < n_launches; i++) {
            CUDA_TRY(err, launch_plan(c, plan, i + 1));
        }
        CUDA_TRY(err, cudaEventRecord(c->gemm->stop, c->stream.handle));
        CUDA_TRY(err, cudaEventSynchronize(c->gemm->stop));
        CUDA_TRY(err, cudaEventElapsedTime(ms, c->gemm->start, c->gemm->stop));
        *ms /= n_launches;
        n_launches = *ms > 0.0f ? (int)(TRIAL_MS / *ms) + 2 : MAX_LAUNCHES;
        n_launches = smaller(n_launches, MAX_LAUNCHES);
    }
    return 0;
}

/* Times the plan and adds it to the list if it is right at both row counts. */
static int
try_plan(struct candidate c, const struct plan *plan, struct plan_list *list,
         struct qe_error *err)
{
    const bool canonical = plan->kind == PLAN_ROWS && c.gemm->chain;
    const int most = c.m, ragged = most - most / 5;
    bool equal = true;
    float ms;

    for (int i = 0; i < 2 && equal && !canonical; i++) {
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
    if (status == 0) {
        list->plans[list->n++] = {*plan,
                                  plan->kind == PLAN_STREAM ? ms - OVERLAP_MS : ms};
    }
    return status;
}

static bool
fits_workspace(const cublasLtMatmulHeuristicResult_t *found)
{
    return found->state == CUBLAS_STATUS_SUCCESS &&
           found->workspaceSize <= WORKSPACE_BYTES;
}

static int
try_cublas_plans(const struct candidate &c, struct plan_list *list,
                 struct qe_error *err)
{
    cublasLtMatmulHeuristicResult_t found[MAX_ALGOS];
    const int n_found = find_algos(c.gemm, c.linear, c.m, found);
    int status = 0;

    for (int i = 0; i < n_found && status == 0; i++) {
        const struct plan plan = {PLAN_CUBLAS, 0, found[i].algo};
        if (fits_workspace(&found[i])) {
            status = try_plan(c, &plan, list, err);
        }
    }
    if (status == 0 && c.canonical.kind == PLAN_CUBLAS) {
        status = try_plan(c, &c.canonical, list, err);
    }
    return status;
}

/* Those of gemm_stream.cu, gemm_stream_int8.cu and gemm_rows.cu. */
static int
try_own_plans(const struct candidate &c, struct plan_list *list, struct qe_error *err)
{
    int status = 0;

    if (stream_takes(&c.gemm->shapes[c.linear], c.m)) {
        struct plan plan = {PLAN_STREAM, 0, {}};
        status = try_plan(c, &plan, list, err);
    }
    for (int i = 0; i < N_GEMM_ROWS_VARIANTS && status == 0; i++) {
        struct plan plan = {PLAN_ROWS, i, {}};
        if (c.m <= CHECKED_ROWS && gemm_rows_block(i) <= (c.m < 16 ? 16 : c.m)) {
            status = try_plan(c, &plan, list, err);
        }
    }
    return status;
}

/* Removes the fastest plan from the list, which is not empty. */
static struct plan
take_fastest(struct plan_list *list)
{
    int fastest = 0;

    for (int i = 1; i < list->n; i++) {
        fastest = list->plans[i].ms < list->plans[fastest].ms ? i : fastest;
    }
    const struct plan plan = list->plans[fastest].plan;
    list->plans[fastest] = list->plans[--list->n];
    return plan;
}

int
plan_by_trial(struct gemm *gemm, enum qe_linear linear, int bucket,
              const struct linear_trial *trial, struct stream stream,
              struct qe_error *err)
{
    const struct linear_shape *s = &gemm->shapes[linear];
    const int m = smaller(bucket_rows(bucket), trial->max_rows);
    const struct candidate c = candidate_of(gemm, linear, trial, m, stream);
    struct plan best = {PLAN_CANONICAL, 0, {}};
    struct plan_list list = {};

    if (c.canonical.kind == PLAN_NONE) {
        return qe_fail(err, QE_EDEVICE,
                       "cuBLASLt %zu has no product of %d by %d in %s; use %s",
                       cublasLtGetVersion(), s->n, s->k,
                       s->dtype == QE_FLOAT8 ? "float8" : "bfloat16",
                       s->dtype == QE_FLOAT8 ? "dtype='bfloat16'" : "device='cpu'");
    }
    CUDA_TRY(err, launch_fill_rows(trial, s->ldx, stream));
    int status = try_cublas_plans(c, &list, err);
    if (s->dtype != QE_FLOAT8 && status == 0) {
        status = try_own_plans(c, &list, err);
    }
    for (bool equal = false; list.n > 0 && !equal && status == 0;) {
        const struct plan fastest = take_fastest(&list);
        status = check_all_rows(&c, &fastest, &equal, err);
        best = equal ? fastest : best;
    }
    if (status == 0) {
        gemm->plans[linear][bucket] = best;
    }
    return status;
}

/* ---- the canonical plan ---- */

/* Sets *equal if some algorithm of cuBLASLt gives the canonical bits. */
static int
find_equal(const struct candidate *c, bool *equal, struct qe_error *err)
{
    cublasLtMatmulHeuristicResult_t found[MAX_ALGOS];
    const int n_found = find_algos(c->gemm, c->linear, c->m, found);
    int status = 0;

    *equal = false;
    for (int i = 0; i < n_found && !*equal && status == 0; i++) {
        const struct plan plan = {PLAN_CUBLAS, 0, found[i].algo};
        if (fits_workspace(&found[i])) {
            status = check_plan(c, &plan, equal, err);
        }
    }
    return status;
}

/* Sets *equal if that is so for few rows and for many. */
static int
find_equal_for_all(struct candidate c, bool *equal, struct qe_error *err)
{
    int status = 0;

    *equal = c.canonical.kind != PLAN_NONE;
    for (int m : {1, 17, 300, PROBE_ROWS}) {
        c.m = m;
        if (status == 0 && *equal) {
            status = find_equal(&c, equal, err);
        }
    }
    return status;
}

/* memory: of the probe's operands, (3, PROBE_ROWS, PROBE_WIDTH). */
static int
try_canonical(struct gemm *gemm, bf16 *memory, struct stream stream,
              struct qe_error *err)
{
    const size_t n = (size_t)PROBE_ROWS * PROBE_WIDTH;
    const struct linear_trial trial = {
        {memory, NULL}, memory + n, {memory + 2 * n, NULL}, 0, 1, PROBE_ROWS};
    struct candidate c = candidate_of(gemm, LINEAR_PROBE, &trial, PROBE_ROWS, stream);
    bool equal;

    CUDA_TRY(err, launch_fill(memory, 3 * n, stream));
    int status = find_equal(&c, &equal, err);
    if (status == 0 && !equal) {
        gemm->chain = false;
        c.canonical = canonical_plan(gemm, LINEAR_PROBE);
        status = find_equal_for_all(c, &equal, err);
        gemm->chain = !equal; /* then only our kernels remain, though slow */
    }
    return status;
}

int
choose_canonical(struct gemm *gemm, struct stream stream, struct qe_error *err)
{
    const size_t n_bytes = 3 * (size_t)PROBE_ROWS * PROBE_WIDTH * sizeof(bf16);
    bf16 *memory;

    gemm->chain = gemm->shapes[LINEAR_PROBE].dtype == QE_BFLOAT16;
    if (!gemm->chain) {
        return 0;
    }
    CUDA_TRY(err, cudaMalloc(&memory, n_bytes));
    int status = try_canonical(gemm, memory, stream, err);
    cudaFree(memory);
    return status;
}
