/* gemm.cu: opens cuBLASLt, keeps the table of plans and runs them. */
#include "products/gemm.h"

#include <stdio.h>
#include <stdlib.h>

#include "arithmetic.h"
#include "cuda_error.h"
#include "products/plans.h"

int
bucket_of(int m)
{
    int bucket = 0;

    while (bucket < N_BUCKETS - 1 && m > 16 << bucket) {
        bucket++;
    }
    return bucket;
}

int
bucket_rows(int bucket)
{
    return bucket == N_BUCKETS - 1 ? MAX_TRIAL_ROWS : 16 << bucket;
}

/* One scale per row of X and of W, both 16-byte aligned. Pass real pointers, not NULL:
 * alignment affects which algorithms cuBLASLt offers. Fast accumulation is less precise
 * than fp32, but so are the inputs. */
static cublasStatus_t
describe_scales(struct cublas_problem *p, const float *x_scales, const float *w_scales)
{
    const cublasLtMatmulMatrixScale_t by_row =
        CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int8_t fast = 1;
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t n_bytes;
    } attributes[] = {
        {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &by_row, sizeof by_row},
        {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &by_row, sizeof by_row},
        {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w_scales, sizeof w_scales},
        {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x_scales, sizeof x_scales},
        {CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast},
    };
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    for (const auto &a : attributes) {
        if (status == CUBLAS_STATUS_SUCCESS) {
            status =
                cublasLtMatmulDescSetAttribute(&p->product, a.name, a.value, a.n_bytes);
        }
    }
    return status;
}

/* cuBLASLt is column-major: it computes Y^T (n, m) = W (n, k) X^T (k, m), where a
 * row-major matrix is the transpose of a column-major one. */
cublasStatus_t
cublas_problem_init(struct cublas_problem *p, const struct linear_shape *s, int m,
                    const float *x_scales, const float *w_scales)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t input = s->dtype == QE_FLOAT8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    const cudaDataType_t output = s->output == PRODUCT_ADD ? CUDA_R_32F : CUDA_R_16BF;
    cublasStatus_t status =
        cublasLtMatmulDescInit(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(
            &p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS && s->dtype == QE_FLOAT8) {
        status = describe_scales(p, x_scales, w_scales);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&p->w, input, s->k, s->n, s->k);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&p->x, input, s->k, m, s->ldx);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&p->y, output, s->n, m, s->ldy);
    }
    return status;
}

int
find_algos(struct gemm *gemm, enum qe_linear linear, int m,
           cublasLtMatmulHeuristicResult_t found[MAX_ALGOS])
{
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
    const uint64_t workspace_bytes = WORKSPACE_BYTES;
    const uint32_t alignment = 16; /* of every buffer and row, at least */
    const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    };
    const float *const scales = static_cast<float *>(gemm->workspace); /* any will do */
    cublasLtMatmulPreferenceOpaque_t preference;
    struct cublas_problem p;
    int n_found = 0;

    if (cublas_problem_init(&p, &gemm->shapes[linear], m, scales, scales) !=
            CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceInit(&preference) != CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    cublasLtMatmulPreferenceSetAttribute(&preference,
                                         CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace_bytes, sizeof workspace_bytes);
    cublasLtMatmulPreferenceSetAttribute(&preference,
                                         CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                         &reductions, sizeof reductions);
    for (cublasLtMatmulPreferenceAttributes_t attribute : alignments) {
        cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &alignment,
                                             sizeof alignment);
    }
    if (cublasLtMatmulAlgoGetHeuristic(gemm->handle, &p.product, &p.w, &p.x, &p.y, &p.y,
                                       &preference, MAX_ALGOS, found,
                                       &n_found) != CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    return n_found;
}

static cudaError_t
run_cublas(struct gemm *gemm, enum qe_linear linear, const cublasLtMatmulAlgo_t *algo,
           void *y, struct operand x, struct operand w, int m, struct stream stream)
{
    const struct linear_shape *shape = &gemm->shapes[linear];
    const float one = 1.0f, beta = shape->output == PRODUCT_ADD ? 1.0f : 0.0f;
    struct cublas_problem p;
    cublasStatus_t status = cublas_problem_init(&p, shape, m, x.scales, w.scales);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmul(gemm->handle, &p.product, &one, w.values, &p.w,
                                x.values, &p.x, &beta, y, &p.y, y, &p.y, algo,
                                gemm->workspace, WORKSPACE_BYTES, stream.handle);
    }
    return status == CUBLAS_STATUS_SUCCESS ? cudaGetLastError() : cudaErrorNotSupported;
}

cudaError_t
run_plan(struct gemm *gemm, enum qe_linear linear, const struct plan *plan, void *y,
         struct operand x, struct operand w, int m, struct stream stream)
{
    const struct linear_shape *s = &gemm->shapes[linear];
    const bool int8 = s->dtype == QE_INT8_WEIGHTS;
    const bf16 *const rows = static_cast<bf16 *>(x.values);
    cudaError_t status = cudaSuccess;

    if (plan->kind == PLAN_STREAM && int8) {
        return launch_gemm_stream_int8(y, rows, w, m, s->n, s->k, s->ldx, s->ldy,
                                       s->output, stream);
    }
    if (int8) {
        status = launch_expand_int8(gemm->expanded, w, s->n, s->k, stream);
        w = {gemm->expanded, NULL};
    }
    const bf16 *const weights = static_cast<bf16 *>(w.values);
    if (status != cudaSuccess) {
        return status;
    }
    if (plan->kind == PLAN_STREAM) {
        return launch_gemm_stream(y, rows, weights, m, s->n, s->k, s->ldx, s->ldy,
                                  s->output, stream);
    }
    if (plan->kind == PLAN_ROWS) {
        status = launch_gemm_rows(y, rows, weights, m, s->n, s->k, s->ldx, s->ldy,
                                  s->output == PRODUCT_ADD, plan->variant, stream);
    } else {
        status = run_cublas(gemm, linear, &plan->algo, y, x, w, m, stream);
    }
    if (status == cudaSuccess && s->output == PRODUCT_SWIGLU) {
        status = launch_swiglu(static_cast<bf16 *>(y), m, s->n / 2, stream);
    }
    return status;
}

struct plan
canonical_plan(struct gemm *gemm, enum qe_linear linear)
{
    cublasLtMatmulHeuristicResult_t found[MAX_ALGOS];

    if (gemm->chain) {
        return {PLAN_ROWS, N_GEMM_ROWS_VARIANTS - 1, {}};
    }
    if (find_algos(gemm, linear, CHECKED_ROWS, found) == 0) {
        return {PLAN_NONE, 0, {}};
    }
    return {PLAN_CUBLAS, 0, found[0].algo};
}

/* For messages. */
static const char *
linear_name(enum qe_linear linear)
{
    static const char *const names[] = {"qkv", "kv", "q", "o", "gate_up", "down"};

    return names[linear];
}

/* Runs the canonical plan. A cuBLASLt plan takes CHECKED_ROWS rows at a time. */
static cudaError_t
run_canonical(struct gemm *gemm, enum qe_linear linear, void *y, struct operand x,
              struct operand w, int m, struct stream stream)
{
    const struct linear_shape *s = &gemm->shapes[linear];
    const struct plan plan = canonical_plan(gemm, linear);
    const int n_at_once = plan.kind == PLAN_CUBLAS ? CHECKED_ROWS : m;
    const size_t row_bytes = s->ldy * output_bytes(s);
    cudaError_t status = cudaSuccess;

    for (int row = 0; row < m && status == cudaSuccess; row += n_at_once) {
        status = run_plan(
            gemm, linear, &plan, static_cast<unsigned char *>(y) + row * row_bytes,
            rows_from(x, row, s->ldx), w, smaller(n_at_once, m - row), stream);
    }
    return status;
}

cudaError_t
gemm_run(struct gemm *gemm, enum qe_linear linear, void *y, struct operand x,
         struct operand w, int m, struct stream stream)
{
    const struct plan *plan = &gemm->plans[linear][bucket_of(m)];

    if (plan->kind == PLAN_CANONICAL) {
        return run_canonical(gemm, linear, y, x, w, m, stream);
    }
    cudaError_t status = run_plan(gemm, linear, plan, y, x, w, m, stream);
    if (status == cudaErrorNotSupported) {
        status = run_canonical(gemm, linear, y, x, w, m, stream);
        if (status == cudaSuccess && gemm->note[0] == '\0') {
            snprintf(
                gemm->note, sizeof gemm->note,
                "cuBLASLt %zu refused %d rows of %s; a slower kernel computed them",
                cublasLtGetVersion(), m, linear_name(linear));
        }
    }
    return status;
}

/* The tiles of gemm_rows.cu are too small for many rows. */
static bool
is_slow(const struct plan *plan, int bucket)
{
    return plan->kind == PLAN_CANONICAL ||
           (plan->kind == PLAN_ROWS && bucket_rows(bucket) > CHECKED_ROWS);
}

int
gemm_prepare(struct gemm *gemm, enum qe_linear linear, int m,
             const struct linear_trial *trial, struct stream stream,
             struct qe_error *err)
{
    const int bucket = bucket_of(m);
    const struct plan *plan = &gemm->plans[linear][bucket];
    int status = 0;

    if (plan->kind == PLAN_NONE) {
        gemm->changed = true;
        status = plan_by_trial(gemm, linear, bucket, trial, stream, err);
    }
    if (status == 0 && gemm->note[0] == '\0' && is_slow(plan, bucket)) {
        snprintf(gemm->note, sizeof gemm->note,
                 "cuBLASLt %zu has no algorithm for %d rows of %s that keeps a text's "
                 "bits in every batch; a slower kernel computes them",
                 cublasLtGetVersion(), m, linear_name(linear));
    }
    return status;
}

void
gemm_save(struct gemm *gemm)
{
    if (gemm->changed) {
        plan_cache_save(gemm);
        gemm->changed = false;
    }
}

/* ---- open, close ---- */

static int
open_parts(struct gemm *gemm, const char *cache_folder, struct stream stream,
           struct qe_error *err)
{
    cublasStatus_t opened = cublasLtCreate(&gemm->handle);

    if (opened != CUBLAS_STATUS_SUCCESS) {
        return qe_fail(err, QE_EDEVICE, "cuBLASLt %zu did not open: %s",
                       cublasLtGetVersion(), cublasLtGetStatusString(opened));
    }
    CUDA_TRY(err, gemm_rows_init());
    CUDA_TRY(err, gemm_stream_init());
    CUDA_TRY(err, gemm_stream_int8_init());
    if (expanded_bytes(gemm->shapes) > 0) {
        CUDA_TRY(err, cudaMalloc(&gemm->expanded, expanded_bytes(gemm->shapes)));
    }
    CUDA_TRY(err, cudaMalloc(&gemm->workspace, WORKSPACE_BYTES));
    CUDA_TRY(err, cudaMalloc(&gemm->canonical, canonical_bytes(gemm->shapes)));
    CUDA_TRY(err,
             cudaHostAlloc(&gemm->differs, sizeof *gemm->differs, cudaHostAllocMapped));
    CUDA_TRY(err, cudaEventCreate(&gemm->start));
    CUDA_TRY(err, cudaEventCreate(&gemm->stop));
    int status = choose_canonical(gemm, stream, err);
    if (status == 0 && cache_folder != NULL) {
        plan_cache_load(gemm, cache_folder);
    }
    return status;
}

int
gemm_open(const struct linear_shape shapes[N_LINEARS], const char *cache_folder,
          struct stream stream, struct gemm **gemm, struct qe_error *err)
{
    struct gemm *g = static_cast<struct gemm *>(calloc(1, sizeof *g));

    *gemm = g;
    if (g == NULL) {
        return qe_fail(err, QE_ENOMEM, "plans: no memory");
    }
    for (int i = 0; i < N_LINEARS; i++) {
        g->shapes[i] = shapes[i];
    }
    const enum qe_compute_dtype probed =
        shapes[0].dtype == QE_FLOAT8 ? QE_FLOAT8 : QE_BFLOAT16;
    g->shapes[LINEAR_PROBE] = {probed,      PROBE_WIDTH, PROBE_WIDTH,
                               PROBE_WIDTH, PROBE_WIDTH, PRODUCT_STORE};
    return open_parts(g, cache_folder, stream, err);
}

const char *
gemm_note(const struct gemm *gemm)
{
    return gemm->note;
}

void
gemm_close(struct gemm *gemm)
{
    if (gemm == NULL) {
        return;
    }
    if (gemm->handle != NULL) {
        cublasLtDestroy(gemm->handle);
    }
    cudaFree(gemm->workspace);
    cudaFree(gemm->expanded);
    cudaFree(gemm->canonical);
    cudaFreeHost(gemm->differs);
    if (gemm->start != NULL) {
        cudaEventDestroy(gemm->start);
    }
    if (gemm->stop != NULL) {
        cudaEventDestroy(gemm->stop);
    }
    free(gemm->cache_path);
    free(gemm->cache_key);
    free(gemm);
}
