"""Train the model's byte-level BPE tokenizer on a balanced sample of the corpus.

The one idea: everything but the vocabulary is as in the official tokenizer: NFC, the same
splitting pattern, byte level, and `<|endoftext|>` appended by the post-processor.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"
VOCAB_SIZE = 16384
# Characters of the sample: kinds of text that evaluation and users meet, not what is plenty.
SHARES = {"en": 14e6, "title": 5e6, "entry": 3e6, "sense": 4e6, "code": 7e6, "parallel": 14e6}
SHARES |= {"zh": 4e6, "en_zh": 4e6}


def sample(path: Path) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on; Chinese ones twice."""
    used = dict.fromkeys(SHARES, 0.0)
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            kind, _, _, query, document, _ = json.loads(line)
            if used.get(kind, float("inf")) > SHARES.get(kind, 0):
                continue
            used[kind] += len(query) + len(document)
            yield query
            yield document
            if kind in ("zh", "en_zh", "parallel"):
                yield document


def train(corpus: Path, out: Path) -> Tokenizer:
    """Train on `corpus` and write tokenizer.json to `out`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(PATTERN), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        initial_alphabet=ByteLevel.alphabet(),
        min_frequency=3,
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(corpus), trainer)
    tokenizer.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = ProcessorSequence(
        [
            ByteLevelProcessor(trim_offsets=False, add_prefix_space=False, use_regex=False),
            TemplateProcessing(
                single=f"$A {END}", pair=f"$A {END} $B:1 {END}:1", special_tokens=[(END, end)]
            ),
        ]
    )
    tokenizer.save(str(out), pretty=False)
    return tokenizer
