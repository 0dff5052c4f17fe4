/* peak.c: loops on registers alone, one per instruction set, and a loop that only reads
 * memory. Each is compiled for its set by its target attribute. */
#define _GNU_SOURCE
#include "peak.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PEAK_S 1.0             /* seconds in which the best run is sought */
#define N_STEPS 200000         /* of each loop */
#define N_PARTS 64             /* of the data that is read */
#define READ_BYTES (1UL << 30) /* more than any cache */
#define N_READS 5

struct loop {
    const char *isa;
    double flop; /* of one run */
    void (*run)(void);
};

/* Twelve sums hide the latency of an instruction of six cycles that is issued twice per
 * cycle; on some processors the bf16 products have a longer latency. */
#define N_SUMS 12
#define N_BF16_SUMS 24
#define N_NEON_SUMS 24 /* of 128 bits: four pipes, six cycles */

typedef float quad __attribute__((vector_size(16)));

static void
run_portable(void)
{
    quad sum[N_SUMS] = {{0}};
    quad a = {1.0f, 1.0f, 1.0f, 1.0f};

    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            __asm__ volatile("" : "+x"(a));
            sum[j] += a * a;
        }
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"x"(sum[j]));
    }
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) static void
run_avx2(void)
{
    __m256 sum[N_SUMS], a = _mm256_set1_ps(1.0f);

    for (int j = 0; j < N_SUMS; j++) {
        sum[j] = a;
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] = _mm256_fmadd_ps(a, a, sum[j]);
        }
        __asm__ volatile("" : "+x"(a));
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"x"(sum[j]));
    }
}

__attribute__((target("avx512f"))) static void
run_avx512(void)
{
    __m512 sum[N_SUMS], a = _mm512_set1_ps(1.0f);

    for (int j = 0; j < N_SUMS; j++) {
        sum[j] = a;
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] = _mm512_fmadd_ps(a, a, sum[j]);
        }
        __asm__ volatile("" : "+v"(a));
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"v"(sum[j]));
    }
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void
run_avx512_bf16(void)
{
    __m512 sum[N_BF16_SUMS];
    __m512i a = _mm512_set1_epi32(0x3f803f80);

    for (int j = 0; j < N_BF16_SUMS; j++) {
        sum[j] = _mm512_setzero_ps();
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < N_BF16_SUMS; j++) {
            sum[j] = _mm512_dpbf16_ps(sum[j], (__m512bh)a, (__m512bh)a);
        }
        __asm__ volatile("" : "+v"(a));
    }
    for (int j = 0; j < N_BF16_SUMS; j++) {
        __asm__ volatile("" ::"v"(sum[j]));
    }
}

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

__attribute__((target("amx-tile"))) static void
configure_amx(void)
{
    struct tile_config config = {.palette = 1};

    /* Linux gives tile registers only to a process that asks. */
    syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = 16;
    }
    __asm__ volatile("" ::"m"(config)); /* gcc 12 sees only 8 bytes of it used */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
}

__attribute__((target("amx-tile,amx-bf16"))) static void
run_amx(void)
{
    configure_amx();
    for (int i = 0; i < N_STEPS / 4; i++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
}

/* ---- int8 ---- */

__attribute__((target("avx2"))) static void
run_words_avx2(void)
{
    __m256i sum[N_SUMS], a = _mm256_set1_epi16(1);

    for (int j = 0; j < N_SUMS; j++) {
        sum[j] = a;
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(a, a));
            __asm__ volatile("" : "+x"(a));
        }
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"x"(sum[j]));
    }
}

__attribute__((target("avx2,avxvnni"))) static void
run_avx_vnni(void)
{
    __m256i sum[N_SUMS], a = _mm256_set1_epi8(1);

    for (int j = 0; j < N_SUMS; j++) {
        sum[j] = a;
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] = _mm256_dpbusd_avx_epi32(sum[j], a, a);
        }
        __asm__ volatile("" : "+x"(a));
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"x"(sum[j]));
    }
}

__attribute__((target("avx512f,avx512vnni"))) static void
run_avx512_vnni(void)
{
    __m512i sum[N_SUMS], a = _mm512_set1_epi8(1);

    for (int j = 0; j < N_SUMS; j++) {
        sum[j] = a;
    }
    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] = _mm512_dpbusd_epi32(sum[j], a, a);
        }
        __asm__ volatile("" : "+v"(a));
    }
    for (int j = 0; j < N_SUMS; j++) {
        __asm__ volatile("" ::"v"(sum[j]));
    }
}

__attribute__((target("amx-tile,amx-int8"))) static void
run_amx_int8(void)
{
    configure_amx();
    for (int i = 0; i < N_STEPS / 4; i++) {
        _tile_dpbssd(0, 4, 5);
        _tile_dpbssd(1, 4, 5);
        _tile_dpbssd(2, 4, 5);
        _tile_dpbssd(3, 4, 5);
    }
    _tile_release();
}

#elif defined(__aarch64__)

/* The instructions are in assembly, because not every clang knows their intrinsics
 * where only a function has the target. */
#if defined(__clang__)
#define TARGET(extension) target(extension)
#else
#define TARGET(extension) target("arch=armv8.2-a+" extension)
#endif

static void
run_neon(void)
{
    quad sum[N_NEON_SUMS] = {{0}}, a = {0};

    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < N_NEON_SUMS; j++) {
            __asm__ volatile("fmla %0.4s, %1.4s, %1.4s" : "+w"(sum[j]) : "w"(a));
        }
    }
}

__attribute__((TARGET("bf16"))) static void
run_bfmmla(void)
{
    quad sum[N_NEON_SUMS] = {{0}}, a = {0};

    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < N_NEON_SUMS; j++) {
            __asm__ volatile("bfmmla %0.4s, %1.8h, %1.8h" : "+w"(sum[j]) : "w"(a));
        }
    }
}

__attribute__((TARGET("dotprod"))) static void
run_sdot(void)
{
    quad sum[N_NEON_SUMS] = {{0}}, a = {0};

    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < N_NEON_SUMS; j++) {
            __asm__ volatile("sdot %0.4s, %1.16b, %1.16b" : "+w"(sum[j]) : "w"(a));
        }
    }
}

__attribute__((TARGET("i8mm"))) static void
run_smmla(void)
{
    quad sum[N_NEON_SUMS] = {{0}}, a = {0};

    for (int i = 0; i < N_STEPS; i++) {
#pragma GCC unroll 24
        for (int j = 0; j < N_NEON_SUMS; j++) {
            __asm__ volatile("smmla %0.4s, %1.16b, %1.16b" : "+w"(sum[j]) : "w"(a));
        }
    }
}

#endif

static const struct loop loops[] = {
#if defined(__x86_64__)
    {"amx_bf16", N_STEPS * 16384.0, run_amx},
    {"avx512_bf16", N_STEPS * 64.0 * N_BF16_SUMS, run_avx512_bf16},
    {"avx512_vnni", N_STEPS * 32.0 * N_SUMS, run_avx512},
    {"avx512", N_STEPS * 32.0 * N_SUMS, run_avx512},
    {"avx_vnni", N_STEPS * 16.0 * N_SUMS, run_avx2},
    {"avx2", N_STEPS * 16.0 * N_SUMS, run_avx2},
#elif defined(__aarch64__)
    {"neon_bf16", N_STEPS * 32.0 * N_NEON_SUMS, run_bfmmla},
    {"neon_i8", N_STEPS * 8.0 * N_NEON_SUMS, run_neon},
#endif
    {"portable", N_STEPS * 8.0 * N_SUMS, run_portable},
};

/* The same for int8; flop counts integer operations. */
static const struct loop int8_loops[] = {
#if defined(__x86_64__)
    {"amx_bf16", N_STEPS * 32768.0, run_amx_int8},
    {"avx512_bf16", N_STEPS * 128.0 * N_SUMS, run_avx512_vnni},
    {"avx512_vnni", N_STEPS * 128.0 * N_SUMS, run_avx512_vnni},
    {"avx512", N_STEPS * 32.0 * N_SUMS, run_words_avx2},
    {"avx_vnni", N_STEPS * 64.0 * N_SUMS, run_avx_vnni},
    {"avx2", N_STEPS * 32.0 * N_SUMS, run_words_avx2},
#elif defined(__aarch64__)
    {"neon_bf16", N_STEPS * 64.0 * N_NEON_SUMS, run_smmla},
    {"neon_i8", N_STEPS * 32.0 * N_NEON_SUMS, run_sdot},
#endif
    {"portable", N_STEPS * 8.0 * N_SUMS, run_portable},
};

static double
now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void
loop_task(void *context, int index, int worker)
{
    (void)index;
    (void)worker;
    ((const struct loop *)context)->run();
}

static double
peak_flops(struct qe_threads *threads, const char *isa, bool is_int8)
{
    const struct loop *loop = is_int8 ? int8_loops : loops;
    int n_threads = qe_threads_count(threads);
    double best_s = 1e9;

    while (strcmp(loop->isa, isa) != 0) {
        loop++;
    }
    double end = now_s() + PEAK_S;
    do {
        double start = now_s();
        qe_threads_run(threads, n_threads, loop_task, (void *)loop, NULL);
        best_s = now_s() - start < best_s ? now_s() - start : best_s;
    } while (now_s() < end);
    return loop->flop * n_threads / best_s;
}

typedef uint64_t chunk __attribute__((vector_size(16)));

struct reading {
    const unsigned char *data;
    size_t part_bytes; /* a multiple of 64 */
};

static void
read_task(void *context, int index, int worker)
{
    const struct reading *reading = context;
    const unsigned char *part = reading->data + (size_t)index * reading->part_bytes;
    chunk sum[4] = {{0}};

    (void)worker;
    for (size_t at = 0; at < reading->part_bytes; at += 4 * sizeof(chunk)) {
        __builtin_prefetch(part + at + 4096);
        for (int i = 0; i < 4; i++) {
            chunk words;
            memcpy(&words, part + at + i * sizeof words, sizeof words);
            sum[i] ^= words;
        }
    }
    sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
    __asm__ volatile("" ::"x"(sum[0]));
}

static double
read_bytes_per_s(struct qe_threads *threads, const unsigned char *data)
{
    struct reading reading = {data, READ_BYTES / N_PARTS};
    double best_s = 1e9;

    for (int i = 0; i < N_READS; i++) {
        double start = now_s();
        qe_threads_run(threads, N_PARTS, read_task, &reading, NULL);
        best_s = now_s() - start < best_s ? now_s() - start : best_s;
    }
    return READ_BYTES / best_s;
}

int
qe_peak_measure(struct qe_backend *backend, struct qe_peak *peak, struct qe_error *err)
{
    struct qe_threads *threads;
    unsigned char *data = aligned_alloc(4096, READ_BYTES);
    int status;

    if (data == NULL) {
        return qe_fail(err, QE_ENOMEM, "peak: no memory for %lu bytes", READ_BYTES);
    }
    status = qe_threads_open(backend->n_threads, &threads, err);
    if (status == 0) {
        memset(data, 1, READ_BYTES);
        peak->bytes_per_s = read_bytes_per_s(threads, data);
        peak->flops = peak_flops(threads, backend->kernels, backend->is_int8);
        qe_threads_close(threads);
    }
    free(data);
    return status;
}
