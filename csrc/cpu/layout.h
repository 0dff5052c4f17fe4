/* layout.h: the layout of a batch: the sequence and position of each row of h, and the
 * blocks of queries. */
#ifndef QE_LAYOUT_H
#define QE_LAYOUT_H

#include "../backend.h"
#include "workspace.h"

/* Fills row_seq, row_position and spans. kv_width is NKV * HS;
 * panel_columns is the instruction set's. Returns the number of
 * rows. */
int qe_layout_fill(struct qe_workspace *ws, const struct qe_batch *batch,
                   size_t kv_width, int panel_columns);

/* Moves the last token of each sequence that has an output to the front of h and x:
 * after the last layer's keys are stored, no other rows are needed. Returns their
 * number. */
int qe_layout_keep_last(struct qe_workspace *ws, const struct qe_batch *batch,
                        int n_rows);

/* Cuts the rows of each sequence into blocks of queries. Returns their number. */
int qe_layout_cut_blocks(struct qe_workspace *ws, int n_rows);

#endif
