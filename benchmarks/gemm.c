/* gemm.c: how near the matrix products come to what the machine can do.
 *
 *     gemm [threads [isa [int8]]]
 *
 * Prints, per product of the 0.6B model and number of rows, the best GFLOP/s of several
 * rounds and the percentage of a loop over registers alone in the same run. Then, for
 * few rows, the time of the products of 28 different layers, whose weights no cache
 * holds, against reading as many bytes. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../csrc/cpu/gemm.h"
#include "../csrc/cpu/peak.h"

#define MAX_M 2048
#define MAX_N 3072
#define MAX_K 3072
#define N_LAYERS 28
#define N_ROUNDS 5

struct shape {
    const char *name;
    int n[3], n_w, k;
    enum qe_epilogue epilogue;
};

static const struct shape shapes[] = {
    {"qkv", {2048, 1024, 1024}, 3, 1024, QE_STORE},
    {"o", {1024}, 1, 2048, QE_ADD},
    {"gate_up", {3072, 3072}, 2, 1024, QE_SWIGLU},
    {"down", {1024}, 1, 3072, QE_ADD},
};
#define N_SHAPES 4

struct bench {
    const struct qe_isa *isa;
    struct qe_threads *threads;
    unsigned char *scratch, *weights;
    size_t weight_bytes; /* of all layers                                     */
    size_t value_bytes;  /* of one weight */
    float *scales;       /* (MAX_N) of int8; NULL: bf16 */
    int32_t *offsets;    /* (MAX_N, MAX_K / QE_GROUP) */
    qe_bf16 *x;          /* (MAX_M, 3072)                                     */
    float *y;            /* (MAX_M, 6144) */
};

static double
now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double
smaller(double a, double b)
{
    return a < b ? a : b;
}

static int
total_n(const struct shape *s)
{
    return s->n[0] + s->n[1] + s->n[2];
}

/* Runs a product on weights at *at, and moves *at past them. */
static void
run_shape(struct bench *b, const struct shape *s, int m, unsigned char **at)
{
    struct qe_gemm gemm = {
        .x = b->x,
        .ldx = (size_t)s->k,
        .m = m,
        .k = s->k,
        .n_w = s->n_w,
        .epilogue = s->epilogue,
        .y = b->y,
        .ldy = (size_t)(s->epilogue == QE_SWIGLU ? s->n[0] : total_n(s)),
    };

    for (int i = 0; i < s->n_w; i++) {
        gemm.w[i] = (struct qe_matrix){*at, s->n[i], b->scales, b->offsets};
        *at += b->value_bytes * s->n[i] * s->k;
    }
    qe_gemm_run(&gemm, b->isa, b->threads, b->scratch, NULL);
}

static void
measure_shapes(struct bench *b, double peak)
{
    static const int rows[] = {16, 32, 64, 128, 256, 512, 1024, 2048};

    printf("%-8s", "GFLOP/s");
    for (int s = 0; s < N_SHAPES; s++) {
        printf("%18s", shapes[s].name);
    }
    printf("\n");
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        printf("m %-6d", rows[r]);
        for (int s = 0; s < N_SHAPES; s++) {
            double flop = 2.0 * rows[r] * total_n(&shapes[s]) * shapes[s].k;
            double best = 1e9;
            double end = now_s() + 0.4;
            do {
                unsigned char *at = b->weights + 2 * s;
                double start = now_s();
                run_shape(b, &shapes[s], rows[r], &at);
                best = smaller(best, now_s() - start);
            } while (now_s() < end);
            printf("%10.1f (%4.1f%%)", flop / best * 1e-9, flop / best / peak * 100);
        }
        printf("\n");
    }
}

/* The products of one layer, in a forward pass's order. */
static double
time_layer(struct bench *b, int layer, int m)
{
    unsigned char *at = b->weights + 2 + b->weight_bytes / N_LAYERS * layer;
    double start = now_s();

    for (int s = 0; s < N_SHAPES; s++) {
        run_shape(b, &shapes[s], m, &at);
    }
    return now_s() - start;
}

/* Sums over the layers the best of several rounds, since on a busy machine no round is
 * quiet from end to end. A round goes through all layers, so that none finds its
 * weights in a cache. */
static double
time_layers(struct bench *b, int m)
{
    double best[N_LAYERS], total = 0;

    for (int round = 0; round < N_ROUNDS; round++) {
        for (int layer = 0; layer < N_LAYERS; layer++) {
            double taken = time_layer(b, layer, m);
            best[layer] = round == 0 ? taken : smaller(best[layer], taken);
        }
    }
    for (int layer = 0; layer < N_LAYERS; layer++) {
        total += best[layer];
    }
    return total;
}

static void
measure_layers(struct bench *b, const struct qe_peak *peak)
{
    static const int rows[] = {1, 4, 8, 12, 16, 20, 24, 32, 48, 64, 128, 256};
    double flop_per_row = 2.0 * b->weight_bytes / b->value_bytes;

    printf("%d layers' products, ms; to read their weights; to compute at the peak\n",
           N_LAYERS);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        double read_s = b->weight_bytes / peak->bytes_per_s;
        double taken_s = time_layers(b, rows[r]);
        double compute_s = flop_per_row * rows[r] / peak->flops;
        double limit_s = read_s > compute_s ? read_s : compute_s;
        printf("m %-6d%10.2f%10.2f (%4.1f GB/s)%10.2f%8.2fx the longer\n", rows[r],
               taken_s * 1e3, read_s * 1e3, b->weight_bytes / read_s * 1e-9,
               compute_s * 1e3, taken_s / limit_s);
    }
}

int
main(int argc, char **argv)
{
    struct qe_error err;
    struct bench b = {0};
    int n_threads = argc > 1 ? atoi(argv[1]) : 2;
    bool is_int8 = argc > 3 && strcmp(argv[3], "int8") == 0;

    b.value_bytes = is_int8 ? 1 : 2;
    if (is_int8) {
        b.scales = calloc(MAX_N, sizeof *b.scales);
        b.offsets = calloc(MAX_N * MAX_K / QE_GROUP, sizeof *b.offsets);
    }
    b.isa = qe_isa_choose(argc > 2 ? argv[2] : NULL, &err);
    if (!b.isa || qe_threads_open(n_threads, &b.threads, &err) != 0) {
        printf("%s\n", err.message);
        return 2;
    }
    for (int s = 0; s < N_SHAPES; s++) {
        b.weight_bytes += b.value_bytes * N_LAYERS * total_n(&shapes[s]) * shapes[s].k;
    }
    b.weights = mmap(NULL, b.weight_bytes + 64, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.scratch = aligned_alloc(64, qe_gemm_scratch_bytes(MAX_M, 3072, n_threads));
    b.x = aligned_alloc(64, (size_t)MAX_M * 3072 * sizeof *b.x);
    b.y = aligned_alloc(64, (size_t)MAX_M * 6144 * sizeof *b.y);
    if (b.weights == MAP_FAILED || (is_int8 && (!b.scales || !b.offsets)) ||
        !b.scratch || !b.x || !b.y) {
        printf("out of memory\n");
        return 2;
    }
    /* Values of a few bits around 0.01: nothing overflows, whatever is added. */
    for (size_t i = 0; i < b.weight_bytes / 2; i++) {
        ((qe_bf16 *)b.weights)[i] =
            (qe_bf16)(0x3c00 + (i * 2654435761u >> 16 & 0x80ff));
    }
    for (size_t i = 0; i < (size_t)MAX_M * 3072; i++) {
        b.x[i] = (qe_bf16)(0x3c00 + (i * 2246822519u >> 16 & 0x80ff));
    }
    memset(b.y, 0, (size_t)MAX_M * 6144 * sizeof *b.y);

    struct qe_peak peak;
    struct qe_backend backend = {.kernels = b.isa->name, .n_threads = n_threads};
    if (qe_peak_measure(&backend, &peak, &err) < 0) {
        printf("%s\n", err.message);
        return 2;
    }
    printf("%s, %d threads, registers alone: %.1f GFLOP/s\n", b.isa->name, n_threads,
           peak.flops * 1e-9);
    measure_shapes(&b, peak.flops);
    measure_layers(&b, &peak);
    qe_threads_close(b.threads);
    return 0;
}
