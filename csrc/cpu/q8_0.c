/* q8_0.c: converts rows of Q8_0 to fp32 and sums their blocks. */
#include "q8_0.h"

#include "../arithmetic.h"
#include "../floats.h"

#define TASK_ROWS 8

void
qe_q8_0_widen(float *h, const unsigned char *row, int n, int n_padded)
{
    for (int i = 0; i < n; i += QE_Q8_0_BLOCK, row += QE_Q8_0_BYTES) {
        const float scale = qe_float_of_f16(qe_q8_0_scale(row));
        const int8_t *values = qe_q8_0_values(row);
        for (int j = 0; j < QE_Q8_0_BLOCK; j++) {
            h[i + j] = scale * values[j];
        }
    }
    memset(h + n, 0, (size_t)(n_padded - n) * sizeof *h);
}

struct summing {
    int16_t *sums;
    const unsigned char *rows;
    int n, k;
};

static void
sum_rows_task(void *context, int task, int worker)
{
    const struct summing *s = context;
    const int n_blocks = s->k / QE_Q8_0_BLOCK;
    const int stride = ceil_div(s->k, QE_GROUP) * QE_Q8_0_BLOCKS;
    const int end = smaller((task + 1) * TASK_ROWS, s->n);
    (void)worker;

    for (int i = task * TASK_ROWS; i < end; i++) {
        const unsigned char *block = s->rows + (size_t)i * n_blocks * QE_Q8_0_BYTES;
        for (int b = 0; b < stride; b++) {
            int sum = 0;
            for (int j = 0; b < n_blocks && j < QE_Q8_0_BLOCK; j++) {
                sum += qe_q8_0_values(block)[j];
            }
            s->sums[(size_t)i * stride + b] = (int16_t)sum;
            block += b < n_blocks ? QE_Q8_0_BYTES : 0;
        }
    }
}

void
qe_q8_0_sum(int16_t *sums, const unsigned char *rows, int n, int k,
            struct qe_threads *threads)
{
    struct summing s = {.sums = sums, .rows = rows, .n = n, .k = k};

    qe_threads_run(threads, ceil_div(n, TASK_ROWS), sum_rows_task, &s, NULL);
}
