"""A corpus for benchmarks: words by Zipf's law, lengths log-normal as those of web texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tokenizers

MEAN_LOG, SIGMA_LOG = 4.4, 1.0  # e^(4.4 + 0.5) = 134 words, few of which are cut at the ends
SHORTEST, LONGEST = 1, 2000  # in words, each about a token


def mixed_texts(folder: Path, n_texts: int, seed: int = 0) -> list[str]:
    """n_texts of about 131 tokens on average, of words of the model's own vocabulary."""
    vocabulary = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    words = sorted(
        (token_id, name[1:])
        for name, token_id in vocabulary.items()
        if name.startswith("\u0120") and name[1:].isascii() and name[1:].isalpha()
    )[:20000]
    source = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(words) + 1)
    lengths = np.clip(source.lognormal(MEAN_LOG, SIGMA_LOG, n_texts), SHORTEST, LONGEST)
    lengths = lengths.astype(int)
    drawn = source.choice(len(words), int(lengths.sum()), p=weights / weights.sum())
    names = np.array([name for _, name in words], dtype=object)[drawn]
    ends = np.cumsum(lengths)
    return [" ".join(names[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
