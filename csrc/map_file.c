/* map_file.c: open, checked, mapped, checked again, since a file may be growing. */
#define _DEFAULT_SOURCE
#include "map_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHOWN_PATH_BYTES 200 /* so that a message keeps room for its point */

const char *
qe_shown_path(const char *path)
{
    size_t n_bytes = strlen(path);

    return n_bytes > SHOWN_PATH_BYTES ? path + n_bytes - SHOWN_PATH_BYTES : path;
}

int
qe_map_file(const char *path_name, const unsigned char **map_at, size_t *map_bytes,
            struct qe_error *err)
{
    const char *path = qe_shown_path(path_name);
    struct stat before, after;
    void *map;

    /* O_NONBLOCK: a named pipe must not hold us; it changes nothing for a file. */
    int fd = open(path_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return qe_fail_errno(err, "%s: can't open", path);
    }
    if (fstat(fd, &before) < 0) {
        qe_fail_errno(err, "%s: can't read its size", path);
        goto fail;
    }
    if (!S_ISREG(before.st_mode)) {
        qe_fail(err, QE_EFORMAT, "%s: a folder or device, expected a file", path);
        goto fail;
    }
    if (before.st_size == 0) {
        qe_fail(err, QE_EFORMAT, "%s: empty; download the file again", path);
        goto fail;
    }
    map = mmap(NULL, (size_t)before.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        qe_fail_errno(err, "%s: can't map %lld bytes", path, (long long)before.st_size);
        goto fail;
    }
    *map_at = map;
    *map_bytes = (size_t)before.st_size;
    /* Pages past the end of a file that shrinks kill the process that reads them. */
    if (fstat(fd, &after) < 0) {
        qe_fail_errno(err, "%s: can't read its size", path);
        goto fail;
    }
    if (after.st_size != before.st_size) {
        qe_fail(err, QE_EFORMAT,
                "%s: it went from %lld to %lld bytes while being opened; wait until "
                "its download ends",
                path, (long long)before.st_size, (long long)after.st_size);
        goto fail;
    }
    close(fd);
    return 0;

fail:
    close(fd);
    return err->status;
}
