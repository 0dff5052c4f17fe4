/* workspace.h: all buffers that a forward pass on the CPU writes.
 *
 * They are one reservation of address space, made at open for the largest batch; a page
 * becomes resident when a batch first reaches it. So forward() allocates nothing, and a
 * model used on short texts uses little memory. */
#ifndef QE_WORKSPACE_H
#define QE_WORKSPACE_H

#include "../model.h"
#include "kv.h"

/* A few queries of one text, or a text's last token: the unit of attention work. */
struct qe_block {
    int seq;
    int row;      /* of the first query in q */
    int n_rows;   /* at most QE_QUERY_BLOCK  */
    int position; /* of the first query in its text */
};

struct qe_workspace {
    int max_tokens;    /* T                                                           */
    int max_seqs;      /* S, prefixes included                                        */
    int hidden_padded; /* C padded to QE_K_STEP                                 */
    /* Padded row lengths, so that rows do not fall on the same cache sets. */
    size_t ldh, ldx, ldqkv, ldq, lda;

    float *h;      /* (T, ldh) the residual stream                                */
    qe_bf16 *x;    /* (T, ldx) normed h; the input of q, k, v, gate and up        */
    float *qkv;    /* (T, ldqkv): NH * HS queries, NKV * HS keys, as many values   */
    qe_bf16 *q;    /* (T, ldq) queries, then attention's output                   */
    qe_bf16 *act;  /* (T, lda) silu(gate) * up; the input of down_proj            */
    qe_bf16 *keys; /* see kv.h                                                    */
    qe_bf16 *values;
    float *cos_sin; /* (max_length, 2, HS / 2)                                     */
    int n_cos_sin;  /* positions filled in                                         */

    int32_t *row_seq;         /* (T) which sequence a row of h belongs to             */
    int32_t *row_position;    /* (T) its position in the text, prefix included        */
    struct qe_kv_span *spans; /* (S)                                               */
    struct qe_block *blocks;  /* (T)                                               */

    unsigned char *gemm_scratch;
    float *attend_scratch; /* (n_threads, attend_floats)                           */
    size_t attend_floats;

    void *reserved; /* owned address space                                         */
    size_t reserved_bytes;
};

int qe_workspace_open(const struct qe_config *config, int max_tokens, int max_seqs,
                      int n_threads, struct qe_workspace *ws, struct qe_error *err);

/* Fills cos_sin up to n_positions. Angles are fp32 products, as transformers has them.
 */
void qe_workspace_rope(struct qe_workspace *ws, const struct qe_config *config,
                       int n_positions);

/* Accepts a zeroed workspace. */
void qe_workspace_close(struct qe_workspace *ws);

#endif
