/* plans.h: the table of plans and its file, shared by gemm.cu, gemm_trial.cu and
 * plan_cache.cu.
 *
 * Every plan of a product gives the same bits, those of its canonical plan, whatever
 * the number of rows. On a device whose cuBLASLt has algorithms with the bits of
 * gemm_rows.cu, one chain of sums over k, that is the canonical plan, and all our own
 * kernels serve. On others, and in e4m3, it is cuBLASLt's first algorithm for
 * CHECKED_ROWS rows. */
#ifndef QE_PLANS_H
#define QE_PLANS_H

#include <cublasLt.h>

#include "products/gemm.h"

enum plan_kind {
    PLAN_NONE,
    PLAN_ROWS,
    PLAN_CUBLAS,
    PLAN_STREAM,
    PLAN_CANONICAL, /* no fast plan has the canonical bits */
};

struct plan {
    enum plan_kind kind;
    int variant;               /* of gemm_rows.cu, if PLAN_ROWS   */
    cublasLtMatmulAlgo_t algo; /* if PLAN_CUBLAS                  */
};

/* Row counts up to 16, 32, ... 8192, and all larger ones. */
#define N_BUCKETS 11
/* The last bucket is measured at this many rows at most: 132 tiles of 128. */
#define MAX_TRIAL_ROWS 16896

struct gemm {
    struct linear_shape shapes[N_LINEARS + 1]; /* the last: of the probe           */
    struct plan plans[N_LINEARS][N_BUCKETS];
    bool chain; /* the canonical plan is gemm_rows.cu's                           */
    cublasLtHandle_t handle;
    void *workspace; /* (WORKSPACE_BYTES) device                          */
    bf16 *expanded;  /* one matrix of int8 in bf16, device; NULL: there are none  */
    void *canonical; /* (2 CHECKED_ROWS, largest n) device                */
    int *differs;    /* (1) mapped host memory                            */
    cudaEvent_t start, stop;
    char *cache_path;         /* owned; NULL: none                                 */
    char *cache_key;          /* owned; device, driver and library in one line     */
    bool changed;             /* there are plans that the file does not hold       */
    char note[QE_NOTE_BYTES]; /* see struct qe_backend                             */
};

/* A product of every device, on which choose_canonical() tries cuBLASLt. */
#define LINEAR_PROBE static_cast<enum qe_linear>(N_LINEARS)

/* gemm_stream.cu reads weights once, gemm_stream_int8.cu once per launch, of which it
 * needs several for more rows: still fewer bytes than to expand the matrix first. */
#define MAX_STREAM_LAUNCHES 4

/* Whether a plan of one of them computes m rows of a product. */
static inline bool
stream_takes(const struct linear_shape *s, int m)
{
    const int n_launches = s->dtype == QE_INT8_WEIGHTS ? MAX_STREAM_LAUNCHES : 1;

    return s->dtype != QE_FLOAT8 && gemm_stream_takes(ceil_div(m, n_launches), s->k);
}

int bucket_of(int m);

/* The largest row count of a bucket. */
int bucket_rows(int bucket);

/* cudaErrorNotSupported: cuBLASLt refused. */
cudaError_t run_plan(struct gemm *gemm, enum qe_linear linear, const struct plan *plan,
                     void *y, struct operand x, struct operand w, int m,
                     struct stream stream);

/* Layouts of W, X and Y as cuBLASLt sees them, transposed, and what to do with them. */
struct cublas_problem {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};
cublasStatus_t cublas_problem_init(struct cublas_problem *problem,
                                   const struct linear_shape *shape, int m,
                                   const float *x_scales, const float *w_scales);

/* PLAN_NONE if it is cuBLASLt's and cuBLASLt has none. */
struct plan canonical_plan(struct gemm *gemm, enum qe_linear linear);

/* Sets gemm->chain for the current device. */
int choose_canonical(struct gemm *gemm, struct stream stream, struct qe_error *err);

/* Algorithms that do not split k, most promising first. Returns their number. */
#define MAX_ALGOS 12
int find_algos(struct gemm *gemm, enum qe_linear linear, int m,
               cublasLtMatmulHeuristicResult_t found[MAX_ALGOS]);

/* Measures the plans for a bucket and keeps the fastest with the canonical bits, or
 * PLAN_CANONICAL. */
int plan_by_trial(struct gemm *gemm, enum qe_linear linear, int bucket,
                  const struct linear_trial *trial, struct stream stream,
                  struct qe_error *err);

/* Names the file and reads the plans for these shapes. Damaged lines are skipped. */
void plan_cache_load(struct gemm *gemm, const char *folder);
void plan_cache_save(struct gemm *gemm);

#endif
