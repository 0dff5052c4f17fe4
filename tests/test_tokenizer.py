"""The real Qwen3 tokenizer: golden ids, the end token, the cut, control tokens."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed.errors import ModelFileError, ModelNotFoundError
from qwen3_embed.loading.tokenizer import Tokenizer, counted_tokens
from tests.support.make_model import byte_tokenizer, qwen3_tokenizer

END = 151643
ROWS = 151669
TASK = "Given a web search query, retrieve relevant passages that answer the query"
PROMPT_IDS = [
    641,
    1235,
    25,
    16246,
    264,
    3482,
    2711,
    3239,
    11,
    17179,
    9760,
    46769,
    429,
    4226,
    279,
    3239,
    198,
    2859,
    25,
]
GRAVITY = (
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical "
    "objects and is responsible for the movement of planets around the sun."
)
# Made with another build of the Rust engine, in part with a tokenizer in JavaScript and by the
# model's own users.
GOLDEN = [
    ("test", [1944]),
    ("test again", [1944, 1549]),
    ("h", [71]),
    ("What is Deep Learning?", [3838, 374, 18183, 20909, 30]),
    ("Deep Learning is...", [33464, 20909, 374, 1112]),
    (
        f"Instruct: {TASK}\nQuery:What is the capital of China?",
        [*PROMPT_IDS, 3838, 374, 279, 6722, 315, 5616, 30],
    ),
    (f"Instruct: {TASK}\nQuery:Explain gravity", [*PROMPT_IDS, 840, 20772, 23249]),
    ("The capital of China is Beijing.", [785, 6722, 315, 5616, 374, 26549, 13]),
    (
        GRAVITY,
        [
            38409,
            374,
            264,
            5344,
            429,
            60091,
            1378,
            12866,
            6974,
            1817,
            1008,
            13,
            1084,
            6696,
            4680,
            311,
            6961,
            6171,
            323,
            374,
            8480,
            369,
            279,
            7203,
            315,
            32875,
            2163,
            279,
            7015,
            13,
        ],
    ),
    (
        "Which planet is known as the Red Planet?",
        [23085, 11580, 374, 3881, 438, 279, 3731, 28835, 30],
    ),
    ("importance of life", [474, 681, 315, 2272]),
    ("回家吃饭了吗", [104122, 104636, 105660]),
    (
        "I'm 42 years old\r\n\r\n  isn't\t\tit?  ",
        [40, 2776, 220, 19, 17, 1635, 2310, 871, 220, 4436, 944, 197, 23374, 30, 256],
    ),
    ("e\u0301 vs \u00e9", [963, 6165, 3958]),
    ("<|im_start|>x<|endoftext|>", [151644, 87, END]),
    ("", []),
    (" ", [220]),
    *[
        (word, [i])
        for word, i in {
            "yes": 9693,
            "no": 2152,
            " yes": 9834,
            " no": 902,
            "Yes": 9454,
            "No": 2753,
            "1": 16,
            "0": 15,
        }.items()
    ],
]


@pytest.fixture(scope="module")
def json_with_end() -> dict[str, Any]:
    """The embedding models' tokenizer.json: with TemplateProcessing."""
    return qwen3_tokenizer()


@pytest.fixture(scope="module")
def with_end(json_with_end: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("with_end") / "tokenizer.json"
    path.write_text(json.dumps(json_with_end, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def without_end(json_with_end: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base models' tokenizer.json: nothing is appended."""
    content = dict(json_with_end)
    content["post_processor"] = content["post_processor"]["processors"][0]
    path = tmp_path_factory.mktemp("without_end") / "tokenizer.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(with_end: Path) -> Tokenizer:
    return Tokenizer(with_end, vocab_size=ROWS, max_length=32768)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text]).tokens.tolist()


@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_golden_ids(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert ids_of(tokenizer, text) == [*ids, END]


def test_batch_is_the_texts_one_after_the_other(tokenizer: Tokenizer) -> None:
    texts = [text for text, _ in GOLDEN]
    batch = tokenizer.encode(texts)
    assert batch.tokens.dtype == batch.cu_seqlens.dtype == np.int32
    assert batch.cu_seqlens[0] == 0
    assert batch.cu_seqlens[-1] == len(batch.tokens)
    for i, (_, ids) in enumerate(GOLDEN):
        begin, end = batch.cu_seqlens[i : i + 2]
        assert batch.tokens[begin:end].tolist() == [*ids, END]
        assert batch.lengths[i] == len(ids) + 1
    assert tokenizer.count(texts).tolist() == batch.lengths.tolist()
    assert tokenizer.count(texts).dtype == np.int64


def test_no_texts(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode([])
    assert (len(batch.tokens), batch.cu_seqlens.tolist(), len(batch.lengths)) == (0, [0], 0)


def test_end_token_is_appended_where_the_file_adds_none(without_end: Path) -> None:
    tokenizer = Tokenizer(without_end, vocab_size=ROWS, max_length=100)
    for text, ids in GOLDEN:
        assert ids_of(tokenizer, text) == [*ids, END]


def test_end_token_is_never_doubled_nor_merged(tokenizer: Tokenizer) -> None:
    """As in transformers: a text's own end token stays, and one more follows."""
    assert ids_of(tokenizer, "test<|endoftext|>") == [1944, END, END]


def test_cut_keeps_the_head_and_the_end_token(with_end: Path) -> None:
    tokenizer = Tokenizer(with_end, vocab_size=ROWS, max_length=5)
    batch = tokenizer.encode([GRAVITY, "What is Deep Learning?", "test", "Deep Learning is..."])
    assert batch.tokens.tolist() == [
        38409,
        374,
        264,
        5344,
        END,
        3838,
        374,
        18183,
        20909,
        END,
        1944,
        END,
        33464,
        20909,
        374,
        1112,
        END,
    ]
    assert batch.cu_seqlens.tolist() == [0, 5, 10, 12, 17]
    assert batch.lengths.tolist() == [31, 6, 2, 5]


@pytest.fixture(scope="module")
def plain(with_end: Path) -> Tokenizer:
    """As rerankers have it: what looks like a control token is text."""
    return Tokenizer(with_end, vocab_size=ROWS, max_length=4096, special_tokens_in_text=False)


MIXED = "The capital of China is 北京 \U0001f98a\U0001f98a, unbelievably 龘龘 so"


@pytest.mark.parametrize("n_tokens", [1, 2, 5, 9, 12, 14, 20, 25, 40])
def test_the_ends_of_a_text(tokenizer: Tokenizer, plain: Tokenizer, n_tokens: int) -> None:
    """Its last tokens instead of its first; as text without the half of a character."""
    ids = ids_of(tokenizer, MIXED)[:-1]
    cut = tokenizer.with_max_length(n_tokens + 1).encode_ends([MIXED, "a"])
    assert cut.tokens[: cut.cu_seqlens[1]].tolist() == [*ids[-n_tokens:], END]
    assert cut.tokens[cut.cu_seqlens[1] :].tolist() == ids_of(tokenizer, "a")
    assert cut.lengths.tolist() == [len(ids) + 1, 2]
    first = tokenizer.first_tokens(MIXED, n_tokens)
    last = tokenizer.last_tokens(MIXED, n_tokens)
    assert MIXED.startswith(first)
    assert MIXED.endswith(last)
    for text, own in ((first, ids[:n_tokens]), (last, ids[-n_tokens:])):
        assert len(text.encode()) <= len(tokenizer.decode(own).encode())
        assert len(ids_of(tokenizer, text)) - 1 <= n_tokens
    if n_tokens >= len(ids):
        assert first == last == MIXED
    assert plain.first_tokens(MIXED, n_tokens) == first
    assert plain.last_tokens(MIXED, n_tokens) == last
    # At most one character, of four bytes, is missing at the cut.
    assert n_tokens - 4 < len(ids_of(tokenizer, first)) or first == MIXED


def test_the_ends_of_a_long_text(tokenizer: Tokenizer) -> None:
    """A long text is tokenised piece by piece."""
    long = "one two three 重力 " * 20_000
    whole = ids_of(tokenizer.with_max_length(10**6), long)
    cut = tokenizer.with_max_length(1000).encode_ends([long])
    assert cut.tokens.tolist() == whole[-1000:]
    assert long.startswith(tokenizer.first_tokens(long, 1000))
    assert long.endswith(tokenizer.last_tokens(long, 1000))


def test_a_prefix_outlives_the_cut(tokenizer: Tokenizer) -> None:
    prefix = f"Instruct: {TASK}\nQuery:"
    limit = len(PROMPT_IDS) + 4
    cut = tokenizer.with_max_length(limit).encode_ends([GRAVITY, "gravity"], prefix)
    own = ids_of(tokenizer, GRAVITY)
    assert cut.tokens[:limit].tolist() == [*PROMPT_IDS, *own[-4:]]
    assert cut.tokens[limit:].tolist() == ids_of(tokenizer, prefix + "gravity")
    with pytest.raises(ValueError, match="the prompt's tokens and one of the text"):
        tokenizer.with_max_length(len(PROMPT_IDS) + 1).encode_ends(["a"], prefix)


def test_decode(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, MIXED)
    assert tokenizer.decode(ids) == MIXED
    assert tokenizer.decode(ids, skip_special_tokens=False) == MIXED + "<|endoftext|>"
    with pytest.raises(ValueError, match="token id 999999 is not in the vocabulary"):
        tokenizer.decode([999_999])


def test_max_length_one_leaves_the_end_token(with_end: Path) -> None:
    tokenizer = Tokenizer(with_end, vocab_size=ROWS, max_length=1)
    assert tokenizer.encode(["test", ""]).tokens.tolist() == [END, END]


def test_control_tokens_as_text(with_end: Path) -> None:
    """No text gives an id of an added token; other texts are untouched."""
    plain = Tokenizer(with_end, vocab_size=ROWS, max_length=1000, special_tokens_in_text=False)
    content = json.loads(with_end.read_text(encoding="utf-8"))
    for added in content["added_tokens"]:
        ids = ids_of(plain, f"a{added['content']}b")
        assert ids[-1] == END
        assert max(ids[:-1]) < END, added["content"]
    for text, ids in GOLDEN:
        if "<|" not in text:
            assert ids_of(plain, text) == [*ids, END]


def test_control_tokens_as_text_equal_a_file_without_them(
    json_with_end: dict[str, Any], with_end: Path, tmp_path: Path
) -> None:
    """The second tokenizer over a shared model is the one that the edited JSON gives."""
    import tokenizers

    edited = dict(json_with_end) | {"added_tokens": [], "post_processor": None}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(edited, ensure_ascii=False), encoding="utf-8")
    reference = tokenizers.Tokenizer.from_file(str(path))
    plain = Tokenizer(with_end, vocab_size=ROWS, max_length=1000, special_tokens_in_text=False)
    for text in ["<|im_end|>", "a<think>b</think>", "<|fim_prefix|><tool_call>", "\xa0<|box_end|>"]:
        assert ids_of(plain, text)[:-1] == reference.encode(text).ids


def test_added_tokens_past_the_rows_become_text(with_end: Path, tokenizer: Tokenizer) -> None:
    """The 4B and 8B models' tables end at 151665: four tags are ordinary text there."""
    fewer = Tokenizer(with_end, vocab_size=151665, max_length=1000)
    for tag in ("<think>", "</think>", "<tool_response>", "</tool_response>"):
        assert max(ids_of(tokenizer, tag)) >= 151665
        assert max(ids_of(fewer, f"x{tag}y")[:-1]) < END
    content = json.loads(with_end.read_text(encoding="utf-8"))
    for added in content["added_tokens"]:
        if added["id"] < 151665:
            assert ids_of(fewer, added["content"]) == [added["id"], END]


def test_base_ids_past_the_rows_are_refused(with_end: Path) -> None:
    with pytest.raises(ModelFileError, match="151643, but the model's embedding has 151643 rows"):
        Tokenizer(with_end, vocab_size=END, max_length=10)
    with pytest.raises(ModelFileError, match="different models"):
        Tokenizer(with_end, vocab_size=1000, max_length=10)


def small(tmp_path: Path, **changes: Any) -> Path:
    """A byte-level tokenizer.json with changes at its top level."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(copy.deepcopy(byte_tokenizer(320)) | changes), encoding="utf-8")
    return path


def test_ids_with_holes(tmp_path: Path) -> None:
    """A base id past the rows is found even where the ids don't follow one another."""
    model = byte_tokenizer(320)["model"]
    last = max(model["vocab"], key=model["vocab"].__getitem__)
    model["vocab"][last] = 5000
    with pytest.raises(ModelFileError, match="token id 5000"):
        Tokenizer(small(tmp_path, model=model), vocab_size=320, max_length=10)


def test_no_end_token_at_all(tmp_path: Path) -> None:
    path = small(tmp_path, added_tokens=[], post_processor=None)
    with pytest.raises(ModelFileError, match="no end token"):
        Tokenizer(path, vocab_size=320, max_length=10)


def test_tokens_before_the_text_are_kept(tmp_path: Path) -> None:
    """A file whose template frames the text on both sides."""
    content = byte_tokenizer(320)
    template = content["post_processor"]["processors"][1]
    template["single"] = [template["single"][1], *template["single"]]
    path = small(tmp_path, post_processor=content["post_processor"])
    tokenizer = Tokenizer(path, vocab_size=320, max_length=4)
    one = ids_of(tokenizer, "x")
    assert (one[0], one[-1], len(one)) == (319, 319, 3)
    cut = tokenizer.encode(["xyzxyz"])
    assert (cut.tokens[0], cut.tokens[-1], len(cut.tokens)) == (319, 319, 4)
    assert cut.lengths[0] == 8
    with pytest.raises(ValueError, match="at least 2"):
        Tokenizer(path, vocab_size=320, max_length=1)


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path: Path) -> None:
    path = small(
        tmp_path,
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 50},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    tokenizer = Tokenizer(path, vocab_size=320, max_length=100)
    assert len(ids_of(tokenizer, "xyzxyz")) == 7


def test_dropout_is_refused(tmp_path: Path) -> None:
    model = byte_tokenizer(320)["model"] | {"dropout": 0.1}
    with pytest.raises(ModelFileError, match="dropout"):
        Tokenizer(small(tmp_path, model=model), vocab_size=320, max_length=10)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 1}', b"\xff\xfe", b"null"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a tokenizer file"):
        Tokenizer(path, vocab_size=320, max_length=10)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json can't be read"):
        Tokenizer(tmp_path / "tokenizer.json", vocab_size=320, max_length=10)


def test_oversized_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with open(path, "wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(ModelFileError, match="1073741824 bytes, expected at most"):
        Tokenizer(path, vocab_size=320, max_length=10)


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "a\udc80b"])
def test_lone_surrogates(tokenizer: Tokenizer, text: str) -> None:
    for call in (tokenizer.encode, tokenizer.count):
        with pytest.raises(UnicodeError):
            call(["fine", text])


def test_all_of_unicode_is_valid(tokenizer: Tokenizer) -> None:
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    pieces = [everything[i : i + 4096] for i in range(0, len(everything), 4096)]
    batch = tokenizer.encode(pieces)
    assert batch.tokens.min() >= 0
    assert batch.tokens.max() < ROWS


def test_length_of_a_huge_text_is_known(tokenizer: Tokenizer) -> None:
    """Counted whole by `count`, and by `encode` as far as it reads."""
    text = "All work and no play. " * 20_000
    batch = tokenizer.encode([text])
    assert tokenizer.count([text])[0] > 100_000
    assert batch.lengths[0] == counted_tokens(0) + 1
    assert len(batch.tokens) == 32768
    head = ids_of(tokenizer, text[:1000])
    assert batch.tokens[:200].tolist() == head[:200]


def test_the_same_ids_as_transformers(with_end: Path) -> None:
    """Also where texts are cut, and where they hold control tokens."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(with_end))
    texts = [text for text, _ in GOLDEN] + [GRAVITY * 3, "<think>" * 9, "\U0001f98a" * 40]
    for max_length in (4, 17, 1000):
        ours = Tokenizer(with_end, vocab_size=ROWS, max_length=max_length).encode(texts)
        expected = theirs(texts, truncation=True, max_length=max_length)["input_ids"]
        assert ours.tokens.tolist() == [token for ids in expected for token in ids]
        assert np.diff(ours.cu_seqlens).tolist() == [len(ids) for ids in expected]
