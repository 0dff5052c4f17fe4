/* workspace.c: sizes the buffers and carves them out of one reservation. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */

#include "workspace.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "../arithmetic.h"
#include "gemm.h"
#include "ops.h"

#define ALIGN_BYTES 4096

/* Hands out the next n_bytes; with base NULL only counts. */
static void *
carve(unsigned char *base, size_t *used, size_t n_bytes)
{
    size_t at = *used;

    *used += round_up(n_bytes, ALIGN_BYTES);
    return base == NULL ? NULL : base + at;
}

static size_t
lay_out(struct qe_workspace *ws, const struct qe_config *c, int n_threads,
        size_t gemm_bytes, unsigned char *base)
{
    size_t t = (size_t)ws->max_tokens;
    size_t kv_width = (size_t)c->n_kv_heads * c->head_dim;
    /* A sequence's storage is padded, at its front by less than a key tile and at its
     * end by less than QE_K_STEP. */
    size_t n_stored = t + (size_t)ws->max_seqs * (QE_KEY_TILE - 1 + QE_K_STEP - 1);
    size_t used = 0;

    ws->h = carve(base, &used, t * ws->ldh * sizeof(float));
    ws->x = carve(base, &used, t * ws->ldx * sizeof(qe_bf16));
    ws->qkv = carve(base, &used, t * ws->ldqkv * sizeof(float));
    ws->q = carve(base, &used, t * ws->ldq * sizeof(qe_bf16));
    ws->act = carve(base, &used, t * ws->lda * sizeof(qe_bf16));
    ws->keys = carve(base, &used, n_stored * kv_width * sizeof(qe_bf16));
    ws->values = carve(base, &used, n_stored * kv_width * sizeof(qe_bf16));
    ws->cos_sin =
        carve(base, &used, (size_t)c->max_length * c->head_dim * sizeof(float));
    ws->row_seq = carve(base, &used, t * sizeof(int32_t));
    ws->row_position = carve(base, &used, t * sizeof(int32_t));
    ws->spans = carve(base, &used, ws->max_seqs * sizeof(struct qe_kv_span));
    ws->blocks = carve(base, &used, t * sizeof(struct qe_block));
    ws->gemm_scratch = carve(base, &used, gemm_bytes);
    ws->attend_scratch =
        carve(base, &used, ws->attend_floats * n_threads * sizeof(float));
    return used;
}

int
qe_workspace_open(const struct qe_config *config, int max_tokens, int max_seqs,
                  int n_threads, struct qe_workspace *ws, struct qe_error *err)
{
    size_t q_width = (size_t)config->n_heads * config->head_dim;
    int max_k = config->hidden_size;

    max_k = config->intermediate_size > max_k ? config->intermediate_size : max_k;
    max_k = q_width > (size_t)max_k ? (int)q_width : max_k;
    *ws = (struct qe_workspace){.max_tokens = max_tokens, .max_seqs = max_seqs};
    ws->hidden_padded = (int)round_up(config->hidden_size, QE_K_STEP);
    ws->ldh = ws->hidden_padded + QE_PANEL_ROWS;
    ws->ldx = ws->hidden_padded + QE_K_STEP;
    ws->ldqkv =
        q_width + 2 * (size_t)config->n_kv_heads * config->head_dim + QE_PANEL_ROWS;
    ws->ldq = q_width + QE_K_STEP;
    ws->lda = round_up(config->intermediate_size, QE_K_STEP) + QE_K_STEP;
    ws->attend_floats = round_up(
        QE_ATTEND_FLOATS(config->head_dim, config->n_heads / config->n_kv_heads), 16);
    size_t gemm_bytes = qe_gemm_scratch_bytes(max_tokens, max_k, n_threads);

    ws->reserved_bytes = lay_out(ws, config, n_threads, gemm_bytes, NULL);
    ws->reserved = mmap(NULL, ws->reserved_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ws->reserved == MAP_FAILED) {
        ws->reserved = NULL;
        return qe_fail(err, QE_ENOMEM,
                       "workspace: no address space for %zu bytes (%d tokens per "
                       "batch); lower batch_tokens or max_length",
                       ws->reserved_bytes, max_tokens);
    }
    /* Rows lie pages apart: with small pages, writing a product's result waits for
     * address translation. A kernel without huge pages refuses, which changes nothing.
     */
    (void)madvise(ws->reserved, ws->reserved_bytes, MADV_HUGEPAGE);
    lay_out(ws, config, n_threads, gemm_bytes, ws->reserved);
    return 0;
}

void
qe_workspace_rope(struct qe_workspace *ws, const struct qe_config *config,
                  int n_positions)
{
    int half = config->head_dim / 2;

    for (; ws->n_cos_sin < n_positions; ws->n_cos_sin++) {
        float *row = ws->cos_sin + (size_t)ws->n_cos_sin * config->head_dim;
        for (int i = 0; i < half; i++) {
            float angle = (float)ws->n_cos_sin * config->rope_inv_freq[i];
            row[i] = (float)cos(angle) * config->rope_scale;
            row[half + i] = (float)sin(angle) * config->rope_scale;
        }
    }
}

void
qe_workspace_close(struct qe_workspace *ws)
{
    if (ws->reserved != NULL) {
        munmap(ws->reserved, ws->reserved_bytes);
    }
    *ws = (struct qe_workspace){0};
}
