/* seam.h: includes the C headers that this folder implements. */
#ifndef QE_SEAM_H
#define QE_SEAM_H

#include <atomic>
#include <stddef.h>
#include <stdint.h>

using std::atomic_int; /* the C type in backend.h has the same layout */

extern "C" {
#include "cuda_library.h"
#include "equaliser.h"
}

#endif
