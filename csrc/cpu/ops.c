/* ops.c: norms, RoPE and pooling of single rows. Formulas: transformers
 * modeling_qwen3.py (Qwen3RMSNorm, apply_rotary_pos_emb). */
#include "isa_kernels.h"

#include <math.h>

#include "vec.h"

typedef float half_vec __attribute__((vector_size(32)));

static float
inverse_rms(const float *x, int n, int n_padded, float eps)
{
    half_vec low = {0}, high = {0}; /* GCC keeps a vec that loops update in memory */
    vec squares;

    for (int i = 0; i < n_padded; i += QE_LANES) {
        half_vec v[2];
        memcpy(v, x + i, sizeof v);
        low += v[0] * v[0];
        high += v[1] * v[1];
    }
    memcpy(&squares, &low, sizeof low);
    memcpy((char *)&squares + sizeof low, &high, sizeof high);
    return 1.0f / sqrtf(vec_sum(squares) / (float)n + eps);
}

void
ISA(qe_widen)(float *h, const void *row, int n, int n_padded)
{
    const unsigned char *bytes = row;
    int i = 0;

    for (; i + QE_LANES <= n; i += QE_LANES) {
        vec_store(h + i, vec_load_bf16(bytes + 2 * i));
    }
    for (; i < n; i++) {
        uint32_t bits = (uint32_t)bytes[2 * i] << 16 | (uint32_t)bytes[2 * i + 1] << 24;
        memcpy(h + i, &bits, sizeof bits);
    }
    for (; i < n_padded; i++) {
        h[i] = 0.0f;
    }
}

void
ISA(qe_rms_norm)(qe_bf16 *x, const float *h, const float *w, int n, int n_padded,
                 float eps)
{
    float scale = inverse_rms(h, n, n_padded, eps);

    for (int i = 0; i < n_padded; i += QE_LANES) {
        vec_store_bf16(x + i, vec_load(h + i) * scale * vec_load(w + i));
    }
}

void
ISA(qe_norm_rope)(qe_bf16 *y, const float *x, const float *w, const float *cos_sin,
                  int head_dim, float eps)
{
    float scale = inverse_rms(x, head_dim, head_dim, eps);
    int half = head_dim / 2;

    for (int i = 0; i < half; i += QE_LANES) {
        vec cosine = vec_load(cos_sin + i);
        vec sine = vec_load(cos_sin + half + i);
        vec a = vec_load(x + i) * scale * vec_load(w + i);
        vec b = vec_load(x + half + i) * scale * vec_load(w + half + i);

        vec_store_bf16(y + i, a * cosine - b * sine);
        vec_store_bf16(y + half + i, b * cosine + a * sine);
    }
}

void
ISA(qe_narrow)(qe_bf16 *y, const float *x, int n)
{
    for (int i = 0; i < n; i += QE_LANES) {
        vec_store_bf16(y + i, vec_load(x + i));
    }
}

void
ISA(qe_pool)(float *out, const float *h, const float *w, int n, int n_out, float eps,
             bool unit)
{
    double squares = 0.0;
    double out_squares = 0.0;

    for (int i = 0; i < n; i++) {
        squares += (double)h[i] * h[i];
    }
    float scale = (float)(1.0 / sqrt(squares / n + eps));
    for (int i = 0; i < n_out; i++) {
        out[i] = h[i] * scale * w[i];
        out_squares += (double)out[i] * out[i];
    }
    if (!isfinite(squares) || !isfinite(out_squares)) {
        for (int i = 0; i < n_out; i++) {
            out[i] = NAN;
        }
        return;
    }
    if (unit) {
        /* The floor is torch.nn.functional.normalize's. */
        float inverse = (float)(1.0 / fmax(sqrt(out_squares), 1e-12));
        for (int i = 0; i < n_out; i++) {
            out[i] *= inverse;
        }
    }
}
