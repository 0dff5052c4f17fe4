/* gemm_bf16.c: cuts a product into tasks and runs them over the workers. */
#include "gemm_bf16.h"

#include <string.h>

#define MAX_TASK_M 256 /* rows of X in a task: its panel stays in the L2 cache */
#define MAX_TASK_N 96  /* rows of W in a task, and of each tile                */
#define TASK_N_STEP 24 /* a multiple of every strip's rows (6, 8)              */
#define TASK_K 1024    /* columns summed before the sums wait in the tile      */

struct product {
    const struct qe_gemm *gemm;
    const struct qe_isa *isa;
    qe_bf16 *panel; /* (round_up(m, 16) / 16, k_padded / 2, 16, 2) */
    int k_padded;
    unsigned char *workers; /* (n_threads) struct scratch */
    int task_n;
    int n_tasks_n; /* tasks over all rows of W that go with one part of X */
};

/* What a worker needs for itself. */
struct scratch {
    float tile[2][MAX_TASK_N * MAX_TASK_M]; /* for gate and up, or only the first */
    qe_bf16 tail[MAX_TASK_N * QE_K_STEP];   /* the last columns of W, zero-padded */
};

static int
smaller(int a, int b)
{
    return a < b ? a : b;
}

static int
ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static size_t
panel_bytes(int m, int k)
{
    return (size_t)ceil_div(m, QE_PANEL_ROWS) * QE_PANEL_ROWS *
           (size_t)ceil_div(k, QE_K_STEP) * QE_K_STEP * sizeof(qe_bf16);
}

size_t
qe_gemm_scratch_bytes(int max_m, int max_k, int n_threads)
{
    return panel_bytes(max_m, max_k) + (size_t)n_threads * sizeof(struct scratch);
}

static void
pack_task(void *context, int index, int worker)
{
    const struct product *p = context;
    const struct qe_gemm *g = p->gemm;
    int row = index * QE_PANEL_ROWS;

    (void)worker;
    p->isa->pack(p->panel + (size_t)row * p->k_padded, g->x + (size_t)row * g->ldx,
                 g->ldx * sizeof *g->x, smaller(QE_PANEL_ROWS, g->m - row), g->k,
                 p->k_padded);
}

/* tile (n, 16 * n_blocks), rows MAX_TASK_M apart, = rows of W times rows of X.
 * w (n, k); panel (n_blocks, k_padded / 2, 16, 2). */
static void
fill_tile(const struct product *p, float *tile, qe_bf16 *tail, const unsigned char *w,
          int n, const qe_bf16 *panel, int n_blocks)
{
    int k = p->gemm->k;
    int whole_k = k - k % QE_K_STEP;
    size_t block_stride = (size_t)p->k_padded * QE_PANEL_ROWS;

    for (int k0 = 0; k0 < whole_k; k0 += TASK_K) {
        p->isa->multiply(tile, MAX_TASK_M, w + 2 * (size_t)k0, (size_t)k, n,
                         panel + (size_t)k0 * QE_PANEL_ROWS, block_stride, n_blocks,
                         smaller(TASK_K, whole_k - k0), k0 > 0);
    }
    if (whole_k == k) {
        return;
    }
    memset(tail, 0, (size_t)n * QE_K_STEP * sizeof *tail);
    for (int i = 0; i < n; i++) {
        memcpy(tail + (size_t)i * QE_K_STEP, w + 2 * ((size_t)i * k + whole_k),
               2 * (size_t)(k - whole_k));
    }
    p->isa->multiply(tile, MAX_TASK_M, tail, QE_K_STEP, n,
                     panel + (size_t)whole_k * QE_PANEL_ROWS, block_stride, n_blocks,
                     QE_K_STEP, whole_k > 0);
}

/* Rows of the task'th part of W: *w, the first of them, n of them; *column in Y. */
static int
find_rows(const struct product *p, int task, const struct qe_matrix **w, int *row,
          int *column)
{
    const struct qe_matrix *matrix = p->gemm->w;
    int n_before = 0;

    while (task >= ceil_div(matrix->n, p->task_n)) {
        task -= ceil_div(matrix->n, p->task_n);
        n_before += matrix->n;
        matrix++;
    }
    *w = matrix;
    *row = task * p->task_n;
    *column = n_before + *row;
    return smaller(p->task_n, matrix->n - *row);
}

static void
multiply_task(void *context, int index, int worker)
{
    const struct product *p = context;
    const struct qe_gemm *g = p->gemm;
    struct scratch *scratch = (struct scratch *)p->workers + worker;
    const struct qe_matrix *w;
    int row, column;
    int m0 = index / p->n_tasks_n * MAX_TASK_M;
    int m = smaller(MAX_TASK_M, g->m - m0);
    int n = find_rows(p, index % p->n_tasks_n, &w, &row, &column);
    const qe_bf16 *panel = p->panel + (size_t)m0 * p->k_padded;
    int n_blocks = ceil_div(m, QE_PANEL_ROWS);
    size_t w_bytes = 2 * (size_t)row * g->k;
    size_t y_at = (size_t)m0 * g->ldy + column;

    fill_tile(p, scratch->tile[0], scratch->tail,
              (const unsigned char *)w->rows + w_bytes, n, panel, n_blocks);
    if (g->epilogue == QE_SWIGLU) {
        fill_tile(p, scratch->tile[1], scratch->tail,
                  (const unsigned char *)g->w[1].rows + w_bytes, n, panel, n_blocks);
        p->isa->swiglu((qe_bf16 *)g->y + y_at, g->ldy, scratch->tile[0],
                       scratch->tile[1], MAX_TASK_M, m, n);
    } else {
        p->isa->store((float *)g->y + y_at, g->ldy, scratch->tile[0], MAX_TASK_M, m, n,
                      g->epilogue == QE_ADD);
    }
}

static int
count_tasks_n(const struct qe_gemm *gemm, int task_n)
{
    int n_w = gemm->epilogue == QE_SWIGLU ? 1 : gemm->n_w;
    int n_tasks = 0;

    for (int i = 0; i < n_w; i++) {
        n_tasks += ceil_div(gemm->w[i].n, task_n);
    }
    return n_tasks;
}

/* The task size with the shortest longest worker, if all tasks took the same time; the
 * larger of equals, since a task has a cost of its own, of about two rows. */
static int
choose_task_n(const struct qe_gemm *gemm, int n_threads)
{
    int n_tasks_m = ceil_div(gemm->m, MAX_TASK_M);
    long best = 0;
    int best_n = 0;

    for (int task_n = MAX_TASK_N; task_n > 0; task_n -= TASK_N_STEP) {
        int n_tasks = n_tasks_m * count_tasks_n(gemm, task_n);
        long cost = (long)ceil_div(n_tasks, n_threads) * (task_n + 2);
        if (best_n == 0 || cost < best) {
            best = cost;
            best_n = task_n;
        }
    }
    return best_n;
}

void
qe_gemm_run(const struct qe_gemm *gemm, const struct qe_isa *isa,
            struct qe_threads *threads, unsigned char *scratch,
            const atomic_int *cancel)
{
    struct product p = {
        .gemm = gemm,
        .isa = isa,
        .panel = (qe_bf16 *)scratch,
        .k_padded = ceil_div(gemm->k, QE_K_STEP) * QE_K_STEP,
        .workers = scratch + panel_bytes(gemm->m, gemm->k),
        .task_n = choose_task_n(gemm, qe_threads_count(threads)),
    };

    p.n_tasks_n = count_tasks_n(gemm, p.task_n);
    qe_threads_run(threads, ceil_div(gemm->m, QE_PANEL_ROWS), pack_task, &p, cancel);
    qe_threads_run(threads, ceil_div(gemm->m, MAX_TASK_M) * p.n_tasks_n, multiply_task,
                   &p, cancel);
}
