/* peak.cu: measures the fastest of several bf16 products of 8192^3 and of several
 * copies. Data is random, because zeros draw less power and run faster. */
#include "peak.h"

#include <cublasLt.h>

#include "cuda_error.h"
#include "ops/kernels.h"

#define EDGE 8192
#define MATRIX_ELEMENTS ((size_t)EDGE * EDGE)
#define MEMORY_BYTES ((size_t)1 << 30)
#define WORKSPACE_BYTES ((size_t)64 << 20)
#define N_RUNS 10
#define THREADS 256

struct peak_run {
    bf16 *memory;    /* (MEMORY_BYTES) device, owned */
    void *workspace; /* (WORKSPACE_BYTES) device, owned */
    cublasLtHandle_t handle;
    cudaStream_t stream;
    cudaEvent_t start, stop;
};

/* Values in [-1, 1). */
static __global__ void
random_kernel(bf16 *x, size_t n)
{
    size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;

    if (i < n) {
        uint32_t hash = (uint32_t)i * 2654435761u;
        hash = (hash ^ (hash >> 15)) * 2246822519u;
        x[i] = __float2bfloat16((int32_t)(hash ^ (hash >> 13)) * 0x1p-31f);
    }
}

static cublasStatus_t
multiply(const struct peak_run *run)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const float one = 1.0f, zero = 0.0f;
    bf16 *a = run->memory, *b = a + MATRIX_ELEMENTS, *c = b + MATRIX_ELEMENTS;
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t layout;
    cublasStatus_t status =
        cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutInit(&layout, CUDA_R_16BF, EDGE, EDGE, EDGE);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmul(run->handle, &product, &one, a, &layout, b, &layout,
                                &zero, c, &layout, c, &layout, NULL, run->workspace,
                                WORKSPACE_BYTES, run->stream);
    }
    return status;
}

static cudaError_t
copy(const struct peak_run *run)
{
    return cudaMemcpyAsync(run->memory + MEMORY_BYTES / 2 / sizeof(bf16), run->memory,
                           MEMORY_BYTES / 2, cudaMemcpyDeviceToDevice, run->stream);
}

/* The time of the fastest among N_RUNS products or copies. */
static int
best_ms(const struct peak_run *run, bool is_copy, float *best, struct qe_error *err)
{
    *best = 1e9f;
    for (int i = 0; i < N_RUNS; i++) {
        float ms;
        CUDA_TRY(err, cudaEventRecord(run->start, run->stream));
        if (is_copy) {
            CUDA_TRY(err, copy(run));
        } else if (cublasStatus_t status = multiply(run);
                   status != CUBLAS_STATUS_SUCCESS) {
            return qe_fail(err, QE_EDEVICE, "peak: %s",
                           cublasLtGetStatusString(status));
        }
        CUDA_TRY(err, cudaEventRecord(run->stop, run->stream));
        CUDA_TRY(err, cudaEventSynchronize(run->stop));
        CUDA_TRY(err, cudaEventElapsedTime(&ms, run->start, run->stop));
        *best = ms < *best ? ms : *best;
    }
    return 0;
}

static int
run_all(struct peak_run *run, struct qe_peak *peak, struct qe_error *err)
{
    const size_t n = MEMORY_BYTES / sizeof(bf16);
    float product_ms, copy_ms;

    CUDA_TRY(err, cudaStreamCreateWithFlags(&run->stream, cudaStreamNonBlocking));
    CUDA_TRY(err, cudaEventCreate(&run->start));
    CUDA_TRY(err, cudaEventCreate(&run->stop));
    CUDA_TRY(err, cudaMalloc(&run->memory, MEMORY_BYTES));
    CUDA_TRY(err, cudaMalloc(&run->workspace, WORKSPACE_BYTES));
    random_kernel<<<(unsigned)(n / THREADS), THREADS, 0, run->stream>>>(run->memory, n);
    CUDA_TRY(err, cudaGetLastError());
    if (cublasLtCreate(&run->handle) != CUBLAS_STATUS_SUCCESS) {
        return qe_fail(err, QE_EDEVICE, "peak: cuBLASLt did not open");
    }
    int status = best_ms(run, false, &product_ms, err);
    if (status == 0) {
        status = best_ms(run, true, &copy_ms, err);
    }
    if (status == 0) {
        peak->flops = 2e3 * EDGE * MATRIX_ELEMENTS / product_ms;
        peak->bytes_per_s = 1e3 * MEMORY_BYTES / copy_ms;
    }
    return status;
}

int
peak_measure(int device, struct qe_peak *peak, struct qe_error *err)
{
    struct peak_run run = {};
    int before = device;

    CUDA_TRY(err, cudaGetDevice(&before));
    CUDA_TRY(err, cudaSetDevice(device));
    int status = run_all(&run, peak, err);
    if (run.handle != NULL) {
        cublasLtDestroy(run.handle);
    }
    cudaFree(run.workspace);
    cudaFree(run.memory);
    if (run.stop != NULL) {
        cudaEventDestroy(run.stop);
    }
    if (run.start != NULL) {
        cudaEventDestroy(run.start);
    }
    if (run.stream != NULL) {
        cudaStreamDestroy(run.stream);
    }
    cudaSetDevice(before);
    return status;
}
