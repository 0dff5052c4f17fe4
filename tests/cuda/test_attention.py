"""Each attention kernel against the definition, over lengths, heads, prefixes and company.

Needs a GPU, PyTorch and QE_ATTENTION_LIBRARY.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
if "QE_ATTENTION_LIBRARY" not in os.environ:
    pytest.skip("QE_ATTENTION_LIBRARY is not set", allow_module_level=True)

from tests.cuda.attention_kernel import (  # noqa: E402
    HS,
    Attention,
    Seq,
    expected_output,
    pack,
    random_qkv,
    with_prefix,
)

LENGTHS = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257, 511, 1000, 2049]
TAILS = [1, 2, 17, 44, 45, 63, 64, 65, 150, 500]
HEADS = [(1, 1), (2, 1), (16, 8), (32, 8), (6, 2), (16, 2)]

# Probabilities are rounded to bf16, and so is the output: by 2^-9 of themselves at most, each.
TOLERANCE = 2.0**-8


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int16)


def run(qkv: torch.Tensor, seqs: list[Seq], heads: tuple[int, int]) -> torch.Tensor:
    out = qkv.clone()
    Attention(out, seqs, *heads)()
    return out


def check(seqs: list[Seq], heads: tuple[int, int], gap: int) -> None:
    """Right, nothing else touched, and every text as alone."""
    n_heads = heads[0]
    qkv = random_qkv(seqs, *heads, gap)
    out = run(qkv, seqs, heads)
    untouched = torch.ones(qkv.shape[:2], dtype=torch.bool, device="cuda")
    for seq in seqs:
        rows = slice(seq.row, seq.row + seq.n_tokens)
        untouched[rows, :n_heads] = False
        expected = expected_output(qkv, seq, *heads)
        error = (out[rows, :n_heads] - expected).norm() / expected.norm()
        assert error < TOLERANCE, (seq, float(error))
        alone = with_prefix(qkv, seq)
        alone = torch.cat([alone, torch.full_like(alone[:1], torch.nan)])
        alone = run(alone, [Seq(seq.n_keys, 0)], heads)[seq.n_prefix : seq.n_keys, :n_heads]
        assert torch.equal(bits(alone), bits(out[rows, :n_heads])), seq
    assert torch.equal(bits(out[untouched]), bits(qkv[untouched]))


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("gap", [0, 1])
def test_lengths(heads: tuple[int, int], gap: int) -> None:
    check(pack(LENGTHS, gap), heads, gap)


@pytest.mark.parametrize("heads", [(16, 8), (32, 8), (6, 2)], ids=str)
@pytest.mark.parametrize("n_prefix", [1, 20, 63, 64, 65, 127, 128, 129, 256, 300, 385])
def test_prefixes(n_prefix: int, heads: tuple[int, int]) -> None:
    check(pack(TAILS, 1, n_prefix), heads, 1)


@pytest.mark.parametrize("heads", [(2, 1), (4, 1)], ids=str)
def test_long_beside_short(heads: tuple[int, int]) -> None:
    check(pack([1, 8191, 3, 16384]), heads, 0)


@pytest.mark.parametrize("heads", [(16, 8), (32, 8), (8, 8)], ids=str)
def test_short_and_tall_blocks_give_the_same_bits(heads: tuple[int, int]) -> None:
    """For a text of one short tile the engine may take either."""
    seqs = pack(list(range(1, 65)) * 3)
    qkv = random_qkv(seqs, *heads)
    outs = []
    for tall in (False, True):
        outs.append(qkv.clone())
        Attention(outs[-1], seqs, *heads, tall)()
    assert torch.equal(bits(outs[0]), bits(outs[1]))


def test_many_texts_and_again() -> None:
    """More items than multiprocessors, several times each, run after run."""
    seqs = pack([1 + i * 37 % 400 for i in range(300)], 1)
    qkv = random_qkv(seqs, 16, 8, 1)
    first = run(qkv, seqs, (16, 8))
    for seq in seqs[::29]:
        expected = expected_output(qkv, seq, 16, 8)
        error = (first[seq.row : seq.row + seq.n_tokens, :16] - expected).norm()
        assert error < TOLERANCE * expected.norm(), seq
    for _ in range(20):
        assert torch.equal(bits(run(qkv, seqs, (16, 8))), bits(first))


def test_large_scores() -> None:
    """Scores far past exp's range, a row of one value only, and zeros."""
    seqs = pack([300])
    qkv = random_qkv(seqs, 2, 1) * 40
    qkv[:, 3] = qkv[:, 3].sign()
    expected = expected_output(qkv, seqs[0], 2, 1)
    error = (run(qkv, seqs, (2, 1))[:, :2] - expected).norm() / expected.norm()
    assert error < TOLERANCE, float(error)
    zeros = torch.zeros(300, 4, HS, device="cuda", dtype=torch.bfloat16)
    assert not run(zeros, seqs, (2, 1)).any()
