/* int8_layout.h: the order of int8 weights in device memory and in the ring of
 * gemm_stream_int8.cu, in plain C++, so that a test without a GPU can check it.
 *
 * A row of a matrix is cut into groups of 16 values. In a group, word q of four bytes
 * has the values 2q, 2q + 8, 2q + 1 and 2q + 9: those of lane q of four in the operand
 * of mma.m16n8k16. So ldmatrix, which gives each lane one word of a group, needs no
 * exchange between lanes after it, and the two halves of mma's operand are the even and
 * the odd bytes of that word. */
#ifndef QE_INT8_LAYOUT_H
#define QE_INT8_LAYOUT_H

#ifdef __CUDACC__
#define EVERYWHERE __host__ __device__
#else
#define EVERYWHERE
#endif

#define INT8_GROUP 16
#define INT8_LARGEST 127.0f
#define INT8_BLOCK 64 /* values of a row in a block of the ring */

/* The byte of value k, below INT8_GROUP, in its group. */
static constexpr EVERYWHERE int
int8_place(int k)
{
    return k % 8 / 2 * 4 + k % 2 * 2 + k / 8;
}

/* The byte of a row's group within a block of the ring. Groups are permuted by the
 * row's number, so that ldmatrix has no bank conflicts: eight rows of 64 bytes would
 * have equal groups in two places of the 128 bytes of all banks. */
static constexpr EVERYWHERE int
int8_ring_offset(int row, int group)
{
    return row * INT8_BLOCK +
           ((group ^ row / 2) % (INT8_BLOCK / INT8_GROUP)) * INT8_GROUP;
}

#endif
