/* sm90.cuh: Hopper's instructions for matrix kernels: barriers that also count bytes,
 * the tensor copy, and products of a warpgroup (wgmma).
 *
 * Tiles in shared memory have rows of 64 bf16, 128 bytes, whose 16-byte pieces are
 * permuted within 8 rows (piece ^ row % 8): the 128-byte swizzle of both instructions.
 * Names and layouts: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions". */
#ifndef QE_SM90_CUH
#define QE_SM90_CUH

#include <cuda.h>

#include "barrier.cuh"

#define WARPGROUP_SIZE 128

/* ---- barriers ---- */

/* Arrives, and makes the phase wait for n_bytes of tensor copies. */
static __device__ __forceinline__ void
barrier_arrive_expect(uint64_t *barrier_smem, int n_bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                     shared_address(barrier_smem)),
                 "r"(n_bytes)
                 : "memory");
}

/* Makes initialised barriers visible to the copy engine. */
static __device__ __forceinline__ void
fence_barrier_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

/* Makes this thread's writes to shared memory visible to wgmma and the copy engine. */
static __device__ __forceinline__ void
fence_async_proxy(void)
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/* Barriers 1 to 15 of the block: n_threads arrive, the waiting ones included. */
static __device__ __forceinline__ void
named_barrier_sync(int index, int n_threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(index), "r"(n_threads) : "memory");
}

static __device__ __forceinline__ void
named_barrier_arrive(int index, int n_threads)
{
    asm volatile("bar.arrive %0, %1;\n" ::"r"(index), "r"(n_threads) : "memory");
}

/* ---- tensor copy ---- */

/* One box of map (rows, columns), its first element at (row, column). */
static __device__ __forceinline__ void
copy_box(void *to_smem, const CUtensorMap *map, int column, int row,
         uint64_t *barrier_smem)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];\n" ::"r"(shared_address(to_smem)),
        "l"(map), "r"(shared_address(barrier_smem)), "r"(column), "r"(row)
        : "memory");
}

/* The same of a map (rows, heads, columns). */
static __device__ __forceinline__ void
copy_box(void *to_smem, const CUtensorMap *map, int column, int head, int row,
         uint64_t *barrier_smem)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];\n" ::"r"(shared_address(to_smem)),
        "l"(map), "r"(shared_address(barrier_smem)), "r"(column), "r"(head), "r"(row)
        : "memory");
}

/* ---- warpgroups ---- */

template <int N>
static __device__ __forceinline__ void
fewer_registers(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
}

template <int N>
static __device__ __forceinline__ void
more_registers(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
}

static __device__ __forceinline__ void
wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void
wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/* Waits until at most N of this warp's groups are pending. */
template <int N>
static __device__ __forceinline__ void
wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
}

/* Keeps the compiler from moving uses of x across this point. */
template <int N>
static __device__ __forceinline__ void
pin_registers(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(x[i])::"memory");
    }
}

/* The wgmma descriptor of a tile. Eight rows are 1024 bytes; in a tile that is read
 * transposed, 64 columns are columns_bytes. */
static __device__ __forceinline__ uint64_t
describe_tile(const void *tile_smem, int columns_bytes)
{
    return (uint64_t)((shared_address(tile_smem) & 0x3ffff) >> 4) |
           (uint64_t)(columns_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* acc (64, 128) = a (64, 16) b (128, 16)^T, or += if add; both in shared memory. Warp w
 * holds rows 16 w + lane / 4 (+ 8) in acc[4 j + 0, 1] (+ 2), columns 8 j + 2 (lane %
 * 4). */
static __device__ __forceinline__ void
wgmma_64x128x16(float (&d)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
        "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, "
        "%61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n"
        "}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(add));
}

/* acc (64, 128) += a (64, 16) b (16, 128); a in registers, as mma_16x8x16 has it. */
static __device__ __forceinline__ void
wgmma_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
        "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, "
        "%61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#endif
