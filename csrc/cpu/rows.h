/* rows.h: which text and position each row of a batch is, and the blocks of queries. */
#ifndef QE_ROWS_H
#define QE_ROWS_H

#include "../backend.h"
#include "workspace.h"

/* Fills row_seq, row_position and spans. kv_width: NKV * HS. Returns the rows. */
int qe_rows_place(struct qe_workspace *ws, const struct qe_batch *batch,
                  size_t kv_width);

/* Moves the last row of each text that has a row to write to the front of h and x, the
 * only ones that matter after the last layer's keys are made. Returns how many. */
int qe_rows_keep_last(struct qe_workspace *ws, const struct qe_batch *batch,
                      int n_rows);

/* Cuts the rows, which lie text by text, into blocks. Returns how many. */
int qe_rows_cut_blocks(struct qe_workspace *ws, int n_rows);

#endif
