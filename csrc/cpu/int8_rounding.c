/* int8_rounding.c: scales each row by its largest magnitude and rounds it. The result
 * is the same on every machine. */
#include "int8_rounding.h"

#include <string.h>

#include "../arithmetic.h"
#include "int8_scales.h"
#include "vec.h"

typedef int8_t bytes __attribute__((vector_size(QE_LANES)));

#define TASK_ROWS 8
#define PART_K 256 /* columns processed at a time */

/* part (PART_K) fp32 <- n columns of row i from k0 on, times r->columns, then zeros.
 * Updates each lane of top, the bits of the largest magnitude so far; NaN counts as the
 * largest. */
static void
load_part(const struct qe_rounding *r, int i, int k0, int n, float part[PART_K],
          ivec *top)
{
    const unsigned char *from =
        (const unsigned char *)r->from + 2 * ((size_t)i * r->k + k0);
    qe_bf16 padded[PART_K] = {0};
    float columns[PART_K] = {0};
    ivec largest = *top;

    if (n < PART_K) {
        memcpy(padded, from, (size_t)n * sizeof *padded);
        from = (const unsigned char *)padded;
    }
    if (r->columns != NULL) {
        memcpy(columns, r->columns + k0, (size_t)n * sizeof *columns);
    }
    for (int j = 0; j < PART_K; j += QE_LANES) {
        vec x = vec_load_bf16(from + 2 * j);
        x = r->columns == NULL ? x : x * vec_load(columns + j);
        vec_store(part + j, x);
        ivec magnitude = (ivec)x & 0x7fffffff;
        ivec larger = magnitude > largest;
        largest = (magnitude & larger) | (largest & ~larger);
    }
    *top = largest;
}

/* values (n) <- x (PART_K) times inverse, rounded to nearest, ties to even: adding
 * 1.5 * 2^23 to a value below 2^22 leaves no fraction bits. */
static void
round_part(int8_t *values, const float *x, float inverse, int n)
{
    const vec magic = vec_all(12582912.0f);
    int8_t rounded[PART_K];

    for (int j = 0; j < PART_K; j += QE_LANES) {
        ivec whole = (ivec)(vec_load(x + j) * inverse + magic) - (ivec)magic;
        bytes low = __builtin_convertvector(whole, bytes);
        memcpy(rounded + j, &low, sizeof low);
    }
    memcpy(values, rounded, (size_t)n);
}

static void
sum_groups(const struct qe_rounding *r, int i)
{
    const int8_t *values = r->values + (size_t)i * r->k;

    for (int g = 0; g < ceil_div(r->k, QE_GROUP); g++) {
        int end = (g + 1) * QE_GROUP < r->k ? (g + 1) * QE_GROUP : r->k;
        int32_t sum = 0;
        for (int j = g * QE_GROUP; j < end; j++) {
            sum += values[j];
        }
        r->offsets[(size_t)i * ceil_div(r->k, QE_GROUP) + g] = -r->int8_zero * sum;
    }
}

static void
round_row(const struct qe_rounding *r, int i)
{
    float part[PART_K], largest;
    ivec top = {0};
    int32_t bits = 0;

    for (int k0 = 0; k0 < r->k; k0 += PART_K) {
        int n = r->k - k0 < PART_K ? r->k - k0 : PART_K;
        load_part(r, i, k0, n, part, &top);
    }
    for (int j = 0; j < QE_LANES; j++) {
        bits = top[j] > bits ? top[j] : bits;
    }
    memcpy(&largest, &bits, sizeof largest);
    struct qe_int8_scale scale = qe_int8_scale_of(largest);
    r->scales[i] = r->rows == NULL ? scale.scale : scale.scale / r->rows[i];
    for (int k0 = 0; k0 < r->k; k0 += PART_K) {
        int n = r->k - k0 < PART_K ? r->k - k0 : PART_K;
        load_part(r, i, k0, n, part, &top);
        round_part(r->values + (size_t)i * r->k + k0, part, scale.inverse, n);
    }
}

static void
round_rows_task(void *context, int task, int worker)
{
    const struct qe_rounding *r = context;
    int end = smaller((task + 1) * TASK_ROWS, r->n);
    (void)worker;

    for (int i = task * TASK_ROWS; i < end; i++) {
        if (r->from != NULL) {
            round_row(r, i);
        }
        if (r->offsets != NULL) {
            sum_groups(r, i);
        }
    }
}

void
qe_int8_round(const struct qe_rounding *rounding, struct qe_threads *threads)
{
    qe_threads_run(threads, ceil_div(rounding->n, TASK_ROWS), round_rows_task,
                   (void *)rounding, NULL);
}

void
qe_int8_list(const struct qe_config *c, const struct qe_layer *layer,
             const struct qe_equaliser *e, struct qe_rounding list[QE_N_MATRICES])
{
    const int C = c->hidden_size, I = c->intermediate_size;
    const int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const struct qe_row_scales *s = &layer->scales;
    const struct {
        const void *matrix;
        const float *scales, *columns, *rows;
        int n, k;
    } parts[QE_N_MATRICES] = {
        {layer->q_proj, s->q_proj, e->attention_input, NULL, q, C},
        {layer->k_proj, s->k_proj, e->attention_input, NULL, kv, C},
        {layer->v_proj, s->v_proj, e->attention_input, e->value, kv, C},
        {layer->o_proj, s->o_proj, e->output, NULL, C, q},
        {layer->gate_proj, s->gate_proj, e->mlp_input, NULL, I, C},
        {layer->up_proj, s->up_proj, e->mlp_input, e->activation, I, C},
        {layer->down_proj, s->down_proj, e->activation, NULL, C, I},
    };

    for (int i = 0; i < QE_N_MATRICES; i++) {
        const bool is_int8 = parts[i].scales != NULL;
        list[i] = (struct qe_rounding){
            .from = is_int8 ? NULL : parts[i].matrix,
            .columns = parts[i].columns,
            .rows = parts[i].rows,
            .n = parts[i].n,
            .k = parts[i].k,
            .values = is_int8 ? (int8_t *)parts[i].matrix : NULL,
            .scales = (float *)parts[i].scales,
            .in_blocks = parts[i].scales == qe_in_blocks,
        };
    }
}
