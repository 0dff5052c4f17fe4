"""Long texts, piece by piece: the ids are those of the whole text, whatever it is made of."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

import qwen3_embed.loading.token_stream as token_stream
from qwen3_embed.loading import tokenizer as tokenizer_module
from qwen3_embed.loading.token_stream import TokenStream
from qwen3_embed.loading.tokenizer import Tokenizer
from tests.support.make_model import byte_tokenizer, qwen3_tokenizer

N_TEXTS = int(os.environ.get("QE_TEST_TEXTS", "24"))  # 10,000 were tried

# What could go wrong at a cut: white space of every kind, contractions in both cases, letters that
# change case by more than one character, digits, symbols, marks that compose or reorder, jamo,
# added tokens whole and in part, singletons of NFC, control characters.
ATOMS = """a Z é e\u0301 's 'S 'll ' don't \u017f '\u017f K \u212a 1 23 \u0663 \u00bd \u2167 \u00b2
- -- = 。 ， 重 力 の か\u3099 가 각 \u1100\u1161\u11a8 \u1161 🦊 👩\u200d🚀 \u0301 \u0323\u0301
\u0958 \u0f71\u0f72 ä\u0323 < | <|im_end|> <|im_ <think> </think> _ > العربية ไทย हिन्दी
\U0001d400 \ufeff # // (): \u037e \u0338 <\u0338 \U000110b9\U000110ba \u180e \u200b"""
SPACES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "\u3000",
    "\xa0",
    "\u2028",
    "\u2000",
    "\x85",
    "\x1c",
]
PARTS = [*ATOMS.split(), *SPACES, "\x00", "\x7f"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.write_text(json.dumps(qwen3_tokenizer()))
    return made


@pytest.fixture(scope="module")
def real(path: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(path))


def hostile(source: random.Random) -> str:
    """Runs of a few atoms, some of them long."""
    atoms = source.choices(PARTS, k=source.randint(1, 8))
    parts = []
    for _ in range(source.choice([3, 10, 40, 200])):
        atom = source.choice(atoms) if source.random() < 0.85 else source.choice(PARTS)
        parts.append(atom * (1 if source.random() < 0.7 else source.randint(1, 60)))
    return "".join(parts)


def ids_of(stream: TokenStream, text: str) -> list[int]:
    return [token_id for piece in stream.ids(text) for token_id in piece]


def test_hostile_texts(real: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut everywhere: with pieces from one character on."""
    stream = TokenStream.of(real)
    assert stream is not None
    for seed in range(N_TEXTS):
        source = random.Random(seed)
        monkeypatch.setattr(token_stream, "_PIECE", source.choice([1, 3, 8, 30, 100, 1000]))
        monkeypatch.setattr(token_stream, "_LONG_WORD", source.choice([8, 20, 64, 500]))
        monkeypatch.setattr(token_stream, "_WINDOW", source.choice([20, 100, 300, 600]))
        text = hostile(source)
        assert ids_of(stream, text) == real.encode(text, add_special_tokens=False).ids, seed


@pytest.mark.parametrize(
    "unit", ["-", "=", " ", "\n", "a", "ab", " \n ", "重", "🦊", "\u0301", "7"]
)
def test_long_runs(real: tokenizers.Tokenizer, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that are longer than a window, cut within."""
    monkeypatch.setattr(token_stream, "_WINDOW", 1 << 12)
    stream = TokenStream.of(real)
    assert stream is not None
    text = f"x{unit * (60_000 // len(unit))}y"
    assert ids_of(stream, text) == real.encode(text, add_special_tokens=False).ids


def test_white_space_is_that_of_the_expression() -> None:
    """Every character is in both sets or in neither."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\s"), "isolated")
    text = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    found = {part for part, _ in split.pre_tokenize_str(text) if len(part) == 1}
    assert found == set(token_stream._SPACE)


def test_ten_megabytes(path: Path) -> None:
    """Little memory and time for any of them; their full lengths aren't known."""
    made = Tokenizer(path, vocab_size=151669, max_length=4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    batch = made.encode(
        ["The capital of China is Beijing. " * 300_000, "重力是一种力，" * 1_400_000]
    )
    assert time.perf_counter() - begin < 20  # 0.5 s on a quiet machine; all of it takes 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    assert np.diff(batch.cu_seqlens).tolist() == [4096, 4096]
    assert batch.lengths.tolist() == [32769, 32769]


def test_lines_of_dashes_fit(path: Path) -> None:
    """780,010 characters are 24,005 tokens: a limit of characters would cut them."""
    made = Tokenizer(path, vocab_size=151669, max_length=32768)
    text = ("-" * 64 + "\n") * 12000 + "-" * 10
    batch = made.encode([text])
    assert len(text) == 780_010
    assert batch.lengths[0] == len(batch.tokens) == made.count([text])[0]
    assert batch.lengths[0] <= 32768


def test_other_tokenizers_are_tokenised_whole(real: tokenizers.Tokenizer) -> None:
    def built(
        normalizer: Any = real.normalizer, pre_tokenizer: Any = real.pre_tokenizer, **token: bool
    ) -> TokenStream | None:
        made = tokenizers.Tokenizer(real.model)
        if normalizer is not None:
            made.normalizer = normalizer
        if pre_tokenizer is not None:
            made.pre_tokenizer = pre_tokenizer
        made.add_tokens([tokenizers.AddedToken("<think>", normalized=False, **token)])
        return TokenStream.of(made)

    assert built() is not None
    assert built(normalizer=None) is None
    assert built(normalizer=tokenizers.normalizers.NFKC()) is None
    assert built(pre_tokenizer=None) is None
    assert built(pre_tokenizer=tokenizers.pre_tokenizers.ByteLevel()) is None
    assert built(lstrip=True) is None
    assert built(rstrip=True) is None
    assert built(single_word=True) is None
    byte = tokenizers.Tokenizer.from_str(json.dumps(byte_tokenizer(300)))
    assert TokenStream.of(byte) is None


def test_a_surrogate_behind_the_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tokenizer(path, vocab_size=151669, max_length=16)
    monkeypatch.setattr(tokenizer_module, "_LONG_TEXT", 10)
    with pytest.raises(UnicodeError):
        made.encode(["word " * 100_000 + "\ud800"])


def test_the_regular_expression_is_written_once() -> None:
    """The stream knows the expression of the real file, byte for byte."""
    steps = qwen3_tokenizer()["pre_tokenizer"]["pretokenizers"]
    assert steps[0]["pattern"]["Regex"] == token_stream._WORDS
    assert re.fullmatch(r"[^\n]+", token_stream._WORDS)
