/* gemm_sm90.h: the product gate_up with its SwiGLU in one kernel, on Hopper. */
#ifndef QE_GEMM_SM90_H
#define QE_GEMM_SM90_H

#include "kernels.h"

/* Fewer leave most of the GPU without a tile. */
#define GEMM_SM90_MIN_ROWS 512

struct gemm_sm90 {
    bool usable; /* this GPU has the kernel                             */
    int n_blocks;
    void *encode; /* the driver's function that describes a matrix to the copy engine */
};

/* For the current device. */
cudaError_t gemm_sm90_open(struct gemm_sm90 *gemm);

/* y (m, n / 2) bf16 = silu(gate) * up, where x (m, k) w (n, k)^T is (m, 2, n / 2) gate
 * and up; rows of x and y ldx and ldy elements apart. cudaErrorNotSupported where k is
 * no multiple of 64 or n none of 256. */
cudaError_t
launch_gemm_sm90(const struct gemm_sm90 *gemm, bf16 *y, const bf16 *x, const bf16 *w,
                 int m, int n, int k, size_t ldx, size_t ldy, cudaStream_t stream);

#endif
