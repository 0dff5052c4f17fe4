/* map_file.h: a regular file, mapped read-only. */
#ifndef QE_MAP_FILE_H
#define QE_MAP_FILE_H

#include <stddef.h>

#include "error.h"

/* *map (map_bytes) is the caller's to unmap, also if this fails after setting it; it
 * outlives the descriptor. */
int qe_map_file(const char *path, const unsigned char **map, size_t *map_bytes,
                struct qe_error *err);

/* The end of a path for messages: that of a long one says more than its start. */
const char *qe_shown_path(const char *path);

#endif
