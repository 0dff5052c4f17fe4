/* isa.c: finds out at run time, from the processor and the operating system, which
 * instruction sets this machine can run. */
#define _GNU_SOURCE
#include "isa.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const struct qe_isa qe_isa_portable;

#if defined(__x86_64__)

extern const struct qe_isa qe_isa_amx_bf16, qe_isa_avx512_bf16, qe_isa_avx512_vnni,
    qe_isa_avx512, qe_isa_avx_vnni, qe_isa_avx2;

/* Bits of xcr0: the registers that the system saves for a thread. */
#define XCR0_YMM 0x06u /* xmm and the upper halves of ymm */
#define XCR0_ZMM 0xe6u /* those, masks and zmm            */
#define XCR0_TILES 0x60000u

/* Bits of leaf 7, edx, and of its subleaf 1, eax, which the cpuid.h of older compilers
 * lacks. */
#define BIT_AMX_BF16 (1u << 22)
#define BIT_AMX_TILE (1u << 24)
#define BIT_AMX_INT8 (1u << 25)
#define BIT_AVX_VNNI (1u << 4)

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

struct cpuid {
    unsigned eax, ebx, ecx, edx; /* zero where the leaf does not exist */
};

static struct cpuid
read_cpuid(unsigned leaf, unsigned subleaf)
{
    struct cpuid c = {0, 0, 0, 0};

    __get_cpuid_count(leaf, subleaf, &c.eax, &c.ebx, &c.ecx, &c.edx);
    return c;
}

static bool
has_bits(unsigned value, unsigned bits)
{
    return (value & bits) == bits;
}

static unsigned
read_xcr0(void)
{
    unsigned eax, edx;

    if (!has_bits(read_cpuid(1, 0).ecx, bit_OSXSAVE)) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static bool
has_avx2(void)
{
    return has_bits(read_xcr0(), XCR0_YMM) &&
           has_bits(read_cpuid(1, 0).ecx, bit_AVX | bit_FMA | bit_F16C) &&
           has_bits(read_cpuid(7, 0).ebx, bit_AVX2);
}

static bool
has_avx_vnni(void)
{
    return has_avx2() && has_bits(read_cpuid(7, 1).eax, BIT_AVX_VNNI);
}

static bool
has_avx512(void)
{
    unsigned foundation = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;

    return has_avx2() && has_bits(read_xcr0(), XCR0_ZMM) &&
           has_bits(read_cpuid(7, 0).ebx, foundation);
}

static bool
has_avx512_vnni(void)
{
    return has_avx512() && has_bits(read_cpuid(7, 0).ecx, bit_AVX512VNNI);
}

static bool
has_avx512_bf16(void)
{
    return has_avx512_vnni() && has_bits(read_cpuid(7, 1).eax, bit_AVX512BF16);
}

/* Linux grants tile registers only to a process that asks for them; threads started
 * later inherit the permission. */
static bool
may_use_tiles(void)
{
#if defined(__linux__)
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

static bool
has_amx_bf16(void)
{
    return has_avx512_bf16() && has_bits(read_xcr0(), XCR0_TILES) &&
           has_bits(read_cpuid(7, 0).edx, BIT_AMX_TILE | BIT_AMX_BF16 | BIT_AMX_INT8) &&
           may_use_tiles();
}

#elif defined(__aarch64__)

extern const struct qe_isa qe_isa_neon_bf16, qe_isa_neon_i8;

/* The dot products of bytes: Neoverse N1, Cortex-A76, Apple M1, and what came later. */
static bool
has_neon_i8(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

/* The matrix products of bf16 and of bytes, which one processor has both of or neither:
 * Neoverse V1, N2, V2, Apple M2, and what came later. */
static bool
has_neon_bf16(void)
{
    const unsigned long both = HWCAP2_BF16 | HWCAP2_I8MM;

    return has_neon_i8() && (getauxval(AT_HWCAP2) & both) == both;
}

#endif

/* Fills sets, best first; returns how many. */
static int
list_sets(const struct qe_isa *sets[QE_MAX_SETS])
{
    int n = 0;

#if defined(__x86_64__)
    if (has_amx_bf16()) {
        sets[n++] = &qe_isa_amx_bf16;
    }
    if (has_avx512_bf16()) {
        sets[n++] = &qe_isa_avx512_bf16;
    }
    if (has_avx512_vnni()) {
        sets[n++] = &qe_isa_avx512_vnni;
    }
    if (has_avx512()) {
        sets[n++] = &qe_isa_avx512;
    }
    if (has_avx_vnni()) {
        sets[n++] = &qe_isa_avx_vnni;
    }
    if (has_avx2()) {
        sets[n++] = &qe_isa_avx2;
    }
#elif defined(__aarch64__)
    if (has_neon_bf16()) {
        sets[n++] = &qe_isa_neon_bf16;
    }
    if (has_neon_i8()) {
        sets[n++] = &qe_isa_neon_i8;
    }
#endif
    sets[n++] = &qe_isa_portable;
    return n;
}

int
qe_isa_list(const char *names[QE_MAX_SETS])
{
    const struct qe_isa *sets[QE_MAX_SETS];
    int n = list_sets(sets);

    for (int i = 0; i < n; i++) {
        names[i] = sets[i]->name;
    }
    return n;
}

const struct qe_isa *
qe_isa_choose(const char *name, struct qe_error *err)
{
    const struct qe_isa *sets[QE_MAX_SETS];
    char known[128] = "";
    int n = list_sets(sets);

    if (!name) {
        return sets[0];
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(sets[i]->name, name) == 0) {
            return sets[i];
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                 sets[i]->name);
    }
    qe_fail(err, QE_EVALUE, "instruction set '%s', expected one of this machine's: %s",
            name, known);
    return NULL;
}
