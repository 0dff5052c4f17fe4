/* fault_runs.c: the loop over n, and what each run must leave. */
#include "fault_runs.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include "faults.h"

void
require(int holds, const char *what)
{
    if (!holds) {
        faults_disarm();
        printf("broken: %s\n", what);
        exit(1);
    }
}

/* Descriptors that are open. */
static int
count_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int n = 0;

    require(folder != NULL, "/proc for the test");
    while (readdir(folder) != NULL) {
        n++;
    }
    closedir(folder);
    return n;
}

/* Whether some file of inputs is mapped. */
static int
is_mapped(const struct inputs *inputs)
{
    char line[8192];
    FILE *maps = fopen("/proc/self/maps", "r");
    int found = 0;

    require(maps != NULL, "/proc for the test");
    while (fgets(line, sizeof line, maps) != NULL) {
        for (int i = 0; i < inputs->n_paths; i++) {
            found |= strstr(line, inputs->paths[i]) != NULL;
        }
    }
    fclose(maps);
    return found;
}

static void
check_error(const struct qe_error *err, int status, const char *function)
{
    const void *end = memchr(err->message, '\0', sizeof err->message);

    require(end != NULL && err->message[0] != '\0', "a failure has a message");
    require(err->status == status, "the error has the status that was returned");
    if (strstr(function, "alloc") != NULL || strcmp(function, "strdup") == 0) {
        require(status == QE_ENOMEM, "no memory is QE_ENOMEM");
    } else if (strcmp(function, "open") == 0 || strcmp(function, "fstat") == 0) {
        require(status == QE_EIO && err->os_errno != 0, "a file's failure is QE_EIO");
    } else {
        require(status == QE_ENOMEM || status == QE_EIO || status == QE_EDEVICE,
                "a failure of the system has a status of the system");
    }
}

void
run_scenario(const char *name, scenario *run, const struct inputs *inputs)
{
    int n_errors = 0, n_hints = 0;

    require(run(inputs, &(struct qe_error){0}) == 0, "it works without a fault");
    int n_descriptors = count_descriptors();
    faults_count();
    require(run(inputs, &(struct qe_error){0}) == 0,
            "it works while calls are counted");
    faults_disarm();
    for (int n = 0; faults_arm(n); n++) {
        struct qe_error err = {0};
        memset(err.message, 'x', sizeof err.message);
        int status = run(inputs, &err);
        const char *function = faults_disarm();
        if (function == NULL) { /* a hint's thread was stopped before that call */
            require(status == 0, "a run without a fault works");
        } else if (status < 0) {
            check_error(&err, status, function);
            n_errors++;
        } else {
            n_hints++;
        }
        require(count_descriptors() == n_descriptors, "descriptors are closed");
        require(!is_mapped(inputs), "files are unmapped");
#if defined(__SANITIZE_ADDRESS__)
        if (__lsan_do_recoverable_leak_check() != 0) {
            printf("%s: call %d, %s: leak\n", name, n, function ? function : "none");
            exit(1);
        }
#endif
    }
    printf("%s: %d faults, %d clean errors, %d without effect\n", name,
           n_errors + n_hints, n_errors, n_hints);
}

struct inputs
read_inputs(int argc, char **argv)
{
    if (argc < 2 + N_MODEL_ARGS) {
        fprintf(stderr, "usage: %s 7 sizes, files\n", argv[0]);
        exit(2);
    }
    return (struct inputs){
        .config = model_config(argv + 1),
        .paths = (const char *const *)argv + 1 + N_MODEL_ARGS,
        .n_paths = argc - 1 - N_MODEL_ARGS,
    };
}
