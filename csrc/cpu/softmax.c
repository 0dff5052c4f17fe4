/* softmax.c: turns one row of scores of one key tile into probabilities; compiled for
 * the sets without a file of their own. */
#include <math.h>

#include "isa_kernels.h"
#include "ops.h"
#include "vec.h"

float
ISA(qe_softmax_step)(qe_bf16 *p, const float *s, int n, int n_valid, float scale,
                     struct qe_softmax_row *row)
{
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec top = vec_all(row->max);
    vec sum = {0};

    for (int i = 0; i < n; i += QE_LANES) {
        vec v =
            vec_select(lane + i < n_valid, vec_load(s + i) * scale, vec_all(-INFINITY));
        top = vec_max(v, top);
    }
    float max = vec_max_lane(top);
    for (int i = 0; i < n; i += QE_LANES) {
        vec v = vec_exp2(vec_load(s + i) * scale - max);
        v = vec_select(lane + i < n_valid, vec_round_bf16(v), (vec){0});
        vec_store_rounded(p + i, v);
        sum += v;
    }
    float rescale = max == row->max ? 1.0f : exp2f(row->max - max);
    row->max = max;
    row->denominator = row->denominator * rescale + vec_sum(sum);
    return rescale;
}
