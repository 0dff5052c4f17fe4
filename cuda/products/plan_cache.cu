/* plan_cache.cu: plans in a text file of the user's cache, one per line, so that they
 * are measured once per GPU model, driver and cuBLAS version.
 *
 * A line that fails its checks is skipped, and its plan measured again. The file is
 * replaced as a whole, by rename, and keeps the lines of other models. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "products/plans.h"

#define FORMAT "qwen3_embed plans 4" /* also raised when the canonical plan changes */
#define MAX_LINE 512
#define MAX_LINES 65536

/* FNV-1a. */
static uint64_t
hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    }
    return hash;
}

/* The product, the bucket and the plan. */
static void
write_entry(char line[MAX_LINE], const struct linear_shape *s, int bucket,
            const struct plan *plan)
{
    const uint64_t *a = plan->algo.data;

    snprintf(line, MAX_LINE,
             "%d %d %d %zu %zu %d %d %d %d %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64
             " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64,
             s->dtype, s->n, s->k, s->ldx, s->ldy, s->output, bucket, plan->kind,
             plan->variant, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

/* Returns false for a line that write_entry() does not write. */
static bool
read_entry(const char *line, struct linear_shape *s, int *bucket, struct plan *plan)
{
    uint64_t *a = plan->algo.data;
    int dtype, output, kind;

    if (sscanf(line,
               "%d %d %d %zu %zu %d %d %d %d %" SCNx64 " %" SCNx64 " %" SCNx64
               " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64,
               &dtype, &s->n, &s->k, &s->ldx, &s->ldy, &output, bucket, &kind,
               &plan->variant, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6],
               &a[7]) != 17) {
        return false;
    }
    s->dtype = static_cast<enum qe_compute_dtype>(dtype);
    s->output = static_cast<enum product_output>(output);
    plan->kind = static_cast<enum plan_kind>(kind);
    return kind > PLAN_NONE && kind <= PLAN_CANONICAL && *bucket >= 0 &&
           *bucket < N_BUCKETS && plan->variant >= 0 &&
           plan->variant < N_GEMM_ROWS_VARIANTS;
}

static bool
same_shape(const struct linear_shape *a, const struct linear_shape *b)
{
    return a->dtype == b->dtype && a->n == b->n && a->k == b->k && a->ldx == b->ldx &&
           a->ldy == b->ldy && a->output == b->output;
}

/* Checks the plan against its product: gemm_stream.cu would not write more rows than
 * it takes. */
static bool
is_usable(struct gemm *gemm, enum qe_linear linear, int bucket, const struct plan *plan)
{
    const float *const scales = static_cast<float *>(gemm->workspace); /* any will do */
    struct cublas_problem p;
    cublasLtMatmulHeuristicResult_t result;

    if (plan->kind == PLAN_STREAM &&
        !stream_takes(&gemm->shapes[linear], bucket_rows(bucket))) {
        return false;
    }
    if (plan->kind != PLAN_CUBLAS) {
        return gemm->chain || plan->kind == PLAN_CANONICAL;
    }
    return cublas_problem_init(&p, &gemm->shapes[linear], bucket_rows(bucket), scales,
                               scales) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoCheck(gemm->handle, &p.product, &p.w, &p.x, &p.y, &p.y,
                                   &plan->algo, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

/* Returns the entry behind the checksum, or NULL, and cuts off the end of the line. */
static char *
checked_entry(char *line)
{
    char *entry;
    uint64_t hash = strtoull(line, &entry, 16);

    line[strcspn(line, "\n")] = '\0';
    return *entry++ == ' ' && hash == hash_text(entry) ? entry : NULL;
}

/* Opens the file and skips its first line. NULL on failure. */
static FILE *
open_cache(const struct gemm *gemm)
{
    char line[MAX_LINE];
    FILE *file = fopen(gemm->cache_path, "re");

    if (file == NULL) {
        return NULL;
    }
    if (fgets(line, sizeof line, file) == NULL ||
        strncmp(line, gemm->cache_key, strlen(gemm->cache_key)) != 0) {
        fclose(file);
        return NULL;
    }
    return file;
}

static void
load_entry(struct gemm *gemm, const char *entry)
{
    struct linear_shape shape;
    struct plan plan;
    int bucket;

    if (!read_entry(entry, &shape, &bucket, &plan)) {
        return;
    }
    for (int i = 0; i < N_LINEARS; i++) {
        enum qe_linear linear = static_cast<enum qe_linear>(i);
        if (same_shape(&shape, &gemm->shapes[i]) &&
            is_usable(gemm, linear, bucket, &plan)) {
            gemm->plans[i][bucket] = plan;
        }
    }
}

/* The key: GPU, driver, library and canonical plan; and a file name made of it. */
static void
name_cache(struct gemm *gemm, const char *folder)
{
    cudaDeviceProp properties;
    int device = 0, driver = 0;
    char key[MAX_LINE - 1];

    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaGetDeviceProperties(&properties, device) != cudaSuccess ||
        cudaDriverGetVersion(&driver) != cudaSuccess) {
        return;
    }
    snprintf(key, sizeof key, FORMAT ", %s, CUDA driver %d, cuBLASLt %zu, %s\n",
             properties.name, driver, cublasLtGetVersion(),
             gemm->chain ? "chain" : "library");
    size_t n_path = strlen(folder) + 32;
    gemm->cache_key = strdup(key);
    gemm->cache_path = static_cast<char *>(malloc(n_path));
    if (gemm->cache_key == NULL || gemm->cache_path == NULL) {
        free(gemm->cache_path);
        gemm->cache_path = NULL;
        return;
    }
    snprintf(gemm->cache_path, n_path, "%s/gemm-%016" PRIx64, folder, hash_text(key));
}

void
plan_cache_load(struct gemm *gemm, const char *folder)
{
    char line[MAX_LINE];

    name_cache(gemm, folder);
    FILE *file = gemm->cache_path == NULL ? NULL : open_cache(gemm);
    for (int i = 0; file != NULL && i < MAX_LINES && fgets(line, sizeof line, file);
         i++) {
        const char *entry = checked_entry(line);
        if (entry != NULL) {
            load_entry(gemm, entry);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

/* ---- save ---- */

/* Copies the lines of the old file that are for other shapes. */
static void
copy_others(const struct gemm *gemm, FILE *to)
{
    char line[MAX_LINE];
    FILE *from = open_cache(gemm);

    for (int i = 0; from != NULL && i < MAX_LINES && fgets(line, sizeof line, from);
         i++) {
        const char *entry = checked_entry(line);
        struct linear_shape shape;
        struct plan plan;
        int bucket;
        bool ours = entry == NULL || !read_entry(entry, &shape, &bucket, &plan);
        for (int j = 0; j < N_LINEARS && !ours; j++) {
            ours = same_shape(&shape, &gemm->shapes[j]) &&
                   gemm->plans[j][bucket].kind != PLAN_NONE;
        }
        if (!ours) {
            fprintf(to, "%s\n", line);
        }
    }
    if (from != NULL) {
        fclose(from);
    }
}

static void
make_folders(const char *path)
{
    char *folder = strdup(path);

    for (char *end = folder; end != NULL && (end = strchr(end + 1, '/')) != NULL;) {
        *end = '\0';
        mkdir(folder, 0777); /* it may exist */
        *end = '/';
    }
    free(folder);
}

void
plan_cache_save(struct gemm *gemm)
{
    char entry[MAX_LINE];

    if (gemm->cache_path == NULL) {
        return;
    }
    size_t n_path = strlen(gemm->cache_path) + 16;
    char *path = static_cast<char *>(malloc(n_path));
    if (path == NULL) {
        return;
    }
    /* Serialises the engines of one process, which may save at the same time. */
    snprintf(path, n_path, "%s.%ld", gemm->cache_path, syscall(SYS_gettid));
    make_folders(path);
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        free(path);
        return;
    }
    fputs(gemm->cache_key, file);
    copy_others(gemm, file);
    for (int i = 0; i < N_LINEARS; i++) {
        for (int bucket = 0; bucket < N_BUCKETS; bucket++) {
            if (gemm->plans[i][bucket].kind != PLAN_NONE) {
                write_entry(entry, &gemm->shapes[i], bucket, &gemm->plans[i][bucket]);
                fprintf(file, "%016" PRIx64 " %s\n", hash_text(entry), entry);
            }
        }
    }
    bool failed = ferror(file) != 0;
    failed |= fclose(file) != 0;
    if (failed || rename(path, gemm->cache_path) != 0) {
        unlink(path);
    }
    free(path);
}
