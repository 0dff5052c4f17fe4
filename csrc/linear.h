/* linear.h: the matrix products of one layer, named alike on every device. */
#ifndef QE_LINEAR_H
#define QE_LINEAR_H

/* LINEAR_KV and LINEAR_Q replace LINEAR_QKV in a last layer that computes queries for
 * last tokens only. */
enum qe_linear {
    LINEAR_QKV,     /* q_proj, k_proj and v_proj */
    LINEAR_KV,      /* k_proj and v_proj         */
    LINEAR_Q,       /* q_proj                    */
    LINEAR_O,       /* o_proj                    */
    LINEAR_GATE_UP, /* gate_proj and up_proj     */
    LINEAR_DOWN,    /* down_proj                 */
    N_LINEARS,
};

#endif
