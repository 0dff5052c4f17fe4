"""Our reader of safetensors files against its rules and against the reference reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from tests.support.c_build import ASAN, LOADER, build
from tests.support.make_bad_safetensors import REASONS_TO_BE_STRICTER, Case, all_cases, file_of

CASES = all_cases()
EFORMAT = "-4 "


class Reader:
    """Our verdicts, from one process under the address sanitizer."""

    def __init__(self, folder: Path) -> None:
        program = build(
            "parse_safetensors", ["tests/c/parse_safetensors.c", *LOADER], sanitize=ASAN
        )
        self.path = folder / "file.safetensors"
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
        )

    def verdict(self, content: bytes) -> str:
        """ "ok N", or the status and the message."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.path.write_bytes(content)
        self.process.stdin.write(f"{self.path}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0  # the sanitizer found nothing, no leak either


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("safetensors"))
    yield reader
    reader.close()


def reference_accepts(content: bytes) -> bool:
    try:
        deserialize(content)
    except SafetensorError:
        return False
    return True


def test_cases_are_many_and_named_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(bool(case.message) for case in CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, reader: Reader) -> None:
    verdict = reader.verdict(case.content)
    if case.message:
        assert verdict.startswith(EFORMAT)
        assert case.message in verdict
        assert "file.safetensors" in verdict
    else:
        assert verdict.startswith("ok ")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_against_reference(case: Case) -> None:
    accepted = not case.message or bool(case.stricter)
    assert reference_accepts(case.content) == accepted
    assert not case.stricter or case.stricter in REASONS_TO_BE_STRICTER


# Headers made of the right words, most of them wrong in one place.
words = st.one_of(
    st.sampled_from(["a", "b", "", "dtype", "__metadata__", "é", "n" * 513, "\x7f"]),
    st.sampled_from(["\\u0061", "\\ud83d\\ude00", "\\ud800", "\\n"]),
)
numbers = st.one_of(
    st.integers(0, 9).map(str),
    st.sampled_from(
        ["-1", "00", "1.0", "1e1", "4294967296", "1099511627777", "18446744073709551615"]
    ),
)
arrays = st.lists(numbers, max_size=9).map(lambda values: f"[{','.join(values)}]")
dtypes = st.sampled_from(["F32", "BF16", "F16", "U8", "F4", "F6_E2M3", "I64", "C64", "F128", "f32"])
fields = st.one_of(
    st.tuples(st.just("dtype"), dtypes.map(lambda name: f'"{name}"')),
    st.tuples(st.just("shape"), arrays),
    st.tuples(
        st.just("data_offsets"),
        st.tuples(numbers, numbers).map(lambda pair: f"[{pair[0]},{pair[1]}]"),
    ),
    st.tuples(words, arrays),
)


@st.composite
def sound_tensors(draw: st.DrawFn) -> tuple[list[tuple[str, str]], int]:
    """Entries that fit each other, in any order, and the bytes they cover."""
    entries, at = [], 0
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        dtype, n_bits = draw(
            st.sampled_from([("U8", 8), ("BF16", 16), ("F32", 32), ("F4", 4), ("F64", 64)])
        )
        for size in shape:
            n_bits *= size
        keys = draw(
            st.permutations(
                [
                    ("dtype", f'"{dtype}"'),
                    ("shape", json.dumps(shape)),
                    ("data_offsets", f"[{at},{at + n_bits // 8}]"),
                ]
            )
        )
        entries.append((draw(words), "{" + ",".join(f'"{k}":{v}' for k, v in keys) + "}"))
        at += n_bits // 8
    return draw(st.permutations(entries)), at


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file with a sound header, a changed one, or one of random fields."""
    entries, n_bytes = draw(sound_tensors())
    if draw(st.booleans()):
        random = draw(st.lists(fields, max_size=4))
        entries.append((draw(words), "{" + ",".join(f'"{k}":{v}' for k, v in random) + "}"))
    if draw(st.booleans()):
        entries.append(
            ("__metadata__", draw(st.sampled_from(["{}", '{"a":"b"}', '{"a":1}', "null"])))
        )
    header = "{" + ",".join(f'"{name}":{value}' for name, value in entries) + "}"
    header += draw(st.sampled_from(["", "", " ", "\n", "x"]))
    text = bytearray(header.encode())
    for _ in range(draw(st.integers(0, 2)) * draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(text) - 1))
        text[at] = draw(st.one_of(st.sampled_from(b'{}[]",:\\0 19u'), st.integers(0, 255)))
    return file_of(bytes(text), bytes(n_bytes + draw(st.sampled_from([0, 0, 0, 0, 1]))))


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=files())
def test_never_accepts_what_the_reference_refuses(content: bytes, reader: Reader) -> None:
    verdict = reader.verdict(content)
    assert verdict.startswith(("ok ", EFORMAT))
    if verdict.startswith("ok "):
        assert reference_accepts(content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=sound_tensors(), padding=st.integers(0, 9))
def test_accepts_sound_files(
    made: tuple[list[tuple[str, str]], int], padding: int, reader: Reader
) -> None:
    entries, n_bytes = made
    named = [f'"t{i}":{value}' for i, (_, value) in enumerate(entries)]
    content = file_of("{" + ",".join(named) + "}" + " " * padding, bytes(n_bytes))
    # Four bits times an odd number of elements is no place in a file.
    if reference_accepts(content):
        assert reader.verdict(content) == f"ok {len(entries)}"
