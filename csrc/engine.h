/* engine.h: a model, a device and a scheduler as one object, which Python or a C test
 * opens. */
#ifndef QE_ENGINE_H
#define QE_ENGINE_H

#include "adapter.h"
#include "cuda_library.h"
#include "model.h"
#include "scheduler.h"

struct qe_engine;

struct qe_engine_options {
    const char *device; /* "cpu", "cuda", "cuda:1", or "cuda:0,cuda:1": a model whose
                           layers are split among these                           */
    enum qe_compute_dtype dtype;
    enum qe_embedding embedding; /* of a GPU; the CPU's is QE_EMBEDDING_AUTO      */
    int n_threads;    /* 0: chosen                                              */
    int batch_tokens; /* 0: chosen                                              */
    struct qe_cuda_paths cuda; /* where its libraries are                         */
    const char *cache_folder;  /* of GPU plans, measured once; NULL: not kept       */
    const struct qe_place
        *places; /* (n_places) of a GGUF file, the only path; or NULL */
    int n_places;
};

struct qe_engine_info {
    char device[QE_MAX_DEVICES * 10], kernels[32];
    int n_threads, batch_tokens;
    size_t mapped_bytes, owned_bytes; /* of weights; adapters count as owned      */
    bool borrows; /* reads weights in place, those of adapters too                */
};

/* Reads the environment variable QWEN3_EMBED_ISA: the instruction set to use. */
int qe_engine_open(const struct qe_config *config, const char *const *paths,
                   int n_paths, const struct qe_engine_options *options,
                   struct qe_engine **engine, struct qe_error *err);

const struct qe_engine_info *qe_engine_info(const struct qe_engine *engine);

/* The input of one call, not yet checked. */
struct qe_input {
    const int32_t *tokens; /* (n_tokens)   */
    size_t n_tokens;
    const int32_t *cu_seqlens; /* (n_seqs + 1) */
    int n_seqs;
    enum qe_kind kind;
    int adapter; /* 0: the model's own weights; else a number that
                    qe_engine_add_adapter() returned */
    bool waits;  /* the caller's next step is qe_job_wait()                     */
    int n_out;
    float *out; /* (n_seqs, n_out) kept alive by the caller until the job
                   is done */
};

/* Adds an adapter for the engine's life. If the engine borrows (see qe_engine_info),
 * its matrices must stay as long: see qe_adapter_open(). Returns its number, 1 or more,
 * or a failure. One caller at a time, while none is in qe_engine_submit(). */
int qe_engine_add_adapter(struct qe_engine *engine, const struct qe_tensor *tensors,
                          int n_tensors, struct qe_error *err);

/* Copies tokens and offsets, checks the copies and queues a job, which the caller owns.
 * err->index is the refused sequence. One caller at a time. */
int qe_engine_submit(struct qe_engine *engine, const struct qe_input *input,
                     struct qe_job **job, struct qe_error *err);

/* As qe_scheduler_counts(). */
struct qe_counts qe_engine_counts(struct qe_engine *engine);

/* As qe_scheduler_note(). */
void qe_engine_note(struct qe_engine *engine, char note[QE_NOTE_BYTES]);

/* As qe_scheduler_done_fd(). */
int qe_engine_done_fd(struct qe_engine *engine, struct qe_error *err);

/* Measures the device's limits. Takes seconds, and 1 GiB of its memory. May be called
 * from any thread at any time before qe_engine_close(). */
int qe_engine_measure(struct qe_engine *engine, struct qe_peak *peak,
                      struct qe_error *err);

/* Stops the worker and releases weights and device, after waiting for a measurement;
 * rows and jobs stay valid. Call it once, while no thread is in qe_engine_submit(). */
void qe_engine_stop(struct qe_engine *engine);

/* Stops and frees. Accepts NULL. Every job must have been freed. */
void qe_engine_close(struct qe_engine *engine);

#endif
