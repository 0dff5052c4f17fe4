/* json.c: strict by RFC 8259 in what it takes, and takes only what a header may hold.
 */
#include "json.h"

#include <stdio.h>
#include <string.h>

#define MAX_DIGITS 19 /* so that a number always fits 64 bits */

int
qe_json_malformed(const struct qe_json *json, const char *expected)
{
    char found[32] = "the end of the header";

    if (json->at < json->end) {
        bool visible = *json->at > ' ' && *json->at < 0x7f;
        snprintf(found, sizeof found, visible ? "'%c'" : "byte 0x%02x", *json->at);
    }
    return qe_fail(json->err, QE_EFORMAT,
                   "%s: damaged header: found %s at byte %zu, expected %s; "
                   "download the file again",
                   json->file, found, (size_t)(json->at - json->start), expected);
}

/* Bytes of the UTF-8 character at s (n_bytes > 0), or 0 where there is none: neither
 * overlong forms, nor surrogates, nor anything past U+10FFFF. */
static size_t
utf8_length(const unsigned char *s, size_t n_bytes)
{
    /* Bounds of the second byte shut out what the first byte alone can't. */
    unsigned char low = 0x80, high = 0xbf;
    size_t length;

    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        length = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        length = 3;
        low = s[0] == 0xe0 ? 0xa0 : 0x80;
        high = s[0] == 0xed ? 0x9f : 0xbf;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        length = 4;
        low = s[0] == 0xf0 ? 0x90 : 0x80;
        high = s[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (length > n_bytes || s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf) {
            return 0;
        }
    }
    return length;
}

int
qe_json_start(struct qe_json *json, const char *file, const unsigned char *text,
              size_t n_bytes, struct qe_error *err)
{
    *json = (struct qe_json){file, text, text, text + n_bytes, err};
    while (json->at < json->end) {
        size_t length = utf8_length(json->at, (size_t)(json->end - json->at));
        if (length == 0) {
            return qe_json_malformed(json, "UTF-8");
        }
        json->at += length;
    }
    json->at = text;
    return 0;
}

static void
skip_space(struct qe_json *json)
{
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' ||
                                    *json->at == '\t' || *json->at == '\r')) {
        json->at++;
    }
}

bool
qe_json_take(struct qe_json *json, char c)
{
    skip_space(json);
    if (json->at == json->end || *json->at != (unsigned char)c) {
        return false;
    }
    json->at++;
    return true;
}

int
qe_json_expect(struct qe_json *json, char c)
{
    char quoted[] = {'\'', c, '\'', '\0'};

    return qe_json_take(json, c) ? 0 : qe_json_malformed(json, quoted);
}

int
qe_json_separator(struct qe_json *json, char close, bool *more)
{
    *more = qe_json_take(json, ',');
    return *more ? 0 : qe_json_expect(json, close);
}

/* The four hexadecimal digits of an escape \u. */
static int
read_hex4(struct qe_json *json, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = json->at < json->end ? *json->at : 0;
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = c - '0';
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (c | 0x20) - 'a' + 10u;
        } else {
            return qe_json_malformed(json, "four hexadecimal digits");
        }
        *code = *code << 4 | digit;
        json->at++;
    }
    return 0;
}

/* After the u of an escape: a code point, from a pair of them if it is a surrogate. */
static int
read_unicode_escape(struct qe_json *json, uint32_t *code)
{
    uint32_t low;

    if (read_hex4(json, code) < 0) {
        return json->err->status;
    }
    if (*code < 0xd800 || *code > 0xdfff) {
        return 0;
    }
    if (*code > 0xdbff || json->end - json->at < 2 || json->at[0] != '\\' ||
        json->at[1] != 'u') {
        return qe_json_malformed(json, "surrogates in pairs");
    }
    json->at += 2;
    if (read_hex4(json, &low) < 0) {
        return json->err->status;
    }
    if (low < 0xdc00 || low > 0xdfff) {
        return qe_json_malformed(json, "surrogates in pairs");
    }
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

/* What follows a backslash, as UTF-8. */
static int
read_escape(struct qe_json *json, char utf8[4], size_t *length)
{
    static const char escapes[] = "\"\\/bfnrtu", meanings[] = "\"\\/\b\f\n\r\t";
    static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    const char *escape = json->at < json->end ? memchr(escapes, *json->at, 9) : NULL;
    uint32_t code;

    if (escape == NULL) {
        return qe_json_malformed(json, "an escape character");
    }
    json->at++;
    if (*escape != 'u') {
        code = (uint32_t)meanings[escape - escapes];
    } else if (read_unicode_escape(json, &code) < 0) {
        return json->err->status;
    }
    *length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = *length - 1; i > 0; i--) {
        utf8[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    utf8[0] = (char)(leads[*length] | code);
    return 0;
}

int
qe_json_string(struct qe_json *json, char *out, size_t max_bytes)
{
    size_t n_bytes = 0;

    if (qe_json_expect(json, '"') < 0) {
        return json->err->status;
    }
    for (;;) {
        const unsigned char *start = json->at;
        if (start == json->end || *start < ' ') {
            return qe_json_malformed(json, "the rest of a string");
        }
        char utf8[4] = {(char)*json->at++};
        size_t length = 1;
        if (utf8[0] == '"') {
            break;
        }
        if (utf8[0] == '\\' && read_escape(json, utf8, &length) < 0) {
            return json->err->status;
        }
        if (out == NULL) {
            continue;
        }
        if ((unsigned char)utf8[0] < ' ' || utf8[0] == 0x7f) {
            json->at = start;
            return qe_json_malformed(json, "no control character in a name");
        }
        if (n_bytes + length > max_bytes) {
            json->at = start;
            return qe_json_malformed(json, "the end of a name that is too long");
        }
        memcpy(out + n_bytes, utf8, length);
        n_bytes += length;
    }
    if (out != NULL) {
        out[n_bytes] = '\0';
    }
    return 0;
}

static int
read_integer(struct qe_json *json, uint64_t *value)
{
    int n_digits = 0;

    skip_space(json);
    const unsigned char *first = json->at;
    *value = 0;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        n_digits++;
        if (n_digits > MAX_DIGITS || (n_digits == 2 && *first == '0')) {
            return qe_json_malformed(json, "the end of a number");
        }
        *value = 10 * *value + (*json->at++ - '0');
    }
    return n_digits > 0 ? 0 : qe_json_malformed(json, "a whole number");
}

int
qe_json_integers(struct qe_json *json, int max, uint64_t *values, int *n_values)
{
    bool more;

    *n_values = 0;
    if (qe_json_expect(json, '[') < 0) {
        return json->err->status;
    }
    if (qe_json_take(json, ']')) {
        return 0;
    }
    do {
        if (*n_values == max) {
            return qe_json_malformed(json, "the end of an array that is too long");
        }
        if (read_integer(json, &values[(*n_values)++]) < 0 ||
            qe_json_separator(json, ']', &more) < 0) {
            return json->err->status;
        }
    } while (more);
    return 0;
}

int
qe_json_skip_strings(struct qe_json *json)
{
    bool more;

    if (qe_json_expect(json, '{') < 0) {
        return json->err->status;
    }
    if (qe_json_take(json, '}')) {
        return 0;
    }
    do {
        if (qe_json_string(json, NULL, 0) < 0 || qe_json_expect(json, ':') < 0 ||
            qe_json_string(json, NULL, 0) < 0 ||
            qe_json_separator(json, '}', &more) < 0) {
            return json->err->status;
        }
    } while (more);
    return 0;
}
