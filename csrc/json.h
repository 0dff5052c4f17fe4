/* json.h: reads the tokens of a safetensors header one by one.
 *
 * It is not a JSON library: it reads strings, whole numbers and punctuation for a
 * caller that knows which token must come next. Nothing here is recursive. */
#ifndef QE_JSON_H
#define QE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct qe_json {
    const char *file;           /* borrowed; names the text in messages               */
    const unsigned char *start; /* (end - start) the text                             */
    const unsigned char *at;    /* the next byte; start <= at <= end                  */
    const unsigned char *end;
    struct qe_error *err; /* borrowed; every failure goes here                  */
};

/* Starts reading text (n_bytes), which must be UTF-8 as a whole. */
int qe_json_start(struct qe_json *json, const char *file, const unsigned char *text,
                  size_t n_bytes, struct qe_error *err);

/* QE_EFORMAT: the next byte is not what the caller expected. */
int qe_json_malformed(const struct qe_json *json, const char *expected);

/* Takes c, and white space before it, if it comes next. */
bool qe_json_take(struct qe_json *json, char c);

/* The same where c must come next. */
int qe_json_expect(struct qe_json *json, char c);

/* After an element: *more if a comma follows; if none does, close must. */
int qe_json_separator(struct qe_json *json, char close, bool *more);

/* Decodes a string into out (max_bytes + 1), terminated. It has no control characters,
 * so that it can stand in a message, and takes no more bytes than with its quotes in
 * the text. With out NULL any string will do, and is only checked. */
int qe_json_string(struct qe_json *json, char *out, size_t max_bytes);

/* An array of at most max whole numbers, of at most 19 digits each. */
int qe_json_integers(struct qe_json *json, int max, uint64_t *values, int *n_values);

/* An object of strings: checked, and not kept. */
int qe_json_skip_strings(struct qe_json *json);

#endif
