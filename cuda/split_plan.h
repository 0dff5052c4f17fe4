/* split_plan.h: which layers of a model each of several GPUs has, and how a batch is
 * cut so that all of them work at once, as pure functions in plain C++: a test without
 * a GPU knows them, too. */
#ifndef QE_SPLIT_PLAN_H
#define QE_SPLIT_PLAN_H

#include "arithmetic.h"
#include "seam.h"

/* ---- layers ---- */

/* A GPU's memory: what is free, and what its part of the model takes beside layers. */
struct stage_room {
    size_t free_bytes, fixed_bytes;
};

/* A split may take this much more of a GPU's memory than the one that takes least, if
 * that makes the numbers of layers, and so the GPUs' times, more even. */
#define EVEN_PART 1.02

/* The part of a GPU's free memory that n layers and the rest take. */
static inline double
room_share(const struct stage_room *room, int n, size_t layer_bytes)
{
    const double free_bytes = room->free_bytes > 0 ? (double)room->free_bytes : 1.0;

    return ((double)room->fixed_bytes + (double)n * (double)layer_bytes) / free_bytes;
}

/* Gives n_layers to GPUs (n_stages, at most n_layers), at least one to each, so that
 * the largest share of free memory is the least possible; or, within EVEN_PART of it,
 * the numbers (n_stages) are most even. The last GPU has one more rather than the
 * first, since the last layer is computed for last tokens only. */
static inline void
split_layers(const struct stage_room *rooms, int n_stages, int n_layers,
             size_t layer_bytes, int *counts)
{
    double limit = 0;

    for (int even = 0; even <= 1; even++) {
        for (int s = 0; s < n_stages; s++) {
            counts[s] = 1;
        }
        for (int rest = n_layers - n_stages; rest > 0; rest--) {
            int chosen = -1;
            double least = 0;
            for (int s = n_stages - 1; s >= 0; s--) {
                double share = room_share(&rooms[s], counts[s] + 1, layer_bytes);
                double cost = even ? counts[s] : share;
                if (even && share > limit) {
                    continue;
                }
                if (chosen < 0 || cost < least) {
                    chosen = s;
                    least = cost;
                }
            }
            counts[chosen]++;
        }
        for (int s = 0; s < n_stages && !even; s++) {
            double share = room_share(&rooms[s], counts[s], layer_bytes);
            limit = share > limit ? share : limit;
        }
        if (!even) { /* no split that fits is given up for an evener one */
            limit = limit <= 1 && limit * EVEN_PART > 1 ? 1 : limit * EVEN_PART;
        }
    }
}

/* ---- micro-batches ---- */

/* Of n equal micro-batches the first GPU of two computes n while the last waits for
 * one: the more there are, the less is lost, until products have too few rows to be
 * fast. */
#define MICRO_BATCHES 8
#define MIN_MICRO_TOKENS 1024
/* A shared prefix is computed again in each micro-batch, at most this part of it. */
#define PREFIX_PART 8

/* Texts that go through the GPUs together. */
struct micro_batch {
    int first_seq, n_seqs; /* in cut.seqs */
    int n_tokens;
    int slot; /* of the two batches that a GPU holds */
};

/* How a batch was cut. Arrays have room for max_texts texts. */
struct cut {
    struct qe_seq *seqs;        /* (2 max_texts) prefixes stand before their texts */
    struct micro_batch *micros; /* (max_texts) */
    int32_t *places;            /* (max_texts 3 / 2) of each sequence in seqs, or -1 */
    int n_seqs, n_micros;
};

struct cut_limits {
    int micro_tokens; /* of a micro-batch that keeps a GPU busy                    */
    int max_rows;     /* of any; a text and its prefix have no more                */
    int max_seqs;
    int second_rows;   /* of what the second slot holds                             */
    size_t max_floats; /* of results                                                */
};

/* The tokens at which a micro-batch is complete. */
static inline int
micro_batch_tokens(int n_tokens, int longest_prefix, const struct cut_limits *limits)
{
    int tokens = ceil_div(n_tokens, MICRO_BATCHES);

    tokens = tokens > MIN_MICRO_TOKENS ? tokens : MIN_MICRO_TOKENS;
    tokens = smaller(tokens, limits->micro_tokens);
    if (longest_prefix > tokens / PREFIX_PART) {
        tokens = longest_prefix > limits->max_rows / PREFIX_PART
                     ? limits->max_rows
                     : longest_prefix * PREFIX_PART;
    }
    return tokens;
}

/* A batch longer than the second slot takes the first one. */
static inline void
choose_slot(struct cut *cut, const struct cut_limits *limits)
{
    struct micro_batch *micro = &cut->micros[cut->n_micros - 1];
    const bool first = cut->n_micros == 1;

    if (!first && micro[-1].slot == 0 &&
        round_up(micro->n_tokens, 128) <= (size_t)limits->second_rows) {
        micro->slot = 1;
    }
}

/* Cuts a batch between texts. Every text is in one micro-batch, in order, with its
 * prefix before it, which is repeated in each micro-batch that needs it. */
static inline void
cut_batch(const struct qe_batch *batch, const struct cut_limits *limits,
          struct cut *cut)
{
    struct micro_batch *micro = NULL;
    size_t n_floats = 0;
    int longest_prefix = 0;

    for (int i = 0; i < batch->n_seqs; i++) {
        const struct qe_seq *seq = &batch->seqs[i];
        cut->places[i] = -1;
        if (seq->out == NULL && seq->n_tokens > longest_prefix) {
            longest_prefix = seq->n_tokens;
        }
    }
    const int tokens = micro_batch_tokens(batch->n_tokens, longest_prefix, limits);
    cut->n_seqs = cut->n_micros = 0;
    for (int i = 0; i < batch->n_seqs; i++) {
        const struct qe_seq *seq = &batch->seqs[i];
        if (seq->out == NULL) {
            continue; /* goes with its texts */
        }
        const int p = seq->prefix;
        bool repeats = p >= 0 && (micro == NULL || cut->places[p] < micro->first_seq);
        int n = seq->n_tokens + (repeats ? batch->seqs[p].n_tokens : 0);
        if (micro == NULL || micro->n_tokens + n > tokens ||
            micro->n_seqs + 1 + repeats > limits->max_seqs ||
            n_floats + seq->n_out > limits->max_floats) {
            if (micro != NULL) {
                choose_slot(cut, limits);
            }
            micro = &cut->micros[cut->n_micros++];
            *micro = {cut->n_seqs, 0, 0, 0};
            n_floats = 0;
            repeats = p >= 0;
        }
        if (repeats) {
            cut->places[p] = cut->n_seqs;
            cut->seqs[cut->n_seqs++] = batch->seqs[p];
            micro->n_tokens += batch->seqs[p].n_tokens;
            micro->n_seqs++;
        }
        cut->seqs[cut->n_seqs] = *seq;
        cut->seqs[cut->n_seqs].prefix = p < 0 ? -1 : cut->places[p] - micro->first_seq;
        cut->n_seqs++;
        micro->n_tokens += seq->n_tokens;
        micro->n_seqs++;
        n_floats += seq->n_out;
    }
    if (micro != NULL) {
        choose_slot(cut, limits);
    }
}

#endif
