/* barrier.cuh: barriers in shared memory (mbarrier), at which threads and copies of
 * cp.async arrive; from sm_80. */
#ifndef QE_BARRIER_CUH
#define QE_BARRIER_CUH

#include "common.cuh"

/* The phase of the barrier ends with its n_arrivals-th arrival. */
static __device__ __forceinline__ void
barrier_init(uint64_t *barrier_smem, int n_arrivals)
{
    asm volatile(
        "mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(shared_address(barrier_smem)),
        "r"(n_arrivals)
        : "memory");
}

static __device__ __forceinline__ void
barrier_arrive(uint32_t address)
{
    asm volatile("{\n.reg .b64 state;\n"
                 "mbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(address)
                 : "memory");
}

static __device__ __forceinline__ void
barrier_arrive(uint64_t *barrier_smem)
{
    barrier_arrive(shared_address(barrier_smem));
}

/* Arrives once all copies that this thread has issued are complete. */
static __device__ __forceinline__ void
barrier_arrive_with_copies(uint32_t address)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(address)
                 : "memory");
}

/* Waits until the phase of that parity has ended. Phases count from 0; a new barrier
 * counts as past parity 1. */
static __device__ __forceinline__ void
barrier_wait(uint32_t address, uint32_t parity)
{
    uint32_t ended = 0;

    while (ended == 0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred ended;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, ended;\n}\n"
                     : "=r"(ended)
                     : "r"(address), "r"(parity)
                     : "memory");
#else
        asm volatile("{\n.reg .pred ended;\n"
                     "mbarrier.test_wait.parity.shared.b64 ended, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, ended;\n}\n"
                     : "=r"(ended)
                     : "r"(address), "r"(parity)
                     : "memory");
#endif
    }
}

static __device__ __forceinline__ void
barrier_wait(uint64_t *barrier_smem, uint32_t parity)
{
    barrier_wait(shared_address(barrier_smem), parity);
}

#endif
