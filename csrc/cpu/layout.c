/* layout.c: sequences are packed back to back, without padding. */
#include "layout.h"

#include <string.h>

#include "ops.h"

int
qe_layout_fill(struct qe_workspace *ws, const struct qe_batch *batch, size_t kv_width,
               int panel_columns)
{
    size_t offset = 0;
    int row = 0;

    for (int s = 0; s < batch->n_seqs; s++) {
        const struct qe_seq *seq = &batch->seqs[s];
        int n_prefix = seq->prefix < 0 ? 0 : batch->seqs[seq->prefix].n_tokens;
        ws->spans[s] = qe_kv_span(n_prefix, seq->n_tokens, panel_columns);
        ws->spans[s].offset = offset;
        offset += (size_t)ws->spans[s].n_stored * kv_width;
        for (int i = 0; i < seq->n_tokens; i++, row++) {
            ws->row_seq[row] = s;
            ws->row_position[row] = n_prefix + i;
        }
    }
    return row;
}

int
qe_layout_keep_last(struct qe_workspace *ws, const struct qe_batch *batch, int n_rows)
{
    int kept = 0;

    for (int row = 0; row < n_rows; row++) {
        int s = ws->row_seq[row];
        if (ws->row_position[row] != ws->spans[s].n_keys - 1 ||
            batch->seqs[s].out == NULL) {
            continue;
        }
        memmove(ws->h + kept * ws->ldh, ws->h + row * ws->ldh, ws->ldh * sizeof *ws->h);
        memmove(ws->x + kept * ws->ldx, ws->x + row * ws->ldx, ws->ldx * sizeof *ws->x);
        ws->row_seq[kept] = s;
        ws->row_position[kept] = ws->row_position[row];
        kept++;
    }
    return kept;
}

int
qe_layout_cut_blocks(struct qe_workspace *ws, int n_rows)
{
    int n_blocks = 0;

    for (int row = 0; row < n_rows;) {
        struct qe_block block = {
            .seq = ws->row_seq[row], .row = row, .position = ws->row_position[row]};
        while (row < n_rows && ws->row_seq[row] == block.seq &&
               block.n_rows < QE_QUERY_BLOCK) {
            block.n_rows++;
            row++;
        }
        ws->blocks[n_blocks++] = block;
    }
    return n_blocks;
}
