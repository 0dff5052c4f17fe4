/* gemm.c: cuts a product into tasks and runs them on the workers.
 *
 * A product is one run of the pool: before its first task, each worker helps to pack X,
 * piece by piece. Packing in a run of its own would take as long as a small product. */
#include "gemm.h"

#include <string.h>

#include "../arithmetic.h"
#include "q8_0.h"

#define MAX_TASK_M 512 /* most rows of X in a task; isa->max_task_m says how many */
#define MAX_TASK_N 96  /* rows of W in a task; rows of each tile */
#define TASK_N_STEP 8  /* by which choose_task_n() lowers it */
#define STRIP_ROWS 6   /* rows that the kernels process together */
#define TASK_K 1024    /* columns summed before the sums go to the tile */
#define PIECE_K 512    /* columns packed per piece, of one block of 16 rows of X */

struct product {
    const struct qe_gemm *gemm;
    const struct qe_isa *isa;
    bool is_int8;           /* or Q8_0 */
    int k_padded;           /* to a multiple of QE_K_STEP, or of QE_GROUP for int8  */
    size_t value_bytes;     /* of one value in the panel                            */
    unsigned char *panel;   /* (round_up(m, 16) / 16, k_padded, 16) values, see isa.h */
    float *scales;          /* (round_up(m, 16) / 16, k_padded / QE_GROUP, 16)      */
    unsigned char *workers; /* (n_threads) struct scratch */
    int task_m, task_n;
    size_t ldt; /* between rows of a tile: an odd number of cache lines, which spreads
                   them over all cache sets */
    int n_tasks_n; /* tasks per part of X: they cover all rows of W */
    int n_pieces;  /* of X                                                */
    atomic_int next_piece, n_packed;
};

/* The private buffers of one worker. */
struct scratch {
    /* Sums of gate and up; otherwise only the first is used. Rows lie ldt floats apart.
     */
    float tile[2][MAX_TASK_N * (MAX_TASK_M + QE_PANEL_ROWS)];
    unsigned char
        tail[MAX_TASK_N * QE_Q8_0_GROUP_BYTES]; /* last columns of W, padded */
};

/* The size of the largest panel: a value takes at most as many bytes as bf16. */
static size_t
panel_bytes(int m, int k)
{
    return round_up(m, QE_PANEL_ROWS) * round_up(k, QE_GROUP) * sizeof(qe_bf16);
}

static size_t
scale_bytes(int m, int k)
{
    return round_up(m, QE_PANEL_ROWS) * ceil_div(k, QE_GROUP) * sizeof(float);
}

size_t
qe_gemm_scratch_bytes(int max_m, int max_k, int n_threads)
{
    return panel_bytes(max_m, max_k) + scale_bytes(max_m, max_k) +
           (size_t)n_threads * sizeof(struct scratch);
}

static void
pack_piece(const struct product *p, int piece)
{
    const struct qe_gemm *g = p->gemm;
    int n_pieces_k = ceil_div(p->k_padded, PIECE_K);
    int row = piece / n_pieces_k * QE_PANEL_ROWS;
    int k0 = piece % n_pieces_k * PIECE_K;
    size_t at = (size_t)row * p->k_padded + (size_t)k0 * QE_PANEL_ROWS;
    const qe_bf16 *x = g->x + (size_t)row * g->ldx + k0;
    int n_rows = smaller(QE_PANEL_ROWS, g->m - row);
    int n_k = smaller(PIECE_K, g->k - k0);
    int k_padded = smaller(PIECE_K, p->k_padded - k0);

    if (p->is_int8) {
        p->isa->pack_int8(p->panel + at * p->value_bytes, p->scales + at / QE_GROUP, x,
                          g->ldx * sizeof *x, n_rows, n_k, k_padded);
    } else {
        p->isa->pack((qe_bf16 *)p->panel + at, x, g->ldx * sizeof *x, n_rows, n_k,
                     k_padded);
    }
}

/* Packs pieces until none is left, then waits for those that other threads have begun.
 * They are running, so the wait ends. */
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

/* tail (n, width_bytes) <- the last n_bytes of each of n rows, then zeros. */
static void
copy_tail(unsigned char *tail, size_t width_bytes, const unsigned char *w,
          size_t row_bytes, size_t n_bytes, int n)
{
    memset(tail, 0, n * width_bytes);
    for (int i = 0; i < n; i++) {
        memcpy(tail + i * width_bytes, w + (i + 1) * row_bytes - n_bytes, n_bytes);
    }
}

/* tile (n, m), rows ldt apart, = rows of W times rows of X. w (n, k) bf16; rows
 * of X from m0 on. */
static void
fill_tile_bf16(const struct product *p, float *tile, unsigned char *tail,
               const unsigned char *w, int n, int m0, int m)
{
    int k = p->gemm->k;
    int whole_k = k - k % QE_K_STEP;
    size_t block_stride = (size_t)p->k_padded * QE_PANEL_ROWS;
    const qe_bf16 *panel = (const qe_bf16 *)p->panel + (size_t)m0 * p->k_padded;

    for (int k0 = 0; k0 < whole_k; k0 += TASK_K) {
        p->isa->multiply(tile, p->ldt, w + 2 * (size_t)k0, (size_t)k, n,
                         panel + (size_t)k0 * QE_PANEL_ROWS, block_stride, m,
                         smaller(TASK_K, whole_k - k0), k0 > 0);
    }
    if (whole_k < k) {
        copy_tail(tail, 2 * QE_K_STEP, w, 2 * (size_t)k, 2 * (size_t)(k - whole_k), n);
        p->isa->multiply(tile, p->ldt, tail, QE_K_STEP, n,
                         panel + (size_t)whole_k * QE_PANEL_ROWS, block_stride, m,
                         QE_K_STEP, whole_k > 0);
    }
}

/* The same with int8 weights: n rows of w, from row on. */
static void
fill_tile_int8(const struct product *p, float *tile, unsigned char *tail,
               const struct qe_matrix *w, int row, int n, int m0, int m)
{
    int k = p->gemm->k;
    int n_groups = ceil_div(k, QE_GROUP);
    int whole_k = k - k % QE_GROUP;
    struct qe_int8_rows rows = {
        .row_bytes = (size_t)k,
        .scales = w->scales + row,
        .offset_stride = (size_t)n_groups,
    };
    struct qe_int8_panel panel = {
        .block_bytes = (size_t)p->k_padded * QE_PANEL_ROWS * p->value_bytes,
        .scale_stride = (size_t)n_groups * QE_PANEL_ROWS,
    };

    for (int k0 = 0, part_k; k0 < k; k0 += part_k) {
        int g0 = k0 / QE_GROUP;
        part_k = k0 < whole_k ? smaller(TASK_K, whole_k - k0) : QE_GROUP;
        rows.values = (const int8_t *)w->rows + (size_t)row * k + k0;
        rows.offsets =
            w->offsets == NULL ? NULL : w->offsets + (size_t)row * n_groups + g0;
        if (k0 == whole_k) {
            copy_tail(tail, QE_GROUP, (const unsigned char *)w->rows + (size_t)row * k,
                      (size_t)k, (size_t)(k - whole_k), n);
            rows.values = (const int8_t *)tail;
            rows.row_bytes = QE_GROUP;
        }
        panel.values =
            p->panel +
            ((size_t)m0 * p->k_padded + (size_t)k0 * QE_PANEL_ROWS) * p->value_bytes;
        panel.scales = p->scales + (size_t)m0 * n_groups + (size_t)g0 * QE_PANEL_ROWS;
        p->isa->multiply_int8(tile, p->ldt, &rows, n, &panel, m, part_k / QE_GROUP,
                              k0 > 0, k0 + part_k >= k);
    }
}

/* The same of Q8_0. */
static void
fill_tile_q8_0(const struct product *p, float *tile, unsigned char *tail,
               const struct qe_matrix *w, int row, int n, int m0, int m)
{
    const int k = p->gemm->k, n_groups = ceil_div(k, QE_GROUP);
    const int whole_k = k - k % QE_GROUP;
    const size_t row_bytes = qe_q8_0_bytes(k);
    const unsigned char *blocks = (const unsigned char *)w->rows + row * row_bytes;
    struct qe_q8_0_rows rows = {.row_bytes = row_bytes,
                                .sum_stride = (size_t)n_groups * QE_Q8_0_BLOCKS};
    struct qe_int8_panel panel = {
        .block_bytes = (size_t)p->k_padded * QE_PANEL_ROWS * p->value_bytes,
        .scale_stride = (size_t)n_groups * QE_PANEL_ROWS,
    };

    for (int k0 = 0, part_k; k0 < k; k0 += part_k) {
        const size_t g0 = (size_t)k0 / QE_GROUP;
        part_k = k0 < whole_k ? smaller(TASK_K, whole_k - k0) : QE_GROUP;
        rows.blocks = blocks + g0 * QE_Q8_0_GROUP_BYTES;
        rows.sums = w->sums + (row * (size_t)n_groups + g0) * QE_Q8_0_BLOCKS;
        if (k0 == whole_k) {
            copy_tail(tail, QE_Q8_0_GROUP_BYTES, blocks, row_bytes,
                      row_bytes - g0 * QE_Q8_0_GROUP_BYTES, n);
            rows.blocks = tail;
            rows.row_bytes = QE_Q8_0_GROUP_BYTES;
        }
        panel.values =
            p->panel +
            ((size_t)m0 * p->k_padded + (size_t)k0 * QE_PANEL_ROWS) * p->value_bytes;
        panel.scales = p->scales + (size_t)m0 * n_groups + g0 * QE_PANEL_ROWS;
        p->isa->multiply_q8_0(tile, p->ldt, &rows, n, &panel, m, part_k / QE_GROUP,
                              k0 > 0);
    }
}

static void
fill_tile(const struct product *p, float *tile, unsigned char *tail,
          const struct qe_matrix *w, int row, int n, int m0, int m)
{
    if (w->sums != NULL) {
        fill_tile_q8_0(p, tile, tail, w, row, n, m0, m);
    } else if (p->is_int8) {
        fill_tile_int8(p, tile, tail, w, row, n, m0, m);
    } else {
        fill_tile_bf16(p, tile, tail,
                       (const unsigned char *)w->rows + 2 * (size_t)row * p->gemm->k, n,
                       m0, m);
    }
}

/* Finds the rows of W that a task multiplies: n rows of *w from *row on, whose results
 * begin at *column of Y. Returns n. */
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
    size_t y_at = (size_t)m0 * g->ldy + column;

    pack_x(p);
    fill_tile(p, scratch->tile[0], scratch->tail, w, row, n, m0, m);
    if (g->epilogue == QE_SWIGLU) {
        fill_tile(p, scratch->tile[1], scratch->tail, &g->w[1], row, n, m0, m);
        p->isa->swiglu((qe_bf16 *)g->y + y_at, g->ldy, scratch->tile[0],
                       scratch->tile[1], p->ldt, m, n);
    } else {
        p->isa->store((float *)g->y + y_at, g->ldy, scratch->tile[0], p->ldt, m, n,
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

/* The task size that minimises the time of the slowest worker, if all rows take the
 * same time. Each task costs about two rows more, and on average workers wait half a
 * task for the last one. */
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
    bool is_int8 = gemm->w[0].scales != NULL || gemm->w[0].sums != NULL;
    int k_padded = (int)round_up(gemm->k, is_int8 ? QE_GROUP : QE_K_STEP);
    int n_blocks = ceil_div(gemm->m, QE_PANEL_ROWS);
    int n_tasks_m = ceil_div(gemm->m, isa->max_task_m);
    struct product p = {
        .gemm = gemm,
        .isa = isa,
        .is_int8 = is_int8,
        .k_padded = k_padded,
        .value_bytes = is_int8 ? (size_t)isa->int8_bytes : sizeof(qe_bf16),
        .panel = scratch,
        .scales = (float *)(scratch + panel_bytes(gemm->m, gemm->k)),
        .workers =
            scratch + panel_bytes(gemm->m, gemm->k) + scale_bytes(gemm->m, gemm->k),
        .task_m = ceil_div(n_blocks, n_tasks_m) * QE_PANEL_ROWS,
        .task_n = choose_task_n(gemm, n_tasks_m, qe_threads_count(threads)),
        .n_pieces = n_blocks * ceil_div(k_padded, PIECE_K),
    };

    p.ldt = (size_t)(p.task_m / QE_PANEL_ROWS | 1) * QE_PANEL_ROWS;
    p.n_tasks_n = count_tasks_n(gemm, p.task_n);
    qe_threads_run(threads, n_tasks_m * p.n_tasks_n, multiply_task, &p, cancel);
}
