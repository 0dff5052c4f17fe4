/* prefix.c: sorts texts by token ids, then makes one pass over neighbours.
 *
 * A group grows while the tokens it saves, (members - 1) x common length, do not
 * shrink. Greedy and one level deep: enough for instructions, rerankers' queries and
 * repeated texts, which are what batches share. */
#include "prefix.h"

#include <stdlib.h>

#include "arithmetic.h"

static int
compare_tokens(const void *left, const void *right)
{
    const struct qe_prefix_item *a = left, *b = right;
    int n = smaller(a->seq->n_tokens, b->seq->n_tokens);

    for (int i = 0; i < n; i++) {
        if (a->seq->tokens[i] != b->seq->tokens[i]) {
            return a->seq->tokens[i] < b->seq->tokens[i] ? -1 : 1;
        }
    }
    if (a->seq->n_tokens != b->seq->n_tokens) {
        return a->seq->n_tokens < b->seq->n_tokens ? -1 : 1;
    }
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Tokens that a and b share at the start, leaving each at least one of its own. */
static int
shared_tokens(const struct qe_seq *a, const struct qe_seq *b)
{
    int n = smaller(a->n_tokens, b->n_tokens) - 1;
    int i = 0;

    while (i < n && a->tokens[i] == b->tokens[i]) {
        i++;
    }
    return i;
}

/* The group that begins at items[first]: how many members, and the tokens they share.
 */
static int
grow_group(const struct qe_prefix_item *items, int n_items, int first, int *n_shared)
{
    int n = 1;
    long saved = 0;

    *n_shared = 0;
    for (int next = first + 1; next < n_items; next++) {
        int shared = shared_tokens(items[next - 1].seq, items[next].seq);
        if (n > 1 && *n_shared < shared) {
            shared = *n_shared;
        }
        if (shared == 0 || (long)n * shared < saved) {
            break;
        }
        saved = (long)n * shared;
        *n_shared = shared;
        n++;
    }
    return n;
}

int
qe_prefix_share(const struct qe_seq *seqs, int n_seqs, struct qe_seq *out,
                struct qe_prefix_item *items)
{
    int n_prefixes = 0;

    for (int i = 0; i < n_seqs; i++) {
        items[i] = (struct qe_prefix_item){.seq = &seqs[i], .index = i};
    }
    qsort(items, n_seqs, sizeof *items, compare_tokens);

    /* First the prefixes, at the front; texts go to the back, n_seqs / 2 further on,
     * and move up once the prefixes are counted. */
    struct qe_seq *texts = out + n_seqs / 2;
    for (int first = 0; first < n_seqs;) {
        int n_shared;
        int n = grow_group(items, n_seqs, first, &n_shared);
        int prefix = -1;

        if ((long)(n - 1) * n_shared >= QE_PREFIX_MIN_SAVED_TOKENS) {
            prefix = n_prefixes++;
            out[prefix] = (struct qe_seq){
                .tokens = items[first].seq->tokens, .n_tokens = n_shared, .prefix = -1};
        }
        for (int i = first; i < first + n; i++) {
            struct qe_seq *text = &texts[items[i].index];
            *text = *items[i].seq;
            if (prefix >= 0) {
                text->tokens += n_shared;
                text->n_tokens -= n_shared;
                text->prefix = prefix;
            }
        }
        first += n;
    }
    for (int i = 0; i < n_seqs; i++) {
        out[n_prefixes + i] = texts[i];
    }
    return n_prefixes;
}
