/* amx.c: what keeps the products with AMX from their peak: the kernel as it is and
 * variants of it, on one core with all data in its caches, and in whole products.
 *
 *     amx [threads]
 *
 * Variants: "now", what the engine runs; "prefetch" asks for the panel's tiles two
 * steps ahead, with strips half as long, so that both fit the L1 cache; "direct" loads
 * tiles from the rows as they lie, without a copy. "512 rows" is a product whose tasks
 * have twice as many rows of X, so that weights are read half as often. Each variant's
 * sums are compared with the first one's, bit for bit, before it is timed. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../csrc/cpu/gemm.h"
#include "../csrc/cpu/peak.h"
#include "../csrc/cpu/tiles.h"

#define MAX_M 2048
#define N 96     /* rows of W of the kernel alone, as of a task */
#define K 1024   /* its columns */
#define ROWS 256 /* its rows of X */
#define STEP_BYTES (QE_PANEL_ROWS * QE_K_STEP * sizeof(qe_bf16)) /* one tile */
#define SHORT_K 256
#define STRIP_ROWS (2 * TILE_ROWS)

struct strip {
    float *y;
    size_t ldy;
    const unsigned char *rows; /* tiles or, "direct", rows of W */
    size_t row_bytes;          /* between rows of a tile */
    size_t step_bytes;         /* between tiles along k */
    size_t half_bytes;         /* between tiles of the upper and lower half */
    const unsigned char *panel;
    size_t block_bytes;
    int k;
    bool accumulate, prefetches;
};

/* 32 rows times two blocks. */
static inline __attribute__((always_inline)) void
multiply_pair(const struct strip *s, const bool prefetches)
{
    const size_t y_bytes = s->ldy * sizeof(float);
    float *low = s->y, *high = s->y + TILE_ROWS * s->ldy;
    const unsigned char *rows = s->rows, *panel = s->panel;

    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (s->accumulate) {
        _tile_loadd(0, low, y_bytes);
        _tile_loadd(1, low + QE_PANEL_ROWS, y_bytes);
        _tile_loadd(2, high, y_bytes);
        _tile_loadd(3, high + QE_PANEL_ROWS, y_bytes);
    }
    for (int k0 = 0; k0 < s->k; k0 += QE_K_STEP) {
        if (prefetches) {
            for (size_t line = 0; line < STEP_BYTES; line += 64) {
                _mm_prefetch((const char *)panel + 2 * STEP_BYTES + line, _MM_HINT_T0);
                _mm_prefetch((const char *)panel + s->block_bytes + 2 * STEP_BYTES +
                                 line,
                             _MM_HINT_T0);
            }
        }
        _tile_loadd(4, rows, s->row_bytes);
        _tile_loadd(6, panel, TILE_ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + s->block_bytes, TILE_ROW_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, rows + s->half_bytes, s->row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        rows += s->step_bytes;
        panel += STEP_BYTES;
    }
    _tile_stored(0, low, y_bytes);
    _tile_stored(1, low + QE_PANEL_ROWS, y_bytes);
    _tile_stored(2, high, y_bytes);
    _tile_stored(3, high + QE_PANEL_ROWS, y_bytes);
}

static void
copy_rows(unsigned char *tiles, const unsigned char *w, size_t row_bytes, int k)
{
    for (int r = 0; r < STRIP_ROWS; r++) {
        const unsigned char *row = w + (size_t)r * row_bytes;
        unsigned char *tile = tiles + (size_t)r * TILE_ROW_BYTES;
        for (int k0 = 0; k0 < k; k0 += QE_K_STEP) {
            _mm_prefetch((const char *)row + STRIP_ROWS * row_bytes, _MM_HINT_T1);
            _mm512_store_si512(tile, _mm512_loadu_si512(row));
            row += TILE_ROW_BYTES;
            tile += STRIP_ROWS * TILE_ROW_BYTES;
        }
    }
}

/* Whole strips and pairs of blocks alone: the products here have no others. */
static void
multiply(float *y, size_t ldy, const void *x, size_t ldx, int m, const qe_bf16 *panel,
         size_t block_stride, int n, int k, bool accumulate, bool copies,
         bool prefetches, int strip_k)
{
    _Alignas(64) unsigned char tiles[STRIP_ROWS * 512 * sizeof(qe_bf16)];
    const size_t row_bytes = ldx * sizeof(qe_bf16);

    configure_tiles(STRIP_ROWS);
    for (int row = 0; row < m; row += STRIP_ROWS) {
        for (int k0 = 0; k0 < k; k0 += strip_k) {
            const unsigned char *w =
                (const unsigned char *)x + row * row_bytes + 2 * (size_t)k0;
            struct strip s = {
                .ldy = ldy,
                .rows = copies ? tiles : w,
                .row_bytes = copies ? TILE_ROW_BYTES : row_bytes,
                .step_bytes =
                    copies ? STRIP_ROWS * TILE_ROW_BYTES : (size_t)TILE_ROW_BYTES,
                .half_bytes = TILE_ROWS * (copies ? TILE_ROW_BYTES : row_bytes),
                .block_bytes = block_stride * sizeof(qe_bf16),
                .k = k - k0 < strip_k ? k - k0 : strip_k,
                .accumulate = accumulate || k0 > 0,
            };
            if (copies) {
                copy_rows(tiles, w, row_bytes, s.k);
            }
            for (int block = 0; block * QE_PANEL_ROWS < n; block += 2) {
                s.y = y + row * ldy + block * QE_PANEL_ROWS;
                s.panel = (const unsigned char *)(panel + block * block_stride +
                                                  (size_t)k0 * QE_PANEL_ROWS);
                if (prefetches) {
                    multiply_pair(&s, true);
                } else {
                    multiply_pair(&s, false);
                }
            }
        }
    }
    _tile_release();
}

static void
multiply_prefetch(float *y, size_t ldy, const void *x, size_t ldx, int m,
                  const qe_bf16 *panel, size_t block_stride, int n, int k,
                  bool accumulate)
{
    multiply(y, ldy, x, ldx, m, panel, block_stride, n, k, accumulate, true, true,
             SHORT_K);
}

static void
multiply_direct(float *y, size_t ldy, const void *x, size_t ldx, int m,
                const qe_bf16 *panel, size_t block_stride, int n, int k,
                bool accumulate)
{
    multiply(y, ldy, x, ldx, m, panel, block_stride, n, k, accumulate, false, false,
             512);
}

static double
now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *
allocate(size_t n_bytes)
{
    void *p = aligned_alloc(64, (n_bytes + 63) / 64 * 64);

    if (p == NULL) {
        printf("out of memory\n");
        exit(2);
    }
    /* Values of a few bits around 0.01, or as floats, small ones. */
    for (size_t i = 0; i < n_bytes / 2; i++) {
        ((qe_bf16 *)p)[i] = (qe_bf16)(0x3c00 + (i * 2654435761u >> 16 & 0x80ff));
    }
    return p;
}

/* GFLOP/s of the best of many runs. offset: of W in bytes, for its alignment. */
static double
time_kernel(const struct qe_isa *isa, const unsigned char *w, const qe_bf16 *panel,
            float *y)
{
    double best = 1e9, end = now_s() + 0.3;

    do {
        double start = now_s();
        isa->multiply(y, ROWS, w, K, N, panel, (size_t)K * QE_PANEL_ROWS, ROWS, K,
                      false);
        double taken = now_s() - start;
        best = taken < best ? taken : best;
    } while (now_s() < end);
    return 2.0 * N * K * ROWS / best * 1e-9;
}

struct product {
    const char *name;
    int n[3], n_w, k;
    enum qe_epilogue epilogue;
};

static const struct product products[] = {
    {"qkv", {2016, 1056, 1056}, 3, 1024, QE_STORE}, /* whole strips alone */
    {"o", {1056}, 1, 2048, QE_ADD},
    {"gate_up", {3072, 3072}, 2, 1024, QE_SWIGLU},
    {"down", {1056}, 1, 3072, QE_ADD},
};

static double
time_product(const struct qe_isa *isa, struct qe_threads *threads,
             const struct product *p, int m, unsigned char *scratch,
             const unsigned char *w, const qe_bf16 *x, float *y)
{
    int n = p->n[0] + p->n[1] + p->n[2];
    struct qe_gemm gemm = {
        .x = x,
        .ldx = (size_t)p->k,
        .m = m,
        .k = p->k,
        .n_w = p->n_w,
        .epilogue = p->epilogue,
        .y = y,
        .ldy = (size_t)(p->epilogue == QE_SWIGLU ? p->n[0] : n),
    };
    double best = 1e9, end = now_s() + 0.5;

    do {
        double start = now_s();
        size_t at = 0;
        for (int i = 0; i < p->n_w; i++) {
            gemm.w[i] = (struct qe_matrix){.rows = w + at, .n = p->n[i]};
            at += 2 * (size_t)p->n[i] * p->k;
        }
        qe_gemm_run(&gemm, isa, threads, scratch, NULL);
        double taken = now_s() - start;
        best = taken < best ? taken : best;
    } while (now_s() < end);
    return 2.0 * m * n * p->k / best * 1e-9;
}

static void
run_kernels(const struct qe_isa *isas, const char *const *names, int n_isas,
            double peak)
{
    unsigned char *w = allocate(2 * (size_t)(N + STRIP_ROWS) * K + 64);
    qe_bf16 *panel = allocate(2 * (size_t)ROWS * K + 4096);
    float *expected = allocate(sizeof *expected * N * ROWS);
    float *y = allocate(sizeof *y * N * ROWS);

    printf("one core, %d x %d times %d, all in its caches:\n", N, K, ROWS);
    for (int i = 0; i < n_isas; i++) {
        for (int offset = 0; offset <= 2; offset += 2) {
            double rate = time_kernel(&isas[i], w + offset, panel, y);
            isas[0].multiply(expected, ROWS, w + offset, K, N, panel,
                             (size_t)K * QE_PANEL_ROWS, ROWS, K, false);
            printf("%-24s W %d bytes off a line: %8.1f GFLOP/s (%4.1f%%) %s\n",
                   names[i], offset, rate, rate / peak * 1e2,
                   memcmp(y, expected, sizeof *y * N * ROWS) == 0 ? "same bits"
                                                                  : "OTHER BITS");
        }
    }
    float *out = allocate(sizeof *out * N * ROWS);
    double start = now_s();
    for (int i = 0; i < 1000; i++) {
        isas[0].store(out, N, y, ROWS, ROWS, N, true);
    }
    double store_s = (now_s() - start) / 1000;
    printf("store() of its sums takes as long as %.1f%% of them at the peak\n",
           store_s / (2.0 * N * K * ROWS / (peak * 1e9)) * 1e2);
    free(out);
    free(y);
    free(expected);
    free(panel);
    free(w);
}

int
main(int argc, char **argv)
{
    static const int rows[] = {128, 512, 1024, 2048};
    struct qe_error err;
    struct qe_threads *threads;
    struct qe_peak peak, core_peak;
    int n_threads = argc > 1 ? atoi(argv[1]) : 16;
    const struct qe_isa *now = qe_isa_choose("amx_bf16", &err);

    if (now == NULL || qe_threads_open(n_threads, &threads, &err) < 0) {
        printf("%s\n", err.message);
        return 2;
    }
    struct qe_isa isas[5] = {*now, *now, *now, *now, *now};
    const char *names[5] = {"now", "prefetch", "direct", "512 rows",
                            "prefetch, 512 rows"};
    isas[1].multiply = multiply_prefetch;
    isas[2].multiply = multiply_direct;
    isas[3].max_task_m = 512;
    isas[4].multiply = multiply_prefetch;
    isas[4].max_task_m = 512;
    struct qe_backend one = {.kernels = now->name, .n_threads = 1};
    struct qe_backend all = {.kernels = now->name, .n_threads = n_threads};
    if (qe_peak_measure(&one, &core_peak, &err) < 0 ||
        qe_peak_measure(&all, &peak, &err) < 0) {
        printf("%s\n", err.message);
        return 2;
    }
    printf("registers alone: one core %.1f GFLOP/s, %d threads %.1f GFLOP/s; reading "
           "%.1f GB/s\n",
           core_peak.flops * 1e-9, n_threads, peak.flops * 1e-9,
           peak.bytes_per_s * 1e-9);
    run_kernels(isas, names, 3, core_peak.flops * 1e-9);

    unsigned char *scratch = allocate(qe_gemm_scratch_bytes(MAX_M, 3072, n_threads));
    unsigned char *w = allocate(2UL * 6144 * 3072 + 64);
    qe_bf16 *x = allocate(2UL * MAX_M * 3072);
    float *y = allocate(sizeof *y * MAX_M * 6144);
    for (size_t s = 0; s < sizeof products / sizeof *products; s++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            printf("%-8s m %-5d", products[s].name, rows[r]);
            for (int i = 0; i < 5; i++) {
                memset(y, 0, sizeof *y * MAX_M * 6144);
                double rate = time_product(&isas[i], threads, &products[s], rows[r],
                                           scratch, w + 2 * s, x, y);
                printf("  %s %.0f (%.1f%%)", names[i], rate,
                       rate * 1e9 / peak.flops * 1e2);
            }
            printf("\n");
            fflush(stdout);
        }
    }
    qe_threads_close(threads);
    return 0;
}
