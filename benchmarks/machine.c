/* machine.c: prints what this machine can do at most, the ceiling of the benchmarks.
 *
 *     machine INSTRUCTION_SET N_THREADS    prints FLOP/s and bytes/s read
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peak.h"

#define READ_BYTES (1UL << 30) /* more than any cache */
#define N_ROUNDS 5

int
main(int argc, char **argv)
{
    struct qe_threads *threads;
    struct qe_error err;
    unsigned char *data = aligned_alloc(4096, READ_BYTES);
    double bytes_per_s = 0.0;

    if (argc != 3 || data == NULL) {
        fprintf(stderr, "usage: machine INSTRUCTION_SET N_THREADS, with 1 GiB free\n");
        return 2;
    }
    if (qe_threads_open(atoi(argv[2]), &threads, &err) < 0) {
        fprintf(stderr, "error: %s\n", err.message);
        return 1;
    }
    memset(data, 1, READ_BYTES);
    for (int i = 0; i < N_ROUNDS; i++) {
        double rate = qe_read_bandwidth(threads, data, READ_BYTES);
        bytes_per_s = rate > bytes_per_s ? rate : bytes_per_s;
    }
    printf("%.6g %.6g\n", qe_peak_flops(threads, argv[1]), bytes_per_s);
    qe_threads_close(threads);
    free(data);
    return 0;
}
