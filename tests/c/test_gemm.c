/* test_gemm.c: the matrix product against sums in double precision, for every
 * instruction set of this machine. Exits 1 and names the first thing that differs.
 *
 *     test_gemm [isa]
 *
 * Inputs end at a page that cannot be read, at any alignment, and outputs lie between
 * values that must survive. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/cpu/gemm.h"

#define CANARY 12345.0f
#define GAP 3 /* elements between rows of y, which must survive */

static int n_checks;

struct guarded {
    unsigned char *map; /* (map_bytes), its last page not readable */
    size_t map_bytes;
    void *data; /* ends just before that page              */
};

struct data {
    int m, n, k; /* n of each of the matrices */
    int n_w;
    size_t ldx;
    struct guarded x, w[3];
    double *exact[3];  /* (m, n) sums             */
    double *weight[3]; /* (m, n) sums of |x w|    */
};

static void
require(bool ok, const char *what, const char *isa, const struct data *d, int i, int j)
{
    n_checks++;
    if (!ok) {
        printf("FAIL %s: %s, m %d n %d k %d, row %d column %d\n", isa, what, d->m, d->n,
               d->k, i, j);
        exit(1);
    }
}

static struct guarded
allocate(size_t n_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct guarded g = {.map_bytes = (n_bytes + page - 1) / page * page + page};

    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (g.map == MAP_FAILED ||
        mprotect(g.map + g.map_bytes - page, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(2);
    }
    g.data = g.map + g.map_bytes - page - n_bytes;
    return g;
}

static void
release(struct guarded *g)
{
    if (g->map) {
        munmap(g->map, g->map_bytes);
    }
}

static uint32_t
next_random(void)
{
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* Uniform in (-1, 1), with 8 significant bits. */
static qe_bf16
random_bf16(void)
{
    float x = (float)(int32_t)next_random() / 2147483648.0f;
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (qe_bf16)(bits >> 16);
}

static double
value(const void *rows, size_t at)
{
    qe_bf16 half;
    float x;

    memcpy(&half, (const unsigned char *)rows + 2 * at, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void
set_value(void *rows, size_t at, qe_bf16 half)
{
    memcpy((unsigned char *)rows + 2 * at, &half, sizeof half);
}

/* before: bytes between the end of W and the page that cannot be read. */
static struct data
make_data(int m, int n, int k, int n_w, size_t before)
{
    struct data d = {.m = m, .n = n, .k = k, .n_w = n_w, .ldx = (size_t)k + 5};

    d.x = allocate(((size_t)(m - 1) * d.ldx + k) * 2);
    for (size_t at = 0; at < (size_t)(m - 1) * d.ldx + k; at++) {
        set_value(d.x.data, at, at % d.ldx < (size_t)k ? random_bf16() : 0x7fc0);
    }
    for (int i = 0; i < n_w; i++) {
        d.w[i] = allocate((size_t)n * k * 2 + before);
        for (size_t at = 0; at < (size_t)n * k; at++) {
            set_value(d.w[i].data, at, random_bf16());
        }
        d.exact[i] = malloc((size_t)m * n * sizeof(double));
        d.weight[i] = malloc((size_t)m * n * sizeof(double));
        for (int r = 0; r < m; r++) {
            for (int c = 0; c < n; c++) {
                double sum = 0, weight = 0;
                for (int j = 0; j < k; j++) {
                    double product = value(d.x.data, r * d.ldx + j) *
                                     value(d.w[i].data, (size_t)c * k + j);
                    sum += product;
                    weight += fabs(product);
                }
                d.exact[i][(size_t)r * n + c] = sum;
                d.weight[i][(size_t)r * n + c] = weight;
            }
        }
    }
    return d;
}

static void
free_data(struct data *d)
{
    release(&d->x);
    for (int i = 0; i < d->n_w; i++) {
        release(&d->w[i]);
        free(d->exact[i]);
        free(d->weight[i]);
    }
}

/* Runs rows [first, first + m) of d into y (m, n_w * n), rows ldy apart. */
static void
run(const struct data *d, const struct qe_isa *isa, int n_threads, int first, int m,
    enum qe_epilogue epilogue, void *y, size_t ldy, const atomic_int *cancel)
{
    struct qe_error err;
    struct qe_threads *threads;
    struct qe_gemm gemm = {
        .x = (const qe_bf16 *)d->x.data + (size_t)first * d->ldx,
        .ldx = d->ldx,
        .m = m,
        .k = d->k,
        .n_w = d->n_w,
        .epilogue = epilogue,
        .y = y,
        .ldy = ldy,
    };
    size_t n_bytes = qe_gemm_scratch_bytes(m, d->k, n_threads);
    unsigned char *scratch = aligned_alloc(64, n_bytes);

    for (int i = 0; i < d->n_w; i++) {
        gemm.w[i] = (struct qe_matrix){.rows = d->w[i].data, .n = d->n};
    }
    if (!scratch || qe_threads_open(n_threads, &threads, &err) != 0) {
        printf("out of memory or threads\n");
        exit(2);
    }
    memset(scratch, 0xff, n_bytes); /* NaN, should anything be used before it is set */
    qe_gemm_run(&gemm, isa, threads, scratch, cancel);
    qe_threads_close(threads);
    free(scratch);
}

/* A chain of k fused additions in fp32 errs by at most 2^-24 of each partial sum, and
 * each of those is at most the sum of |x w|. The factor 1.1 covers second order and the
 * additions of AMX, two more for every 32. BFMMLA rounds to odd, which errs twice as
 * much, but adds to the sum half as often; its sums of two products are the two more.
 */
static double
chain_error(const struct data *d, int matrix, size_t at)
{
    return 1.1 * d->k * 0x1p-24 * d->weight[matrix][at];
}

static void
check_floats(const struct data *d, const struct qe_isa *isa, enum qe_epilogue epilogue)
{
    int n = d->n * d->n_w;
    size_t ldy = (size_t)n + GAP;
    float *y = malloc(d->m * ldy * sizeof *y);

    for (size_t i = 0; i < d->m * ldy; i++) {
        y[i] = CANARY;
    }
    run(d, isa, 2, 0, d->m, epilogue, y, ldy, NULL);
    for (int i = 0; i < d->m; i++) {
        for (int j = 0; j < n + GAP; j++) {
            double found = y[i * ldy + j];
            if (j >= n) {
                require(found == CANARY, "wrote past a row of y", isa->name, d, i, j);
                continue;
            }
            size_t at = (size_t)i * d->n + j % d->n;
            double expected = d->exact[j / d->n][at];
            double tolerance = chain_error(d, j / d->n, at);
            if (epilogue == QE_ADD) { /* one more rounding */
                expected += CANARY;
                tolerance += fabs(expected) * 0x1p-24;
            }
            require(fabs(found - expected) <= tolerance, "sum", isa->name, d, i, j);
        }
    }
    free(y);
}

static void
check_swiglu(const struct data *d, const struct qe_isa *isa)
{
    size_t ldy = (size_t)d->n + GAP;
    qe_bf16 *y = malloc(d->m * ldy * sizeof *y);

    memset(y, 0x42, d->m * ldy * sizeof *y);
    run(d, isa, 2, 0, d->m, QE_SWIGLU, y, ldy, NULL);
    for (int i = 0; i < d->m; i++) {
        for (int j = 0; j < d->n + GAP; j++) {
            if (j >= d->n) {
                require(y[i * ldy + j] == 0x4242, "wrote past a row of y", isa->name, d,
                        i, j);
                continue;
            }
            size_t at = (size_t)i * d->n + j;
            double gate = d->exact[0][at], up = d->exact[1][at];
            double silu = gate / (1.0 + exp(-gate));
            double expected = silu * up;
            /* The slope of silu is at most 1.1; silu itself as epilogue.c states; the
             * rounding to bf16 is half of 2^-7 at most, of what the errors left. */
            double tolerance = 1.1 * chain_error(d, 0, at) * fabs(up) +
                               fabs(silu) * chain_error(d, 1, at) +
                               fabs(expected) * (0x1p-8 + 5e-7 + 1e-7 * fabs(gate)) +
                               1e-35;
            require(fabs(value(y, i * ldy + j) - expected) <= 1.01 * tolerance,
                    "swiglu", isa->name, d, i, j);
        }
    }
    free(y);
}

static void
check_values(const struct qe_isa *isa)
{
    /* m, n, k: one of everything; odd everything; several tasks in m, in n and in k. */
    static const int shapes[][3] = {
        {1, 1, 1},     {1, 16, 32},  {2, 17, 31},    {15, 33, 33},  {16, 24, 64},
        {17, 96, 95},  {31, 97, 96}, {48, 25, 100},  {65, 130, 70}, {100, 50, 257},
        {257, 30, 40}, {300, 5, 64}, {3, 200, 1100}, {5, 30, 2080}, {70, 31, 1057},
    };

    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t before = 0; before < 4; before++) {
            const int *shape = shapes[s];
            struct data d =
                make_data(shape[0], shape[1], shape[2], 1 + (int)before % 3, before);
            check_floats(&d, isa, QE_STORE);
            check_floats(&d, isa, QE_ADD);
            free_data(&d);
            if (before == 1 || before == 2) {
                d = make_data(shape[0], shape[1], shape[2], 2, before);
                check_swiglu(&d, isa);
                free_data(&d);
            }
        }
    }
}

/* The bits of a row must not depend on the rows beside it, on its place among them, nor
 * on the threads. */
static void
check_bits(const struct qe_isa *isa, int n, int k, enum qe_epilogue epilogue, int max_m)
{
    struct data d = make_data(max_m, n, k, 2, 2);
    size_t element = epilogue == QE_SWIGLU ? sizeof(qe_bf16) : sizeof(float);
    size_t ldy = epilogue == QE_SWIGLU ? (size_t)n : (size_t)n * 2;
    size_t row_bytes = ldy * element;
    unsigned char *all = calloc(max_m, row_bytes);
    unsigned char *some = calloc(max_m, row_bytes);
    static const int threads[] = {1, 2, 3, 7};

    run(&d, isa, 1, 0, max_m, epilogue, all, ldy, NULL);
    for (int m = 1; m <= max_m; m += m < 70 ? 1 : 59) {
        int first = (int)(next_random() % (unsigned)(max_m - m + 1));
        memset(some, 0, max_m * row_bytes);
        run(&d, isa, threads[m % 4], first, m, epilogue, some, ldy, NULL);
        for (int i = 0; i < m; i++) {
            require(memcmp(some + i * row_bytes, all + (first + i) * row_bytes,
                           row_bytes) == 0,
                    "bits differ with the rows beside", isa->name, &d, first + i, m);
        }
    }
    free(some);
    free(all);
    free_data(&d);
}

/* NaN and infinity in one row of X stay in that row of Y. */
static void
check_isolation(const struct qe_isa *isa)
{
    struct data d = make_data(23, 40, 96, 2, 2);
    qe_bf16 *x = d.x.data;
    qe_bf16 clean[23 * 40], y[23 * 40];

    run(&d, isa, 2, 0, d.m, QE_SWIGLU, clean, 40, NULL);
    x[7 * d.ldx + 3] = 0x7fc0;
    x[20 * d.ldx + 95] = 0x7f80;
    run(&d, isa, 2, 0, d.m, QE_SWIGLU, y, 40, NULL);
    for (int i = 0; i < d.m; i++) {
        for (int j = 0; j < 40; j++) {
            if (i == 7) {
                require(isnan(value(y, i * 40 + j)), "NaN was lost", isa->name, &d, i,
                        j);
            } else if (i != 20) {
                require(y[i * 40 + j] == clean[i * 40 + j], "NaN spread", isa->name, &d,
                        i, j);
            }
        }
    }
    free_data(&d);
}

static void
check_cancel(const struct qe_isa *isa)
{
    struct data d = make_data(20, 100, 64, 1, 2);
    atomic_int cancel = 1;
    float y[20 * 100] = {0};

    run(&d, isa, 2, 0, d.m, QE_STORE, y, 100, &cancel);
    for (int i = 0; i < 20 * 100; i++) {
        require(y[i] == 0.0f, "ran though cancelled", isa->name, &d, i / 100, i % 100);
    }
    free_data(&d);
}

/* multiply() itself: both orders of the operands give the same bits, accumulating
 * continues the chain, and nothing is written past m rows or n_blocks blocks. */
static void
check_multiply(const struct qe_isa *isa, int m, int n, int k)
{
    struct data d = make_data(m, n, k, 1, 1);
    int wide = (n + 15) / 16 * 16, tall = (m + 15) / 16 * 16;
    size_t ldy = (size_t)wide + GAP, ldt = (size_t)tall;
    qe_bf16 *w_panel = aligned_alloc(64, (size_t)wide * k * 2);
    qe_bf16 *x_panel = aligned_alloc(64, (size_t)tall * k * 2);
    float *y = malloc((m + 1) * ldy * sizeof *y);
    float *whole = malloc((m + 1) * ldy * sizeof *y);
    float *tile = malloc((n + 1) * ldt * sizeof *tile);

    isa->pack(w_panel, d.w[0].data, 2 * (size_t)k, n, k, k);
    isa->pack(x_panel, d.x.data, 2 * d.ldx, m, k, k);
    for (size_t i = 0; i < (m + 1) * ldy; i++) {
        y[i] = whole[i] = CANARY;
    }
    isa->multiply(whole, ldy, d.x.data, d.ldx, m, w_panel, (size_t)16 * k, n, k, false);
    isa->multiply(tile, ldt, d.w[0].data, (size_t)k, n, x_panel, (size_t)16 * k, m, k,
                  false);
    for (int k0 = 0; k0 < k; k0 += 32) {
        isa->multiply(y, ldy, (qe_bf16 *)d.x.data + k0, d.ldx, m, w_panel + 16 * k0,
                      (size_t)16 * k, n, 32, k0 > 0);
    }
    for (int i = 0; i <= m; i++) {
        for (int j = 0; j < (int)ldy; j++) {
            float found = y[i * ldy + j];
            if (i == m || j >= wide) {
                require(found == CANARY && whole[i * ldy + j] == CANARY,
                        "wrote past the end", isa->name, &d, i, j);
                continue;
            }
            if (j >= n) {
                continue;
            }
            require(found == whole[i * ldy + j], "accumulate is another chain",
                    isa->name, &d, i, j);
            require(found == tile[j * ldt + i], "operands' order matters", isa->name,
                    &d, i, j);
        }
    }
    free(tile);
    free(whole);
    free(y);
    free(x_panel);
    free(w_panel);
    free_data(&d);
}

static void
check_isa(const struct qe_isa *isa)
{
    int before = n_checks;

    for (int m = 1; m <= 40; m++) {
        check_multiply(isa, m, 1 + (m * 29) % 150, 32 * (1 + m % 5));
    }
    check_values(isa);
    check_bits(isa, 40, 100, QE_STORE, 70);
    check_bits(isa, 33, 96, QE_ADD, 70);
    check_bits(isa, 50, 1056, QE_SWIGLU, 70);
    check_bits(isa, 10, 64, QE_STORE, 530);
    check_isolation(isa);
    check_cancel(isa);
    printf("%-12s %d checks\n", isa->name, n_checks - before);
}

int
main(int argc, char **argv)
{
    const char *names[QE_MAX_SETS];
    struct qe_error err;
    int n = qe_isa_list(names);

    if (qe_isa_choose("avx1024", &err) || err.status != QE_EVALUE ||
        !strstr(err.message, "avx1024") || !strstr(err.message, "portable")) {
        printf("FAIL an unknown instruction set is not refused by name\n");
        return 1;
    }
    for (int i = 0; i < n; i++) {
        const struct qe_isa *isa = qe_isa_choose(argc > 1 ? argv[1] : names[i], &err);
        if (!isa) {
            printf("%s\n", err.message);
            return 2;
        }
        check_isa(isa);
        if (argc > 1) {
            break;
        }
    }
    return 0;
}
