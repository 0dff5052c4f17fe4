/* engine.h: a model, a device and a scheduler under one roof: what Python, or a C test,
 * opens. */
#ifndef QE_ENGINE_H
#define QE_ENGINE_H

#include "adapter.h"
#include "cuda_library.h"
#include "model.h"
#include "scheduler.h"

struct qe_engine;

struct qe_engine_options {
    const char *device; /* "cpu", "cuda" or "cuda:1"                              */
    enum qe_compute_dtype dtype;
    int n_threads;    /* 0: chosen                                              */
    int batch_tokens; /* 0: chosen                                              */
    struct qe_cuda_paths cuda; /* where its libraries are                         */
    const char *cache_folder;  /* for what is measured once; NULL: nowhere        */
};

struct qe_engine_info {
    char device[32], kernels[32];
    int n_threads, batch_tokens;
    size_t mapped_bytes, owned_bytes; /* of weights, adapters among the owned     */
    bool borrows; /* multiplies by weights where they lie, adapters' too          */
};

/* Reads the environment variable QWEN3_EMBED_ISA: the instruction set to use. */
int qe_engine_open(const struct qe_config *config, const char *const *paths,
                   int n_paths, const struct qe_engine_options *options,
                   struct qe_engine **engine, struct qe_error *err);

const struct qe_engine_info *qe_engine_info(const struct qe_engine *engine);

int qe_engine_alloc_rows(struct qe_engine *engine, size_t n_floats,
                         struct qe_rows *rows, struct qe_error *err);

/* What a caller hands in: nothing of it is trusted. */
struct qe_input {
    const int32_t *tokens; /* (n_tokens)   */
    size_t n_tokens;
    const int32_t *cu_seqlens; /* (n_seqs + 1) */
    int n_seqs;
    enum qe_kind kind;
    int adapter; /* 0: the model's own weights; else of qe_engine_add_adapter() */
    bool waits;  /* the caller's next step is qe_job_wait()                     */
    int n_out;
    float *out; /* (n_seqs, n_out) kept alive by the caller until the job
                   is done */
};

/* Adds an adapter, which stays until the engine is stopped, and so must, if the engine
 * borrows, its matrices: see qe_adapter_open(). Returns its number, 1 or more, or a
 * failure. One caller at a time, and none in submit. */
int qe_engine_add_adapter(struct qe_engine *engine, const struct qe_tensor *tensors,
                          int n_tensors, struct qe_error *err);

/* Copies tokens and offsets, checks the copies, and queues a job, which the caller
 * owns. err->index tells which sequence was refused. One caller at a time. */
int qe_engine_submit(struct qe_engine *engine, const struct qe_input *input,
                     struct qe_job **job, struct qe_error *err);

/* As qe_scheduler_counts(). */
struct qe_counts qe_engine_counts(struct qe_engine *engine);

/* As qe_scheduler_done_fd(). */
int qe_engine_done_fd(struct qe_engine *engine, struct qe_error *err);

/* What the device can do at most. Takes seconds, and 1 GiB of its memory. Any thread,
 * at any time before qe_engine_close(). */
int qe_engine_measure(struct qe_engine *engine, struct qe_peak *peak,
                      struct qe_error *err);

/* Stops the worker and lets go of weights and device, once no measurement is under way;
 * rows and jobs stay valid. Callers see to it that this is called once and that submit
 * is not running. */
void qe_engine_stop(struct qe_engine *engine);

/* Stops and frees. Accepts NULL. No job may be held any more. */
void qe_engine_close(struct qe_engine *engine);

#endif
