/* stages.h: the GPUs among which the layers of a model are split, in their order.
 *
 * A stage is a GPU with consecutive layers. The first one embeds, the last one pools,
 * and the residual stream goes from each to the next by a copy between peers. */
#ifndef QE_STAGES_H
#define QE_STAGES_H

#include "device.h"

/* Batches that a stage holds at a time: one is computed while another arrives or
 * leaves. */
#define N_SLOTS 2

struct stage {
    struct device gpu;             /* owned */
    cudaStream_t copies;           /* owned; to the next stage */
    cudaEvent_t computed[N_SLOTS]; /* owned; the stage's layers are done */
    cudaEvent_t done[N_SLOTS];     /* owned; the slot is free: h is with the next stage,
                                      or results are in the ring of the last one */
};

struct stages {
    struct stage stages[QE_MAX_DEVICES];
    int n, n_opened;          /* of those, how many close() must close */
    int batch_tokens;         /* of a batch, which is cut into micro-batches */
    int micro_tokens;         /* of one of these */
    bool broken;              /* a GPU has failed; what waits for it may never end */
    char note[QE_NOTE_BYTES]; /* "", or why the table of embeddings is on the host */
};

/* As qe_cuda_table.memory, for one device or several. */
int stages_memory(const struct qe_cuda_options *options, const struct qe_config *config,
                  struct qe_cuda_memory *memory, struct qe_error *err);

/* Opens zeroed stages, each with layers in proportion to its GPU's free memory. A GPU
 * may be named twice. */
int stages_open(struct stages *stages, const struct qe_cuda_options *options,
                const struct qe_model *model, struct qe_error *err);

/* Waits for an event of a stage, or returns the error of any stage. */
cudaError_t stages_wait(struct stages *stages, cudaEvent_t event);

/* Waits until no stage works. After the failure of a GPU it does not wait: the stages
 * are broken. */
cudaError_t stages_drain(struct stages *stages);

/* Queues the copy of h (n_rows, C) in a slot from stage s to the next, once that has
 * room, and records done. */
cudaError_t stages_hand_on(struct stages *stages, int s, int slot, int n_rows);

/* Accepts half-opened stages. Of broken ones it frees nothing, since freeing waits for
 * the GPU. */
void stages_close(struct stages *stages);

#endif
