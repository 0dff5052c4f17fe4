/* plans.h: the table of plans and its file; shared by gemm.cu, gemm_trial.cu and
 * plan_cache.cu. */
#ifndef QE_PLANS_H
#define QE_PLANS_H

#include <cublasLt.h>

#include "products/gemm.h"

enum plan_kind { PLAN_NONE, PLAN_ROWS, PLAN_CUBLAS, PLAN_STREAM };

struct plan {
    enum plan_kind kind;
    int variant;               /* of gemm_rows.cu, if PLAN_ROWS   */
    cublasLtMatmulAlgo_t algo; /* if PLAN_CUBLAS                  */
};

/* Row counts up to 16, 32, ... 8192, and all above. */
#define N_BUCKETS 11
/* The last bucket is measured at no more rows than this, 132 tiles of 128. */
#define MAX_TRIAL_ROWS 16896
/* The most rows at either end of a product that are compared with the canonical sum. */
#define CHECKED_ROWS 128
#define WORKSPACE_BYTES ((size_t)32 << 20)

struct gemm {
    struct linear_shape shapes[N_LINEARS];
    struct plan plans[N_LINEARS][N_BUCKETS];
    cublasLtHandle_t handle;
    void *workspace; /* (WORKSPACE_BYTES) device                          */
    void *canonical; /* (2 CHECKED_ROWS, largest n) device                */
    int *differs;    /* (1) mapped host memory                            */
    cudaEvent_t start, stop;
    char *cache_path; /* owned; NULL: none                                 */
    char *cache_key;  /* owned; device, driver and library in one line     */
    bool changed;     /* plans that the file does not hold                 */
};

int bucket_of(int m);

/* The largest row count of a bucket. */
int bucket_rows(int bucket);

/* A row count that cuBLASLt does not take is cudaErrorNotSupported. */
cudaError_t run_plan(struct gemm *gemm, enum qe_linear linear, const struct plan *plan,
                     void *y, struct operand x, struct operand w, int m,
                     cudaStream_t stream);

/* Layouts of W, X and Y as cuBLASLt sees them, transposed, and what to do with them. */
struct cublas_problem {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};
cublasStatus_t cublas_problem_init(struct cublas_problem *problem,
                                   const struct linear_shape *shape, int m,
                                   const float *x_scales, const float *w_scales);

/* The plan whose bits are the canonical ones: a chain of sums over k, in e4m3 that of
 * cuBLASLt's first algorithm for CHECKED_ROWS rows. PLAN_NONE: it has none. */
struct plan canonical_plan(struct gemm *gemm, enum qe_linear linear);

/* Algorithms that add up k in one piece, most promising first; returns how many. */
#define MAX_ALGOS 12
int find_algos(struct gemm *gemm, enum qe_linear linear, int m,
               cublasLtMatmulHeuristicResult_t found[MAX_ALGOS]);

/* Chooses a plan for a bucket by trial. */
int plan_by_trial(struct gemm *gemm, enum qe_linear linear, int bucket,
                  const struct linear_trial *trial, cudaStream_t stream,
                  struct qe_error *err);

/* Names the file and reads from it what fits the shapes. Damage is skipped. */
void plan_cache_load(struct gemm *gemm, const char *folder);
void plan_cache_save(struct gemm *gemm);

#endif
