"""Makes safetensors files that a loader must refuse, and odd ones that it must not.

Each case is one idea of an attack or an accident, with the verdict expected of our
reader and of the reference reader, the `safetensors` package.

    python -m tests.support.make_bad_safetensors FOLDER          # the cases
    python -m tests.support.make_bad_safetensors FOLDER --seeds  # inputs of fuzz_safetensors.c
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

F32 = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
REASONS_TO_BE_STRICTER = {
    "name": "names take part in messages and C strings: no control characters, 512 bytes",
    "spelling": "one spelling of a header is enough: spaces pad, entries are objects",
    "twice": "the reference keeps the last of two tensors with one name",
    "unknown": "an unknown key may change the meaning of the known ones",
    "size": "bounds on what no model has: 8 dimensions of 2^40, numbers of 19 digits",
}


@dataclass(frozen=True)
class Case:
    """A file and the verdicts on it."""

    name: str
    content: bytes
    message: str = ""  # part of our refusal; empty: accepted
    stricter: str = ""  # why we refuse what the reference accepts


def file_of(header: str | bytes, data: bytes = b"1234", length: int | None = None) -> bytes:
    """A file with this header, whatever is in it."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]") -> str:
    return f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'


def tensors(*places: tuple[str, int, int]) -> str:
    """A header of U8 tensors: name, begin, end."""
    return json.dumps(
        {
            name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
            for name, begin, end in places
        }
    )


def length_cases() -> Iterator[Case]:
    whole = file_of(f'{{"a":{F32}}}')
    yield Case("empty-file", b"", "empty")
    yield Case("seven-bytes", whole[:7], "incomplete: 7 bytes")
    yield Case("only-length", whole[:8], "incomplete: 8 bytes")
    for length in (0, 1):
        yield Case(f"length-{length}", file_of(f'{{"a":{F32}}}', length=length), "header of")
    for name, length in {
        "2-63": 1 << 63,
        "2-64-1": (1 << 64) - 1,
        "over-by-1": len(whole) - 7,
        "100-million-and-1": 100_000_001,
        "2-32": 1 << 32,
    }.items():
        yield Case(f"length-{name}", file_of(f'{{"a":{F32}}}', length=length), "header of")
    yield Case("length-into-data", file_of(f'{{"a":{F32}}}', length=len(whole) - 8), "incomplete")
    yield Case("length-short", file_of(f'{{"a":{F32}}}', length=len(whole) - 14), "damaged header")
    yield Case("length-big-endian", struct.pack(">Q", len(whole) - 12) + whole[8:], "header of")
    yield Case("minus-1-byte", whole[:-1], "incomplete")
    yield Case("plus-1-byte", whole + b"5", "by its header")
    yield Case("minus-half", whole[: len(whole) // 2], "header of")
    yield Case("no-data", whole[:-4], "incomplete")
    yield Case(
        "lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"
    )
    yield Case("pickle", b"PK\x03\x04" + bytes(60), "header of")
    yield Case("html", b"<!DOCTYPE html><html></html>", "header of")
    yield Case("zeros", bytes(64), "header of")


ENTRY = f'"a":{F32}'

# Headers that are not of the grammar.
DAMAGED = {
    "no-braces": ENTRY,
    "not-closed": f"{{{ENTRY}",
    "closed-twice": f"{{{ENTRY}}}}}",
    "array": f"[{ENTRY}]",
    "null": "null",
    "string": '"a"',
    "trailing-comma": f"{{{ENTRY},}}",
    "leading-comma": f"{{,{ENTRY}}}",
    "no-comma": f'{{{ENTRY} "b":{F32}}}',
    "no-colon": f'{{"a" {F32}}}',
    "two-colons": f'{{"a"::{F32}}}',
    "name-not-quoted": f"{{a:{F32}}}",
    "single-quotes": f"{{'a':{F32}}}",
    "name-is-number": f"{{1:{F32}}}",
    "comment": f"{{{ENTRY}/**/}}",
    "after-end": f"{{{ENTRY}}}x",
    "nul-after-end": f"{{{ENTRY}}}\0",
    "entry-is-number": '{"a":1}',
    "entry-is-string": '{"a":"F32"}',
    "entry-is-null": '{"a":null}',
    "entry-empty": '{"a":{}}',
    "data-in-header": f"{{{ENTRY}}}1234",
    "entry-not-closed": f'{{"a":{F32[:-1]}',
    "string-not-closed": '{"a',
    "escape-not-closed": '{"a\\',
    "unicode-not-closed": '{"a\\u12',
    "escape-unknown": f'{{"\\x":{F32}}}',
    "unicode-not-hex": f'{{"\\u12g4":{F32}}}',
    "surrogate-high-alone": f'{{"\\ud800":{F32}}}',
    "surrogate-low-alone": f'{{"\\udc00":{F32}}}',
    "surrogate-high-twice": f'{{"\\ud800\\ud800":{F32}}}',
    "surrogate-then-n": f'{{"\\ud800\\n":{F32}}}',
    "surrogate-then-text": f'{{"\\ud800zz":{F32}}}',
    "surrogate-then-bad": f'{{"\\ud800\\uzzzz":{F32}}}',
    "surrogate-then-high": f'{{"\\ud800\\ue000":{F32}}}',
    "number-not-closed": '{"a":{"shape":[1',
    "entry-no-colon": '{"a":{"dtype" "F32"}}',
    "surrogate-at-end": '{"\\ud800',
    "raw-newline": f'{{"\n":{F32}}}',
    "raw-nul": f'{{"\0":{F32}}}',
    "bom": f"\ufeff{{{ENTRY}}}",
    "only-spaces": "    ",
    "meta-is-string": '{"__metadata__":"x"}',
    "meta-value-is-number": '{"__metadata__":{"x":1}}',
    "meta-value-is-object": '{"__metadata__":{"x":{}}}',
    "meta-no-colon": '{"__metadata__":{"x" "y"}}',
    "meta-not-closed": '{"__metadata__":{"x":"y"',
    "meta-trailing-comma": '{"__metadata__":{"x":"y",}}',
    "meta-raw-newline": '{"__metadata__":{"x":"\n"}}',
    "meta-bad-escape": '{"__metadata__":{"x":"\\q"}}',
    "deep-arrays": '{"a":' + "[" * 5000,
    "key-too-long": '{"a":{"' + "k" * 40 + '":1}}',
    "dtype-too-long": entry("F" * 40),
}


def grammar_cases() -> Iterator[Case]:
    for name, header in DAMAGED.items():
        yield Case(name, file_of(header), "damaged header")
    yield Case("deep-objects", file_of('{"a":' * 5000), "unknown key")
    yield Case("meta-twice", file_of('{"__metadata__":{},"__metadata__":{}}', b""), "there twice")
    yield Case("meta-null", file_of('{"__metadata__":null}', b""), "damaged header", "spelling")
    yield Case("entry-is-array", file_of('{"a":["F32",[1],[0,4]]}'), "damaged header", "spelling")
    yield Case("space-before", file_of(f" {{{ENTRY}}}"), "damaged header", "spelling")
    yield Case("newline-after", file_of(f"{{{ENTRY}}}\n"), "spaces up to", "spelling")


def utf8_cases() -> Iterator[Case]:
    bad = {
        "continuation": b"\x80",
        "overlong-2": b"\xc0\xaf",
        "overlong-2b": b"\xc1\xbf",
        "overlong-3": b"\xe0\x80\xaf",
        "overlong-4": b"\xf0\x80\x80\xaf",
        "surrogate": b"\xed\xa0\x80",
        "past-10ffff": b"\xf4\x90\x80\x80",
        "f5": b"\xf5\x80\x80\x80",
        "ff": b"\xff",
        "cut-2": b"\xc3",
        "cut-3": b"\xe2\x82",
        "cut-4": b"\xf0\x9f\x98",
        "second-high": b"\xc3\xc3",
        "third-low": b"\xe2\x82\x28",
        "fourth-high": b"\xf0\x9f\x98\xc0",
    }
    for name, text in bad.items():
        header = b'{"' + text + b'":' + F32.encode() + b"}"
        yield Case(f"utf8-{name}", file_of(header), "expected UTF-8")
    yield Case("utf8-cut-at-end", file_of(b'{"\xe2\x82', b""), "expected UTF-8")
    yield Case("utf8-cut-in-data", file_of(b'{"\xe2\x82', b"\xac1234"), "expected UTF-8")
    yield Case("utf16", file_of(f'{{"a":{F32}}}'.encode("utf-16-le")), "damaged header")


DAMAGED_SHAPES = {
    "negative": "[-1]",
    "fraction": "[1.5]",
    "fraction-0": "[1.0]",
    "exponent": "[1e0]",
    "text": '["1"]',
    "leading-0": "[01]",
    "minus-0": "[-0]",
    "plus": "[+1]",
    "hex": "[0x1]",
    "nan": "[NaN]",
    "number": "1",
    "null": "null",
    "nested": "[[1]]",
    "trailing-comma": "[1,]",
    "not-closed": "[1",
    "object": "{}",
    "no-comma": "[1 1]",
    "20-digits": "[18446744073709551616]",
    "40-digits": "[" + "9" * 40 + "]",
}


def tensor_cases() -> Iterator[Case]:
    for name in ("f32", "", "F128", "I4", "BF16 ", "C128"):
        yield Case(f"dtype-{name or 'empty'}", file_of(entry(name)), "unknown dtype")
    yield Case("dtype-with-nul", file_of(entry("BF16\\u0000")), "no control character")
    yield Case("dtype-with-newline", file_of(entry("BF16\\n")), "no control character")
    yield Case("dtype-number", file_of(entry().replace('"F32"', "1")), "damaged header")
    for name, shape in DAMAGED_SHAPES.items():
        yield Case(f"shape-{name}", file_of(entry(shape=shape)), "damaged header")
    for name, shape in {
        "product-2-64": "[4294967296,4294967296]",
        "2-63": "[9223372036854775808]",
        "product-wraps-to-1": "[4294967297,4294967297,4294967297]",
        "bits-2-64": "[1099511627776,1048576]",
        "wraps-before-0": "[1099511627776,1099511627776,0]",
    }.items():
        yield Case(f"shape-{name}", file_of(entry(shape=shape)), "too large")
    yield Case(
        "shape-over-2-40",
        file_of(entry(shape="[0,1099511627777]", offsets="[0,0]"), b""),
        "too large",
        "size",
    )
    yield Case(
        "shape-19-digits-0",
        file_of(entry(shape="[0,10000000000000000000]", offsets="[0,0]"), b""),
        "damaged header",
        "size",
    )
    yield Case(
        "shape-9-dims", file_of(entry(shape="[1,1,1,1,1,1,1,1,1]")), "damaged header", "size"
    )
    yield Case("shape-too-small", file_of(entry(shape="[2]")), "place of 4 bytes, expected 8")
    yield Case("shape-too-large", file_of(entry("U8")), "place of 4 bytes, expected 1")
    yield Case("bits-no-whole-byte", file_of(entry("F4", "[3]", "[0,2]"), b"12"), "whole bytes")


def entry_cases() -> Iterator[Case]:
    offsets = {
        "one": "[4]",
        "none": "[]",
        "three": "[0,4,4]",
        "negative": "[-4,0]",
        "fraction": "[0,4.0]",
        "null": "null",
        "text": '["0","4"]',
        "2-64": "[0,18446744073709551616]",
    }
    for name, pair in offsets.items():
        yield Case(
            f"offsets-{name}",
            file_of(entry(offsets=pair)),
            "missing" if name in ("one", "none") else "damaged header",
        )
    yield Case("offsets-swapped", file_of(entry(offsets="[4,0]")), "ends before")
    yield Case(
        "offsets-huge",
        file_of(entry(offsets="[9999999999999999990,9999999999999999994]")),
        "incomplete",
    )
    yield Case("offsets-past-end", file_of(entry(offsets="[1,5]")), "incomplete")
    for key in ("dtype", "shape", "data_offsets"):
        fields: dict[str, Any] = json.loads(F32)
        value = json.dumps(fields.pop(key))
        rest = json.dumps(fields)
        yield Case(f"{key}-missing", file_of(f'{{"a":{rest}}}'), "missing")
        twice = f'{{"a":{{"{key}":{value},"{key}":{value},{rest[1:]}}}'
        yield Case(f"{key}-twice", file_of(twice), "second key")
    yield Case(
        "key-escaped-twice", file_of(f'{{"a":{{"\\u0064type":"F32",{F32[1:]}}}'), "second key"
    )
    yield Case("key-unknown", file_of(f'{{"a":{{"x":1,{F32[1:]}}}'), "unknown key", "unknown")
    yield Case(
        "key-with-nul", file_of(f'{{"a":{{"shape\\u0000":1,{F32[1:]}}}'), "no control", "unknown"
    )


def place_cases() -> Iterator[Case]:
    yield Case("overlap", file_of(tensors(("a", 0, 3), ("b", 2, 4))), "overlaps")
    yield Case("same-place", file_of(tensors(("a", 0, 4), ("b", 0, 4))), "overlaps")
    yield Case("inside", file_of(tensors(("a", 0, 4), ("b", 1, 2))), "overlaps")
    many = [(f"t{i}", 0, 4) for i in range(1000)]
    yield Case("1000-on-the-same", file_of(tensors(*many)), "overlaps")
    yield Case("gap", file_of(tensors(("a", 0, 1), ("b", 2, 4))), "gap")
    yield Case("gap-first", file_of(tensors(("a", 1, 4))), "gap")
    yield Case("gap-empty", file_of(tensors(("a", 0, 3), ("b", 4, 4))), "gap")
    yield Case("rest-last", file_of(tensors(("a", 0, 3))), "by its header")
    yield Case("no-tensors-but-data", file_of("{}"), "by its header")
    yield Case("second-past-end", file_of(tensors(("a", 0, 4), ("b", 4, 8))), "incomplete")
    half = F32.replace("[0,4]", "[4,8]")
    yield Case("name-twice", file_of(f'{{"a":{F32},"a":{F32}}}'), "overlaps", "twice")
    yield Case("name-twice-apart", file_of(f'{{"a":{F32},"a":{half}}}', b"12345678"), "there twice")
    yield Case(
        "name-twice-escaped", file_of(f'{{"a":{F32},"\\u0061":{half}}}', b"12345678"), "there twice"
    )
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    yield Case(
        "name-twice-empty", file_of(f'{{"a":{empty},"a":{empty}}}', b""), "there twice", "twice"
    )
    yield Case("name-nul", file_of(f'{{"a\\u0000":{F32}}}'), "no control character", "name")
    yield Case("name-newline", file_of(f'{{"a\\n":{F32}}}'), "no control character", "name")
    yield Case("name-delete", file_of(f'{{"a\x7f":{F32}}}'), "no control character", "name")
    yield Case("name-513", file_of(f'{{"{"n" * 513}":{F32}}}'), "too long", "name")
    crowd = ",".join(f'"{i}":{empty}' for i in range(100_001))
    yield Case("100001-tensors", file_of(f"{{{crowd}}}", b""), "more than 100000", "size")


def valid_cases() -> Iterator[Case]:
    yield Case("ok-plain", file_of(f'{{"a":{F32}}}'))
    yield Case("ok-no-tensors", file_of("{}", b""))
    yield Case("ok-padded", file_of(f'{{"a":{F32}}}      '))
    for pad in range(8):
        yield Case(f"ok-at-byte-{pad}", file_of(f'{{"a":{F32}}}{" " * pad}'))
    spaced = F32.replace(":", " :\t").replace(",", "\r,\n").replace("[", "[ ").replace("]", " ]")
    yield Case("ok-white-space", file_of(f'{{\n"a" : {spaced}\n}}'))
    yield Case(
        "ok-keys-in-any-order", file_of('{"a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}')
    )
    yield Case("ok-key-escaped", file_of(entry().replace("dtype", "d\\u0074ype")))
    yield Case("ok-scalar", file_of(entry(shape="[]")))
    yield Case("ok-8-dims", file_of(entry(shape="[1,1,1,1,1,1,1,1]")))
    yield Case("ok-empty-tensor", file_of(entry(shape="[0]", offsets="[0,0]"), b""))
    yield Case("ok-empty-2-40", file_of(entry(shape="[0,1099511627776]", offsets="[0,0]"), b""))
    yield Case("ok-empty-between", file_of(tensors(("b", 0, 2), ("a", 2, 2), ("c", 2, 4))))
    yield Case("ok-unsorted", file_of(tensors(("b", 2, 4), ("a", 0, 2))))
    yield Case("ok-empty-name", file_of(f'{{"":{F32}}}'))
    yield Case("ok-name-512", file_of(f'{{"{"n" * 512}":{F32}}}'))
    yield Case("ok-name-unicode", file_of(f'{{"é€😀":{F32}}}'))
    yield Case(
        "ok-name-escaped", file_of(f'{{"\\"\\\\\\/\\u00e9\\u20AC\\uFFFD\\uD83D\\ude00":{F32}}}')
    )
    yield Case(
        "ok-name-bounds",
        file_of(f'{{"\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff":{F32}}}'),
    )
    yield Case("ok-name-like-metadata", file_of(f'{{"__metadata":{F32}}}'))
    meta = '"__metadata__":{"format":"pt","x":"\\u0000\\b\\f\\n\\r\\t","x":"again"}'
    yield Case("ok-metadata", file_of(f'{{{meta},"a":{F32}}}'))
    yield Case("ok-metadata-last", file_of(f'{{"a":{F32},"__metadata__":{{}}}}'))
    yield Case("ok-metadata-escaped", file_of('{"__metadata\\u005f_":{"a":"b"}}', b""))
    for dtype, n_bits in {
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "F64": 64,
        "I64": 64,
        "U64": 64,
        "C64": 64,
    }.items():
        n_bytes = 4 * n_bits // 8
        yield Case(f"ok-{dtype}", file_of(entry(dtype, "[4]", f"[0,{n_bytes}]"), bytes(n_bytes)))


def all_cases() -> list[Case]:
    """Every case; the names are all different."""
    makers = (
        length_cases,
        grammar_cases,
        utf8_cases,
        tensor_cases,
        entry_cases,
        place_cases,
        valid_cases,
    )
    return [case for maker in makers for case in maker()]


# The fuzz target binds what parses to a model of these sizes.
TINY = {"C": 1, "I": 2, "Q": 32, "KV": 32, "HS": 32, "V": 3}
TINY_LAYER = {
    "input_layernorm": "C",
    "self_attn.q_proj": "Q C",
    "self_attn.k_proj": "KV C",
    "self_attn.v_proj": "KV C",
    "self_attn.q_norm": "HS",
    "self_attn.k_norm": "HS",
    "self_attn.o_proj": "C Q",
    "post_attention_layernorm": "C",
    "mlp.gate_proj": "I C",
    "mlp.up_proj": "I C",
    "mlp.down_proj": "C I",
}


def tiny_shapes(prefix: str = "") -> dict[str, list[int]]:
    """Names and shapes of the fuzz target's model, of one layer."""
    layer = {f"{prefix}layers.0.{name}.weight": shape for name, shape in TINY_LAYER.items()}
    shapes = {f"{prefix}embed_tokens.weight": "V C", **layer, f"{prefix}norm.weight": "C"}
    return {name: [TINY[size] for size in shape.split()] for name, shape in shapes.items()}


def tiny_file(shapes: dict[str, list[int]], dtype: str = "BF16") -> bytes:
    """A file of zeros with these tensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        n_bytes = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8}[dtype]
        for size in shape:
            n_bytes *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    return file_of(json.dumps(header, separators=(",", ":")), bytes(at))


def model_seeds() -> Iterator[tuple[str, bytes]]:
    """Model files, whole and with one defect each."""
    for dtype in ("BF16", "F16", "F32", "I64"):
        for prefix in ("", "model."):
            yield f"model-{dtype}-{prefix}", tiny_file(tiny_shapes(prefix), dtype)
    whole = tiny_shapes("model.")
    yield "model-lm-head", tiny_file({**whole, "lm_head.weight": [3, 1]})
    yield "model-lm-head-shape", tiny_file({**whole, "lm_head.weight": [1, 3]})
    yield "model-unknown", tiny_file({**whole, "model.layers.1.mlp.up_proj.weight": [2, 1]})
    yield "model-8-dims", tiny_file({**whole, "model.norm.weight": [1] * 8})
    for name in whole:
        yield f"model-without-{name}", tiny_file({k: v for k, v in whole.items() if k != name})


def fuzz_seeds() -> Iterator[tuple[str, bytes]]:
    """Inputs of the fuzz target: a byte of flags, then a file or a header (see there)."""
    contents = [(case.name, case.content) for case in all_cases() if len(case.content) < 4096]
    for name, content in (*contents, *model_seeds()):
        yield f"file-{name}", b"\0" + content
        n_bytes = int.from_bytes(content[:8], "little")
        if n_bytes <= len(content) - 8:
            data = struct.pack("<H", len(content) - 8 - n_bytes)
            yield f"header-{name}", b"\1" + data + content[8 : 8 + n_bytes]
    yield "twice-model", b"\2" + tiny_file(tiny_shapes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", action="store_true", help="inputs of the fuzz target instead")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    made = (
        list(fuzz_seeds())
        if args.seeds
        else [(f"{case.name}.safetensors", case.content) for case in all_cases()]
    )
    for name, content in made:
        (args.folder / name).write_bytes(content)
    print(f"{len(made)} files in {args.folder}")


if __name__ == "__main__":
    main()
