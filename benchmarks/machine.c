/* machine.c: prints what this machine can do at most, the ceiling of the benchmarks.
 *
 *     machine INSTRUCTION_SET N_THREADS    prints FLOP/s and bytes/s read
 */
#include <stdio.h>
#include <stdlib.h>

#include "../csrc/cpu/peak.h"

int
main(int argc, char **argv)
{
    struct qe_peak peak;
    struct qe_error err;

    if (argc != 3) {
        fprintf(stderr, "usage: machine INSTRUCTION_SET N_THREADS, with 1 GiB free\n");
        return 2;
    }
    struct qe_backend backend = {.kernels = argv[1], .n_threads = atoi(argv[2])};
    if (qe_peak_measure(&backend, &peak, &err) < 0) {
        fprintf(stderr, "error: %s\n", err.message);
        return 1;
    }
    printf("%.6g %.6g\n", peak.flops, peak.bytes_per_s);
    return 0;
}
