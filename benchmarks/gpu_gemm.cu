/* gpu_gemm.cu: what cuBLASLt offers for each product of a layer, how fast, and whether
 * it gives the canonical bits, beside our own kernels.
 *
 *     nvcc -std=c++20 -Icsrc -Icuda benchmarks/gpu_gemm.cu
 *         cuda/products/{gemm,gemm_rows,gemm_stream,plan_cache}.cu
 *         cuda/ops/swiglu.cu cuda/stream.cu cuda/cuda_error.cu csrc/error.c -lcublasLt
 *     gpu_gemm HIDDEN INTERMEDIATE LAYERS HEADS KV_HEADS HEAD_DIM [MAX_ROWS [float8]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda/products/gemm_trial.cu"

struct line {
    const char *name;
    enum qe_linear linear;
    struct linear_shape shape;
};

template <typename T>
static T *
device_buffer(size_t n)
{
    T *p;
    if (cudaMalloc(&p, n * sizeof(T)) != cudaSuccess ||
        launch_fill(p, n, {}) != cudaSuccess) {
        fprintf(stderr, "no memory for %zu bytes\n", n * sizeof(T));
        exit(1);
    }
    return p;
}

/* n elements, with as many factors as a row of one element would take. */
static struct operand
device_operand(enum qe_compute_dtype dtype, size_t n)
{
    if (dtype == QE_FLOAT8) {
        return {device_buffer<__nv_fp8_e4m3>(n), device_buffer<float>(n / 4)};
    }
    return {device_buffer<bf16>(n), NULL};
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
    const bool is_bf16 = line->shape.dtype == QE_BFLOAT16;
    for (int i = 0; i < N_GEMM_ROWS_VARIANTS && c->m <= 512 && is_bf16; i++) {
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
    if (c->m <= GEMM_STREAM_MAX_ROWS && is_bf16 &&
        (check_plan(c, &stream, &stream_equal, &err) < 0 ||
         time_plan(c, &stream, &stream_ms, &err) < 0)) {
        fprintf(stderr, "%s\n", err.message);
    }
    const char *const outputs[] = {"bf16=", "fp32+=", "swiglu"};
    double flop = 2.0 * c->m * line->shape.n * line->shape.k;
    printf("%s,%d,%d,%d,%s,%d,%d,%.2f,%.2f,%.2f,%d,%.2f,%d,%.0f,%.2f\n", line->name,
           line->shape.n, line->shape.k, c->m, outputs[line->shape.output], n_found,
           n_equal, best * 1e3, best_equal * 1e3, best_rows * 1e3, best_variant,
           stream_ms * 1e3, stream_equal,
           flop / fminf(fminf(best_equal, best_rows), stream_ms) * 1e-9,
           2.0 * line->shape.n * line->shape.k / stream_ms * 1e-9);
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    if (argc < 7 || argc > 9 || (argc == 9 && strcmp(argv[8], "float8") != 0)) {
        fprintf(stderr, "six or seven numbers, and then float8 or nothing\n");
        return 2;
    }
    const enum qe_compute_dtype dtype = argc == 9 ? QE_FLOAT8 : QE_BFLOAT16;
    const int C = atoi(argv[1]), I = atoi(argv[2]), L = atoi(argv[3]);
    const int q = atoi(argv[4]) * atoi(argv[6]), kv = atoi(argv[5]) * atoi(argv[6]);
    const size_t qkv = q + 2 * kv, max_rows = MAX_TRIAL_ROWS;
    const int rows[] = {16, 32, 64, 128, 256, 512, 2112, 4224, 8448, 16896};
    const int most = argc > 7 ? atoi(argv[7]) : (int)max_rows;
    const struct line lines[] = {
        {"qkv", LINEAR_QKV, {dtype, (int)qkv, C, (size_t)C, qkv, PRODUCT_STORE}},
        {"o", LINEAR_O, {dtype, C, q, qkv, (size_t)C, PRODUCT_ADD}},
        {"gate_up",
         LINEAR_GATE_UP,
         {dtype, 2 * I, C, (size_t)C, 2 * (size_t)I,
          dtype == QE_FLOAT8 ? PRODUCT_STORE : PRODUCT_SWIGLU}},
        {"down", LINEAR_DOWN, {dtype, C, I, 2 * (size_t)I, (size_t)C, PRODUCT_ADD}},
    };
    struct linear_shape shapes[N_LINEARS] = {};
    struct gemm *gemm;
    struct qe_error err;

    for (const struct line &line : lines) {
        shapes[line.linear] = line.shape;
    }
    if (gemm_open(shapes, NULL, {}, &gemm, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    size_t widest = 2 * (size_t)I > qkv ? 2 * (size_t)I : qkv;
    const struct operand x = device_operand(dtype, max_rows * widest);
    const struct operand w = device_operand(dtype, L * 2 * (size_t)I * C);
    void *y = device_buffer<float>(max_rows * widest);
    printf("op,N,K,M,out,plans,equal,best_us,best_equal_us,rows_us,rows_variant,"
           "stream_us,stream_equal,TF,stream_TB_per_s\n");
    for (int m : rows) {
        for (const struct line &line : lines) {
            if (m > most) {
                break;
            }
            const size_t layer_bytes = (size_t)line.shape.n * line.shape.k *
                                       (dtype == QE_FLOAT8 ? 1 : sizeof(bf16));
            struct linear_trial trial = {x, y, w, layer_bytes, L, (int)max_rows};
            struct candidate c = candidate_of(gemm, line.linear, &trial, m, {});
            measure(&c, &line);
        }
    }
    gemm_close(gemm);
    return 0;
}
