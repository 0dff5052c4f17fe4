/* gemm.cu: opens cuBLASLt, keeps the table of plans and runs them. */
#include "gemm.h"

#include <stdlib.h>

#include "cuda_error.h"
#include "plans.h"

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

/* cuBLASLt is column-major: it computes Y^T (n, m) = W (n, k) X^T (k, m), where a
 * row-major matrix is the transpose of a column-major one. */
cublasStatus_t
cublas_problem_init(struct cublas_problem *p, const struct linear_shape *s, int m)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t status =
        cublasLtMatmulDescInit(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(
            &p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&p->w, CUDA_R_16BF, s->k, s->n, s->k);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&p->x, CUDA_R_16BF, s->k, m, s->ldx);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(
            &p->y, s->output == PRODUCT_ADD ? CUDA_R_32F : CUDA_R_16BF, s->n, m,
            s->ldy);
    }
    return status;
}

static cudaError_t
run_cublas(struct gemm *gemm, enum linear linear, const cublasLtMatmulAlgo_t *algo,
           void *y, const bf16 *x, const bf16 *w, int m, cudaStream_t stream)
{
    const struct linear_shape *shape = &gemm->shapes[linear];
    const float one = 1.0f, factor_of_y = shape->output == PRODUCT_ADD ? 1.0f : 0.0f;
    struct cublas_problem p;
    cublasStatus_t status = cublas_problem_init(&p, shape, m);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmul(gemm->handle, &p.product, &one, w, &p.w, x, &p.x,
                                &factor_of_y, y, &p.y, y, &p.y, algo, gemm->workspace,
                                WORKSPACE_BYTES, stream);
    }
    return status == CUBLAS_STATUS_SUCCESS ? cudaGetLastError() : cudaErrorNotSupported;
}

cudaError_t
run_plan(struct gemm *gemm, enum linear linear, const struct plan *plan, void *y,
         const bf16 *x, const bf16 *w, int m, cudaStream_t stream)
{
    const struct linear_shape *s = &gemm->shapes[linear];
    cudaError_t status;

    if (plan->kind == PLAN_STREAM) {
        return launch_gemm_stream(y, x, w, m, s->n, s->k, s->ldx, s->ldy, s->output,
                                  stream);
    }
    if (plan->kind == PLAN_SM90) {
        return launch_gemm_sm90(&gemm->sm90, static_cast<bf16 *>(y), x, w, m, s->n,
                                s->k, s->ldx, s->ldy, stream);
    }
    if (plan->kind == PLAN_ROWS) {
        status = launch_gemm_rows(y, x, w, m, s->n, s->k, s->ldx, s->ldy,
                                  s->output == PRODUCT_ADD, plan->variant, stream);
    } else {
        status = run_cublas(gemm, linear, &plan->algo, y, x, w, m, stream);
    }
    if (status == cudaSuccess && s->output == PRODUCT_SWIGLU) {
        status = launch_swiglu(static_cast<bf16 *>(y), m, s->n / 2, stream);
    }
    return status;
}

cudaError_t
gemm_run(struct gemm *gemm, enum linear linear, void *y, const bf16 *x, const bf16 *w,
         int m, cudaStream_t stream)
{
    /* For a row count that the plan was not measured with and does not take. The bits
     * are the same. */
    const struct plan canonical = {PLAN_ROWS, N_GEMM_ROWS_VARIANTS - 1, {}};
    cudaError_t status =
        run_plan(gemm, linear, &gemm->plans[linear][bucket_of(m)], y, x, w, m, stream);

    return status == cudaErrorNotSupported
               ? run_plan(gemm, linear, &canonical, y, x, w, m, stream)
               : status;
}

int
gemm_prepare(struct gemm *gemm, enum linear linear, int m,
             const struct linear_trial *trial, cudaStream_t stream,
             struct qe_error *err)
{
    if (gemm->plans[linear][bucket_of(m)].kind != PLAN_NONE) {
        return 0;
    }
    gemm->changed = true;
    return plan_by_trial(gemm, linear, bucket_of(m), trial, stream, err);
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

static size_t
canonical_bytes(const struct linear_shape shapes[N_LINEARS])
{
    size_t n_bytes = 0;

    for (int i = 0; i < N_LINEARS; i++) {
        size_t row = (size_t)shapes[i].n *
                     (shapes[i].output == PRODUCT_ADD ? sizeof(float) : sizeof(bf16));
        n_bytes = row > n_bytes ? row : n_bytes;
    }
    return n_bytes * 2 * CHECKED_ROWS;
}

size_t
gemm_device_bytes(const struct linear_shape shapes[N_LINEARS])
{
    return WORKSPACE_BYTES + canonical_bytes(shapes);
}

static int
open_parts(struct gemm *gemm, const char *cache_folder, struct qe_error *err)
{
    cublasStatus_t status = cublasLtCreate(&gemm->handle);

    if (status != CUBLAS_STATUS_SUCCESS) {
        return qe_fail(err, QE_EDEVICE, "cuBLASLt %zu did not open: %s",
                       cublasLtGetVersion(), cublasLtGetStatusString(status));
    }
    CUDA_TRY(err, gemm_rows_init());
    CUDA_TRY(err, gemm_stream_init());
    CUDA_TRY(err, gemm_sm90_open(&gemm->sm90));
    CUDA_TRY(err, cudaMalloc(&gemm->workspace, WORKSPACE_BYTES));
    CUDA_TRY(err, cudaMalloc(&gemm->canonical, canonical_bytes(gemm->shapes)));
    CUDA_TRY(err,
             cudaHostAlloc(&gemm->differs, sizeof *gemm->differs, cudaHostAllocMapped));
    CUDA_TRY(err, cudaEventCreate(&gemm->start));
    CUDA_TRY(err, cudaEventCreate(&gemm->stop));
    if (cache_folder != NULL) {
        plan_cache_load(gemm, cache_folder);
    }
    return 0;
}

int
gemm_open(const struct linear_shape shapes[N_LINEARS], const char *cache_folder,
          struct gemm **gemm, struct qe_error *err)
{
    struct gemm *g = static_cast<struct gemm *>(calloc(1, sizeof *g));

    *gemm = g;
    if (g == NULL) {
        return qe_fail(err, QE_ENOMEM, "plans: no memory");
    }
    for (int i = 0; i < N_LINEARS; i++) {
        g->shapes[i] = shapes[i];
    }
    return open_parts(g, cache_folder, err);
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
