/* multiply_int8.c: a product with int8 or Q8_0 weights on one instruction set, for a
 * test that compares its bits.
 *
 *     multiply_int8 ISA THREADS int8|q8_0 < input > output
 *
 * input: m, n, k as int32; x (m, k) bf16; w (n, k) int8, then scales (n) fp32, or Q8_0.
 * output: x times the transpose of w, (m, n) fp32.
 *
 * With FORCED_ISA that set's kernels are used, whatever the processor: the build has
 * compiled those that run for instructions that it has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/cpu/gemm.h"
#include "../../csrc/cpu/q8_0.h"

#ifdef FORCED_ISA
extern const struct qe_isa QE_PASTE(qe_isa, FORCED_ISA);
#endif

static void
require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s\n", what);
        exit(2);
    }
}

static void *
read_array(size_t n, size_t size)
{
    void *array = malloc(n * size + 1);

    require(array != NULL && fread(array, size, n, stdin) == n, "input is too short");
    return array;
}

/* (n, groups): see struct qe_int8_rows. */
static int32_t *
sum_groups(const int8_t *w, int n, int k, int int8_zero)
{
    int n_groups = (k + QE_GROUP - 1) / QE_GROUP;
    int32_t *offsets = calloc((size_t)n * n_groups, sizeof *offsets);

    require(offsets != NULL, "out of memory");
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < k; j++) {
            offsets[i * n_groups + j / QE_GROUP] -= int8_zero * w[(size_t)i * k + j];
        }
    }
    return offsets;
}

int
main(int argc, char **argv)
{
    struct qe_error err;
    struct qe_threads *threads;

    require(argc == 4, "usage: multiply_int8 ISA THREADS int8|q8_0");
#ifdef FORCED_ISA
    const struct qe_isa *isa = &QE_PASTE(qe_isa, FORCED_ISA);
#else
    const struct qe_isa *isa = qe_isa_choose(argv[1], &err);
#endif
    const bool in_blocks = strcmp(argv[3], "q8_0") == 0;
    require(isa != NULL, err.message);
    require(qe_threads_open(atoi(argv[2]), &threads, &err) == 0, err.message);
    int32_t *sizes = read_array(3, sizeof *sizes);
    int m = sizes[0], n = sizes[1], k = sizes[2];
    qe_bf16 *x = read_array((size_t)m * k, sizeof *x);
    struct qe_matrix matrix = {.n = n};
    if (in_blocks) {
        size_t n_groups = ((size_t)k + QE_GROUP - 1) / QE_GROUP;
        int16_t *sums = malloc(n * n_groups * QE_Q8_0_BLOCKS * sizeof *sums);
        require(sums != NULL, "out of memory");
        matrix.rows = read_array(n * qe_q8_0_bytes(k), 1);
        qe_q8_0_sum(sums, matrix.rows, n, k, threads);
        matrix.sums = sums;
    } else {
        matrix.rows = read_array((size_t)n * k, 1);
        matrix.scales = read_array((size_t)n, sizeof(float));
        matrix.offsets = sum_groups(matrix.rows, n, k, isa->int8_zero);
    }
    size_t n_bytes = qe_gemm_scratch_bytes(m, k, atoi(argv[2]));
    unsigned char *scratch = aligned_alloc(64, n_bytes);
    float *y = malloc((size_t)m * n * sizeof *y);
    struct qe_gemm gemm = {
        .x = x,
        .ldx = (size_t)k,
        .m = m,
        .k = k,
        .w = {matrix},
        .n_w = 1,
        .epilogue = QE_STORE,
        .y = y,
        .ldy = (size_t)n,
    };
    require(scratch != NULL && y != NULL, "out of memory");
    memset(scratch, 0xff, n_bytes); /* should anything be used before it is set */
    qe_gemm_run(&gemm, isa, threads, scratch, NULL);
    fwrite(y, sizeof *y, (size_t)m * n, stdout);
    qe_threads_close(threads);
    free(y);
    free(scratch);
    free((void *)matrix.sums);
    free((void *)matrix.offsets);
    free((void *)matrix.scales);
    free((void *)matrix.rows);
    free(x);
    free(sizes);
    return 0;
}
