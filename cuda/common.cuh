/* common.cuh: device code shared by the kernels: 16-byte accesses, warp sums, launches
 * that overlap, and the instructions of tensor-core products (cp.async, ldmatrix, mma).
 */
#ifndef QE_COMMON_CUH
#define QE_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "stream.h"

typedef __nv_bfloat16 bf16;

#define WARP_SIZE 32

/* Eight bf16 are moved as one uint4, the first in the low half of x. */
static __device__ __forceinline__ uint4
load_16_bytes(const void *p)
{
    return *static_cast<const uint4 *>(p);
}

static __device__ __forceinline__ void
store_16_bytes(void *p, uint4 v)
{
    *static_cast<uint4 *>(p) = v;
}

static __device__ __forceinline__ void
widen(float (&y)[8], uint4 v)
{
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        y[2 * i] = __uint_as_float(pairs[i] << 16);
        y[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
}

static __device__ __forceinline__ uint32_t
narrow_pair(float first, float second)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

static __device__ __forceinline__ uint4
narrow(const float (&x)[8])
{
    return make_uint4(narrow_pair(x[0], x[1]), narrow_pair(x[2], x[3]),
                      narrow_pair(x[4], x[5]), narrow_pair(x[6], x[7]));
}

static __device__ __forceinline__ void
load_8_floats(float (&y)[8], const float *p)
{
    float4 a = reinterpret_cast<const float4 *>(p)[0];
    float4 b = reinterpret_cast<const float4 *>(p)[1];
    y[0] = a.x, y[1] = a.y, y[2] = a.z, y[3] = a.w;
    y[4] = b.x, y[5] = b.y, y[6] = b.z, y[7] = b.w;
}

static __device__ __forceinline__ void
store_8_floats(float *p, const float (&x)[8])
{
    reinterpret_cast<float4 *>(p)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

/* Sums over groups of n_lanes neighbours, a power of two. Every lane gets the sum. */
template <typename T>
static __device__ __forceinline__ T
lane_sum(T x, int n_lanes)
{
    for (int step = n_lanes / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

/* Every thread of the block gets the sum, accumulated in a fixed order.
 * partial_smem (blockDim.x / 32). */
template <typename T>
static __device__ __forceinline__ T
block_sum(T x, T *partial_smem)
{
    x = lane_sum(x, WARP_SIZE);
    __syncthreads(); /* a sum before this one may still be read */
    if (threadIdx.x % WARP_SIZE == 0) {
        partial_smem[threadIdx.x / WARP_SIZE] = x;
    }
    __syncthreads(); /* the partial sums are complete */
    T sum = partial_smem[0];
    for (int i = 1; i < (int)blockDim.x / WARP_SIZE; i++) {
        sum += partial_smem[i];
    }
    return sum;
}

/* silu(gate) * up. Both are rounded to bf16, as the result will be: the error of the
 * fast division is far below that. */
static __device__ __forceinline__ float
swiglu(float gate, float up)
{
    return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

/* ---- launches ---- */

/* Launches a kernel. If the stream overlaps, its blocks may start while the kernel
 * before it in the stream still runs: every kernel launched here must call
 * wait_for_grid() before it reads or writes memory that another kernel uses. */
template <typename... P, typename... A>
static inline cudaError_t
launch(void (*kernel)(P...), dim3 grid, int n_threads, size_t smem_bytes,
       struct stream stream, A... arguments)
{
    cudaLaunchAttribute overlap = {};
    cudaLaunchConfig_t config = {};

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = smem_bytes;
    config.stream = stream.handle;
    config.attrs = &overlap;
    config.numAttrs = stream.overlaps;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

/* Waits until the writes of earlier kernels are visible. Code for architectures before
 * sm_90 has no such wait: its stream must not overlap. */
static __device__ __forceinline__ void
wait_for_grid(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/* Allows the next kernel to start once every block of this one has called it. */
static __device__ __forceinline__ void
release_next_grid(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/* ---- copies and products ---- */

static __device__ __forceinline__ uint32_t
shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Starts a copy of 16 bytes to shared memory; if not valid, stores zeros without
 * reading. */
static __device__ __forceinline__ void
cp_async_16(void *to_smem, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(
                     shared_address(to_smem)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

/* The same, to an address in shared memory, always valid. */
static __device__ __forceinline__ void
cp_async_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(to),
                 "l"(from)
                 : "memory");
}

static __device__ __forceinline__ void
cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most N of this thread's groups of copies are pending. */
template <int N>
static __device__ __forceinline__ void
cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* Loads four 8x8 matrices. Lane i passes the address of row i % 8 of matrix i / 8, and
 * receives from each matrix the pair at row i / 4, columns 2 (i % 4). */
static __device__ __forceinline__ void
ldmatrix_x4(uint32_t (&r)[4], uint32_t row_address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
}

static __device__ __forceinline__ void
ldmatrix_x4(uint32_t (&r)[4], const void *row_smem)
{
    ldmatrix_x4(r, shared_address(row_smem));
}

/* The same, with transposed matrices. */
static __device__ __forceinline__ void
ldmatrix_x4_trans(uint32_t (&r)[4], const void *row_smem)
{
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(shared_address(row_smem))
        : "memory");
}

/* acc (16, 8) += a (16, 16) b (16, 8). */
static __device__ __forceinline__ void
mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
