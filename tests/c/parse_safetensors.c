/* parse_safetensors.c: the verdict of qe_safetensors_open() on files, for pytest.
 *
 * Reads one path per line; answers one line for each: "ok" and the number of tensors,
 * or the status and the message. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

int
main(void)
{
    char *path = NULL;
    size_t n_bytes = 0;

    while (getline(&path, &n_bytes, stdin) > 0) {
        struct qe_safetensors file;
        struct qe_error err;
        path[strcspn(path, "\n")] = '\0';
        if (qe_safetensors_open(path, &file, &err) < 0) {
            printf("%d %s\n", err.status, err.message);
        } else {
            printf("ok %d\n", file.n_tensors);
            qe_safetensors_close(&file);
        }
        fflush(stdout);
    }
    free(path);
    return 0;
}
