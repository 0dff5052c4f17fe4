/* gpu_gemm.cu: what cuBLASLt offers for each product of a layer, how fast, and whether
 * it gives the canonical bits, beside our own kernels.
 *
 *     nvcc -std=c++20 -Icsrc -Icuda benchmarks/gpu_gemm.cu cuda/{gemm,gemm_rows,
 *         gemm_stream,gemm_sm90,swiglu,plan_cache,cuda_error}.cu csrc/error.c
 *         -lcublasLt
 *     gpu_gemm HIDDEN INTERMEDIATE LAYERS HEADS KV_HEADS HEAD_DIM [MAX_ROWS] */
#include <stdio.h>
#include <stdlib.h>

#include "../cuda/gemm_trial.cu"

struct line {
    const char *name;
    enum linear linear;
    struct linear_shape shape;
    size_t weight_elements;
};

static void *
device_buffer(size_t n_bytes)
{
    void *p;
    if (cudaMalloc(&p, n_bytes) != cudaSuccess) {
        fprintf(stderr, "no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    fill_kernel<<<(unsigned)((n_bytes / 2 + THREADS - 1) / THREADS), THREADS>>>(
        static_cast<bf16 *>(p), n_bytes / 2);
    return p;
}

/* One product at one row count: every plan's time and whether its bits are right. */
static void
measure(const struct candidate *c, const struct line *line)
{
    cublasLtMatmulHeuristicResult_t found[MAX_ALGOS];
    struct qe_error err;
    int n_found = find_algos(c->gemm, c->linear, c->m, found), n_equal = 0;
    float best = INFINITY, best_equal = INFINITY, best_rows = INFINITY, ms;
    int best_variant = -1;

    for (int i = 0; i < n_found; i++) {
        struct plan plan = {PLAN_CUBLAS, 0, found[i].algo};
        bool equal;
        if (check_plan(c, &plan, &equal, &err) < 0 ||
            time_plan(c, &plan, &ms, &err) < 0) {
            continue;
        }
        n_equal += equal;
        best = fminf(best, ms);
        best_equal = equal ? fminf(best_equal, ms) : best_equal;
    }
    for (int i = 0; i < N_GEMM_ROWS_VARIANTS && c->m <= 512; i++) {
        struct plan plan = {PLAN_ROWS, i, {}};
        if (gemm_rows_block(i) > (c->m < 16 ? 16 : c->m) ||
            time_plan(c, &plan, &ms, &err) < 0) {
            continue;
        }
        best_variant = ms < best_rows ? i : best_variant;
        best_rows = fminf(best_rows, ms);
    }
    struct plan stream = {PLAN_STREAM, 0, {}};
    float stream_ms = INFINITY;
    bool stream_equal = false;
    if (c->m <= GEMM_STREAM_MAX_ROWS &&
        (check_plan(c, &stream, &stream_equal, &err) < 0 ||
         time_plan(c, &stream, &stream_ms, &err) < 0)) {
        fprintf(stderr, "%s\n", err.message);
    }
    struct plan sm90 = {PLAN_SM90, 0, {}};
    float sm90_ms = INFINITY;
    bool sm90_equal = false;
    if (line->shape.output == PRODUCT_SWIGLU && c->m >= GEMM_SM90_MIN_ROWS &&
        (check_plan(c, &sm90, &sm90_equal, &err) < 0 ||
         time_plan(c, &sm90, &sm90_ms, &err) < 0)) {
        fprintf(stderr, "%s\n", err.message);
    }
    const char *const outputs[] = {"bf16=", "fp32+=", "swiglu"};
    double flop = 2.0 * c->m * line->shape.n * line->shape.k;
    printf("%s,%d,%d,%d,%s,%d,%d,%.2f,%.2f,%.2f,%d,%.2f,%d,%.0f,%.2f,%.2f,%d\n",
           line->name, line->shape.n, line->shape.k, c->m, outputs[line->shape.output],
           n_found, n_equal, best * 1e3, best_equal * 1e3, best_rows * 1e3,
           best_variant, stream_ms * 1e3, stream_equal,
           flop / fminf(fminf(best_equal, best_rows), stream_ms) * 1e-9,
           2.0 * line->shape.n * line->shape.k / stream_ms * 1e-9, sm90_ms * 1e3,
           sm90_equal);
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    if (argc != 7 && argc != 8) {
        fprintf(stderr, "six or seven numbers\n");
        return 2;
    }
    const int C = atoi(argv[1]), I = atoi(argv[2]), L = atoi(argv[3]);
    const int q = atoi(argv[4]) * atoi(argv[6]), kv = atoi(argv[5]) * atoi(argv[6]);
    const size_t qkv = q + 2 * kv, max_rows = MAX_TRIAL_ROWS;
    const int rows[] = {16, 32, 64, 128, 256, 512, 2112, 4224, 8448, 16896};
    const int most = argc == 8 ? atoi(argv[7]) : (int)max_rows;
    const struct line lines[] = {
        {"qkv", LINEAR_QKV, {(int)qkv, C, (size_t)C, qkv, PRODUCT_STORE}, qkv * C},
        {"o", LINEAR_O, {C, q, qkv, (size_t)C, PRODUCT_ADD}, (size_t)q * C},
        {"gate_up",
         LINEAR_GATE_UP,
         {2 * I, C, (size_t)C, 2 * (size_t)I, PRODUCT_SWIGLU},
         2 * (size_t)I * C},
        {"down",
         LINEAR_DOWN,
         {C, I, 2 * (size_t)I, (size_t)C, PRODUCT_ADD},
         (size_t)I * C},
    };
    struct linear_shape shapes[N_LINEARS] = {};
    struct gemm *gemm;
    struct qe_error err;

    for (const struct line &line : lines) {
        shapes[line.linear] = line.shape;
    }
    if (gemm_open(shapes, NULL, &gemm, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    size_t widest = 2 * (size_t)I > qkv ? 2 * (size_t)I : qkv;
    bf16 *x = static_cast<bf16 *>(device_buffer(max_rows * widest * sizeof(bf16)));
    void *y = device_buffer(max_rows * widest * sizeof(float));
    bf16 *w = static_cast<bf16 *>(device_buffer(L * 2 * (size_t)I * C * sizeof(bf16)));
    printf("op,N,K,M,out,plans,equal,best_us,best_equal_us,rows_us,rows_variant,"
           "stream_us,stream_equal,TF,stream_TB_per_s,sm90_us,sm90_equal\n");
    for (int m : rows) {
        for (const struct line &line : lines) {
            if (m > most) {
                break;
            }
            struct linear_trial trial = {
                x, y, w, line.weight_elements, L, (int)max_rows};
            struct candidate c = {gemm, line.linear, &trial, m, NULL};
            measure(&c, &line);
        }
    }
    gemm_close(gemm);
    return 0;
}
