/* seam.h: the C headers that this folder implements, made readable to C++. */
#ifndef QE_SEAM_H
#define QE_SEAM_H

#include <atomic>
#include <stddef.h>
#include <stdint.h>

using std::atomic_int; /* what backend.h calls by its C name, with the same layout */

extern "C" {
#include "cuda_library.h"
}

#endif
