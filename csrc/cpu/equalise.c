/* equalise.c: computes mean squares of columns and rows, and scales from them. The
 * order of summation does not depend on threads or instruction set, so the same weights
 * give the same int8 on every machine. Sums in fp32 are precise enough, because only
 * the exponents of their quotients are used; squares of bf16 are exact in fp32. */
#include "equalise.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vec.h"

#define TASK_COLUMNS 64 /* columns that one task sums over all rows */
#define TASK_ROWS 32
#define MAX_EMBEDDINGS 4096 /* sampled for the mean square of the table */

/* Mean squares of outputs relative to inputs. Attention: an average of about four
 * independent values. SiLU: of a standard normal variable. */
#define ATTENTION_SHARE 0.25
#define SILU_SHARE 0.36

static int
larger(int a, int b)
{
    return a > b ? a : b;
}

static int
q_width(const struct qe_config *c)
{
    return c->n_heads * c->head_dim;
}

static int
kv_width(const struct qe_config *c)
{
    return c->n_kv_heads * c->head_dim;
}

static int
max_width(const struct qe_config *c)
{
    return larger(c->hidden_size, larger(c->intermediate_size, q_width(c)));
}

size_t
qe_moments_doubles(const struct qe_config *c)
{
    return (size_t)2 * c->hidden_size + (size_t)5 * max_width(c);
}

struct qe_moments
qe_moments_at(const struct qe_config *c, double *memory)
{
    double *rest = memory + 2 * c->hidden_size;
    int width = max_width(c);

    return (struct qe_moments){
        .stream = memory,
        .input = memory + c->hidden_size,
        .inner = rest,
        .other = rest + width,
        .columns = rest + 2 * width,
        .total = rest + 3 * width,
        .sorted = rest + 4 * width,
    };
}

/* Loads n bf16, at most sixteen, then zeros. */
static vec
load_some(const unsigned char *bf16, int n)
{
    qe_bf16 some[QE_LANES] = {0};

    if (n >= QE_LANES) {
        return vec_load_bf16(bf16);
    }
    memcpy(some, bf16, (size_t)(n > 0 ? n : 0) * sizeof *some);
    return vec_load_bf16(some);
}

/* ---- sums of squares ---- */

struct summing {
    const unsigned char *matrix; /* (n, k) bf16                                    */
    int n, k;
    const double *input; /* (k) mean squares of what the rows multiply, or NULL    */
    double *sums;        /* (k) over columns, or (n) over rows, weighted by input  */
};

static void
sum_columns_task(void *context, int task, int worker)
{
    const struct summing *s = context;
    int begin = task * TASK_COLUMNS;
    int n = s->k - begin < TASK_COLUMNS ? s->k - begin : TASK_COLUMNS;
    vec sums[TASK_COLUMNS / QE_LANES] = {{0}};
    float lanes[TASK_COLUMNS];
    (void)worker;

    for (int i = 0; i < s->n; i++) {
        const unsigned char *row = s->matrix + 2 * ((size_t)i * s->k + begin);
        for (int j = 0; j < TASK_COLUMNS / QE_LANES; j++) {
            vec x = load_some(row + 2 * QE_LANES * j, n - QE_LANES * j);
            sums[j] += x * x;
        }
    }
    memcpy(lanes, sums, sizeof lanes);
    for (int j = 0; j < n; j++) {
        s->sums[begin + j] = lanes[j];
    }
}

static void
sum_rows_task(void *context, int task, int worker)
{
    const struct summing *s = context;
    int end = (task + 1) * TASK_ROWS < s->n ? (task + 1) * TASK_ROWS : s->n;
    (void)worker;

    for (int i = task * TASK_ROWS; i < end; i++) {
        s->sums[i] = 0.0;
    }
    for (int k0 = 0; k0 < s->k; k0 += TASK_COLUMNS) {
        int n = s->k - k0 < TASK_COLUMNS ? s->k - k0 : TASK_COLUMNS;
        float input[TASK_COLUMNS] = {0};
        for (int j = 0; j < n; j++) {
            input[j] = (float)s->input[k0 + j];
        }
        for (int i = task * TASK_ROWS; i < end; i++) {
            const unsigned char *row = s->matrix + 2 * ((size_t)i * s->k + k0);
            vec sum = {0};
            for (int j = 0; j < TASK_COLUMNS; j += QE_LANES) {
                vec x = load_some(row + 2 * j, n - j);
                sum += x * x * vec_load(input + j);
            }
            s->sums[i] += vec_sum(sum);
        }
    }
}

static void
sum_columns(const void *matrix, int n, int k, double *sums, struct qe_threads *threads)
{
    struct summing s = {.matrix = matrix, .n = n, .k = k, .sums = sums};

    qe_threads_run(threads, (k + TASK_COLUMNS - 1) / TASK_COLUMNS, sum_columns_task, &s,
                   NULL);
}

/* sums (n) <- the mean squares of the matrix times its input, if the input's channels
 * are independent. */
static void
sum_rows(const void *matrix, int n, int k, const double *input, double *sums,
         struct qe_threads *threads)
{
    struct summing s = {.matrix = matrix, .n = n, .k = k, .input = input, .sums = sums};

    qe_threads_run(threads, (n + TASK_ROWS - 1) / TASK_ROWS, sum_rows_task, &s, NULL);
}

/* ---- scales ---- */

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* scales (n) <- the fourth root of activations / columns, both mean squares, relative
 * to the median of that quotient, rounded to the nearest power of two. Rounding uses
 * the exponent alone, because logarithms differ between C libraries. Overwrites columns
 * with the quotients. */
static void
choose_scales(float *scales, const double *activations, double *columns, double *sorted,
              int n)
{
    for (int i = 0; i < n; i++) {
        bool usable = activations[i] > 0x1p-200 && activations[i] < 0x1p200 &&
                      columns[i] > 0x1p-200 && columns[i] < 0x1p200;
        columns[i] = usable ? activations[i] / columns[i] : 0.0;
        sorted[i] = columns[i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    double median = sorted[n / 2];
    for (int i = 0; i < n; i++) {
        int exponent;
        scales[i] = 1.0f;
        if (columns[i] > 0.0 && median > 0.0) {
            frexp(columns[i] / median, &exponent);
            exponent--; /* the quotient is in [2^exponent, 2^(exponent + 1)) */
            if (exponent < -4 || exponent >= 4) {
                int fourth = (exponent + 2 + 4096) / 4 - 1024; /* rounded down */
                scales[i] = ldexpf(1.0f, fourth > 20    ? 20
                                         : fourth < -20 ? -20
                                                        : fourth);
            }
        }
    }
}

/* m->input (C) <- the mean squares of the norm's output. */
static void
norm_input(const struct qe_config *c, const float *norm, struct qe_moments *m)
{
    double mean = 0.0;

    for (int i = 0; i < c->hidden_size; i++) {
        mean += m->stream[i];
    }
    mean /= c->hidden_size;
    for (int i = 0; i < c->hidden_size; i++) {
        m->input[i] = m->stream[i] / mean * ((double)norm[i] * norm[i]);
    }
}

/* m->total (k) += the sums of squares of the matrix's columns. */
static void
add_columns(const void *matrix, int n, int k, struct qe_moments *m,
            struct qe_threads *threads)
{
    sum_columns(matrix, n, k, m->columns, threads);
    for (int i = 0; i < k; i++) {
        m->total[i] += m->columns[i];
    }
}

static void
equalise_attention(const struct qe_config *c, const struct qe_layer *layer,
                   struct qe_moments *m, struct qe_equaliser *e,
                   struct qe_threads *threads)
{
    const int C = c->hidden_size, width = q_width(c);
    const int n_values = kv_width(c);
    const int group = c->n_heads / c->n_kv_heads;

    norm_input(c, layer->input_layernorm, m);
    memset(m->total, 0, C * sizeof *m->total);
    add_columns(layer->q_proj, width, C, m, threads);
    add_columns(layer->k_proj, n_values, C, m, threads);
    add_columns(layer->v_proj, n_values, C, m, threads);
    choose_scales(e->attention_input, m->input, m->total, m->sorted, C);

    /* All heads of a group read the same kv head, so they share its scales. */
    sum_rows(layer->v_proj, n_values, C, m->input, m->other, threads);
    sum_columns(layer->o_proj, C, width, m->columns, threads);
    for (int i = 0; i < n_values; i++) {
        const int at = i / c->head_dim * group * c->head_dim + i % c->head_dim;
        m->total[i] = 0.0;
        for (int h = 0; h < group; h++) {
            m->total[i] += m->columns[at + h * c->head_dim];
            m->inner[at + h * c->head_dim] = m->other[i] * ATTENTION_SHARE;
        }
    }
    choose_scales(e->value, m->other, m->total, m->sorted, n_values);
    for (int i = 0; i < width; i++) {
        e->output[i] =
            e->value[i / (group * c->head_dim) * c->head_dim + i % c->head_dim];
    }
    sum_rows(layer->o_proj, C, width, m->inner, m->columns, threads);
    for (int i = 0; i < C; i++) {
        m->stream[i] += m->columns[i];
    }
}

static void
equalise_mlp(const struct qe_config *c, const struct qe_layer *layer,
             struct qe_moments *m, struct qe_equaliser *e, struct qe_threads *threads)
{
    const int C = c->hidden_size, I = c->intermediate_size;

    norm_input(c, layer->post_attention_layernorm, m);
    memset(m->total, 0, C * sizeof *m->total);
    add_columns(layer->gate_proj, I, C, m, threads);
    add_columns(layer->up_proj, I, C, m, threads);
    choose_scales(e->mlp_input, m->input, m->total, m->sorted, C);

    sum_rows(layer->gate_proj, I, C, m->input, m->inner, threads);
    sum_rows(layer->up_proj, I, C, m->input, m->other, threads);
    for (int i = 0; i < I; i++) {
        m->inner[i] *= m->other[i] * SILU_SHARE;
    }
    sum_columns(layer->down_proj, C, I, m->columns, threads);
    choose_scales(e->activation, m->inner, m->columns, m->sorted, I);
    sum_rows(layer->down_proj, C, I, m->inner, m->columns, threads);
    for (int i = 0; i < C; i++) {
        m->stream[i] += m->columns[i];
    }
}

void
qe_equalise_begin(const struct qe_config *c, const void *embed_tokens,
                  struct qe_moments *m)
{
    const unsigned char *rows = embed_tokens;
    const int C = c->hidden_size;
    int step = (c->vocab_size + MAX_EMBEDDINGS - 1) / MAX_EMBEDDINGS;

    memset(m->stream, 0, C * sizeof *m->stream);
    for (int row = 0; row < c->vocab_size; row += step) {
        for (int i = 0; i < C; i += QE_LANES) {
            float x[QE_LANES];
            vec_store(x, load_some(rows + 2 * ((size_t)row * C + i), C - i));
            for (int j = 0; j < QE_LANES && i + j < C; j++) {
                m->stream[i + j] += (double)x[j] * x[j] / MAX_EMBEDDINGS;
            }
        }
    }
}

void
qe_equalise_layer(const struct qe_config *c, const struct qe_layer *layer,
                  struct qe_moments *m, struct qe_equaliser *e,
                  struct qe_threads *threads)
{
    equalise_attention(c, layer, m, e, threads);
    equalise_mlp(c, layer, m, e, threads);
}

int
qe_equalise_model(const struct qe_model *model, int n_threads, float **floats,
                  struct qe_error *err)
{
    const struct qe_config *c = &model->config;
    const size_t n_floats = qe_equaliser_floats(c);
    double *doubles = malloc(qe_moments_doubles(c) * sizeof *doubles);
    struct qe_threads *threads = NULL;

    *floats = malloc(c->n_layers * n_floats * sizeof **floats);
    int status = *floats == NULL || doubles == NULL
                     ? qe_fail(err, QE_ENOMEM, "int8: no memory to equalise channels")
                     : qe_threads_open(n_threads, &threads, err);
    if (status < 0) {
        free(doubles);
        free(*floats);
        *floats = NULL;
        return status;
    }
    struct qe_moments moments = qe_moments_at(c, doubles);
    qe_equalise_begin(c, model->weights.embed_tokens, &moments);
    for (int l = 0; l < c->n_layers; l++) {
        struct qe_equaliser equaliser = qe_equaliser_at(c, *floats + l * n_floats);
        qe_equalise_layer(c, &model->weights.layers[l], &moments, &equaliser, threads);
    }
    qe_threads_close(threads);
    free(doubles);
    return 0;
}
