/* arithmetic.h: integer arithmetic of sizes and counts. */
#ifndef QE_ARITHMETIC_H
#define QE_ARITHMETIC_H

#include <stddef.h>

static inline int
smaller(int a, int b)
{
    return a < b ? a : b;
}

/* a / b, rounded up; a at least 0, b at least 1. */
static inline int
ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* The least multiple of step that is at least n. */
static inline size_t
round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

#endif
