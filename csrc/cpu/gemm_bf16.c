/* gemm_bf16.c: cuts a product into tasks and runs them over the workers.
 *
 * A product is one job: its workers pack X together, in pieces, before the first task
 * of each, since a job of its own would cost as much as a small product. */
#include "gemm_bf16.h"

#include <string.h>

#include "../arithmetic.h"

#define MAX_TASK_M 256 /* rows of X in a task: its panel stays in the L2 cache */
#define MAX_TASK_N 96  /* rows of W in a task, and of each tile                */
#define TASK_N_STEP 8  /* of the choice of fewer                               */
#define STRIP_ROWS 6   /* that kernels run together: others are cut to waste   */
#define TASK_K 1024    /* columns summed before the sums wait in the tile      */
#define PIECE_K 512    /* columns of X, of one block of rows, that are packed at once */

struct product {
    const struct qe_gemm *gemm;
    const struct qe_isa *isa;
    qe_bf16 *panel; /* (round_up(m, 16) / 16, k_padded / 2, 16, 2) */
    int k_padded;
    unsigned char *workers; /* (n_threads) struct scratch */
    int task_m, task_n;
    int n_tasks_n; /* tasks over all rows of W that go with one part of X */
    int n_pieces;  /* of X                                                */
    atomic_int next_piece, n_packed;
};

/* What a worker needs for itself. */
struct scratch {
    float tile[2][MAX_TASK_N * MAX_TASK_M]; /* for gate and up, or only the first */
    qe_bf16 tail[MAX_TASK_N * QE_K_STEP];   /* the last columns of W, zero-padded */
};

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
pack_piece(const struct product *p, int piece)
{
    const struct qe_gemm *g = p->gemm;
    int n_pieces_k = ceil_div(p->k_padded, PIECE_K);
    int row = piece / n_pieces_k * QE_PANEL_ROWS;
    int k0 = piece % n_pieces_k * PIECE_K;

    p->isa->pack(p->panel + (size_t)row * p->k_padded + (size_t)k0 * QE_PANEL_ROWS,
                 g->x + (size_t)row * g->ldx + k0, g->ldx * sizeof *g->x,
                 smaller(QE_PANEL_ROWS, g->m - row), smaller(PIECE_K, g->k - k0),
                 smaller(PIECE_K, p->k_padded - k0));
}

/* Returns once all of X is packed. Pieces begun are being packed by running threads. */
static void
pack_x(struct product *p)
{
    if (atomic_load(&p->n_packed) == p->n_pieces) {
        return;
    }
    int piece = atomic_fetch_add(&p->next_piece, 1);
    while (piece < p->n_pieces) {
        pack_piece(p, piece);
        atomic_fetch_add(&p->n_packed, 1);
        piece = atomic_fetch_add(&p->next_piece, 1);
    }
    qe_threads_wait(&p->n_packed, p->n_pieces);
}

/* tile (n, m), rows MAX_TASK_M apart, = rows of W times rows of X. w (n, k); panel
 * (ceil(m / 16), k_padded / 2, 16, 2). */
static void
fill_tile(const struct product *p, float *tile, qe_bf16 *tail, const unsigned char *w,
          int n, const qe_bf16 *panel, int m)
{
    int k = p->gemm->k;
    int whole_k = k - k % QE_K_STEP;
    size_t block_stride = (size_t)p->k_padded * QE_PANEL_ROWS;

    for (int k0 = 0; k0 < whole_k; k0 += TASK_K) {
        p->isa->multiply(tile, MAX_TASK_M, w + 2 * (size_t)k0, (size_t)k, n,
                         panel + (size_t)k0 * QE_PANEL_ROWS, block_stride, m,
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
                     panel + (size_t)whole_k * QE_PANEL_ROWS, block_stride, m,
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
    struct product *p = context;
    const struct qe_gemm *g = p->gemm;
    struct scratch *scratch = (struct scratch *)p->workers + worker;
    const struct qe_matrix *w;
    int row, column;
    int m0 = index / p->n_tasks_n * p->task_m;
    int m = smaller(p->task_m, g->m - m0);
    int n = find_rows(p, index % p->n_tasks_n, &w, &row, &column);
    const qe_bf16 *panel = p->panel + (size_t)m0 * p->k_padded;
    size_t w_bytes = 2 * (size_t)row * g->k;
    size_t y_at = (size_t)m0 * g->ldy + column;

    pack_x(p);
    fill_tile(p, scratch->tile[0], scratch->tail,
              (const unsigned char *)w->rows + w_bytes, n, panel, m);
    if (g->epilogue == QE_SWIGLU) {
        fill_tile(p, scratch->tile[1], scratch->tail,
                  (const unsigned char *)g->w[1].rows + w_bytes, n, panel, m);
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

/* The task size with the shortest longest worker, if all rows took the same time: a
 * task has a cost of its own, of about two rows, and the last one is waited for half
 * the time. */
static int
choose_task_n(const struct qe_gemm *gemm, int n_tasks_m, int n_threads)
{
    long best = 0;
    int best_n = 0;

    for (int task_n = MAX_TASK_N; task_n > 0; task_n -= TASK_N_STEP) {
        int n_tasks = n_tasks_m * count_tasks_n(gemm, task_n);
        int rows = ceil_div(task_n, STRIP_ROWS) * STRIP_ROWS + 2;
        long cost = (2L * ceil_div(n_tasks, n_threads) + 1) * rows;
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
    int k_padded = ceil_div(gemm->k, QE_K_STEP) * QE_K_STEP;
    int n_blocks = ceil_div(gemm->m, QE_PANEL_ROWS);
    int n_tasks_m = ceil_div(gemm->m, MAX_TASK_M);
    struct product p = {
        .gemm = gemm,
        .isa = isa,
        .panel = (qe_bf16 *)scratch,
        .k_padded = k_padded,
        .workers = scratch + panel_bytes(gemm->m, gemm->k),
        .task_m = ceil_div(n_blocks, n_tasks_m) * QE_PANEL_ROWS,
        .task_n = choose_task_n(gemm, n_tasks_m, qe_threads_count(threads)),
        .n_pieces = n_blocks * ceil_div(k_padded, PIECE_K),
    };

    p.n_tasks_n = count_tasks_n(gemm, p.task_n);
    qe_threads_run(threads, n_tasks_m * p.n_tasks_n, multiply_task, &p, cancel);
}
