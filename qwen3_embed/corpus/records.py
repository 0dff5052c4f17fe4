"""Records of text, CSV, JSON lines and Parquet files, one at a time.

A record whose text cannot be read still counts as a record: it carries the reason, and reading
continues after it.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple

__all__ = [
    "ENCODING_ADVICE",
    "FORMATS",
    "Record",
    "Source",
    "count_records",
    "find_sources",
    "import_parquet",
    "read_records",
]

_SUFFIXES = {
    ".txt": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")
STDIN = "-"
_MAX_RECORD_BYTES = 16 << 20
_PARQUET_BATCH = 1024
_DEFAULT_COLUMN = "text"
ENCODING_ADVICE = (
    "pass its encoding, e.g. --encoding gb18030 or cp1252, or convert it: "
    "iconv -f GB18030 -t UTF-8 FILE"
)
_PARQUET_KEPT = (bool, int, float, str, type(None))


class Record(NamedTuple):
    """One record of the input.

    Attributes
    ----------
    text : str or None
        None for a bad record.
    kept : tuple
        Values of the columns to copy to the output.
    raw : str
        A bad record as it stands in the file.
    reason : str
        Why it is bad.
    """

    text: str | None
    kept: tuple[Any, ...] = ()
    raw: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read, and how: one of `FORMATS`, and an encoding that contains ASCII."""

    name: str
    format: str
    encoding: str = "utf-8"

    @property
    def has_utf8(self) -> bool:
        """True for UTF-8, by any of its names."""
        return codecs.lookup(self.encoding).name == "utf-8"

    @property
    def encoding_name(self) -> str:
        """The encoding in messages."""
        return "UTF-8" if self.has_utf8 else self.encoding


def find_sources(
    names: Sequence[str], format: str | None = None, encoding: str = "utf-8"
) -> list[Source]:
    """Finds the files that the command line names: files, folders, patterns, "-".

    Parameters
    ----------
    names : sequence of str
    format : str, optional
        One of `FORMATS`, for every file; by default from each file's suffix, and text for "-" and
        unknown suffixes.
    encoding : str
        Of every file but Parquet.

    Raises
    ------
    FileNotFoundError
        A name without a file.
    """
    sources = []
    for name in names:
        if name == STDIN:
            sources.append(Source(name, format or "text", encoding))
            continue
        if os.path.isdir(name):
            files = sorted(
                str(path)
                for path in Path(name).rglob("*")
                if path.is_file() and (format or path.suffix.lower() in _SUFFIXES)
            )
            wanted = f"a file that ends in one of {', '.join(_SUFFIXES)}"
        elif os.path.exists(name) or not glob.has_magic(name):
            if not os.path.exists(name):
                raise FileNotFoundError(f"no file or folder {name!r}")
            files, wanted = [name], ""
        else:
            files = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
            wanted = "a file that matches it"
        if not files:
            raise FileNotFoundError(f"{name!r} contains nothing to read, expected {wanted}")
        for file in files:
            found = _SUFFIXES.get(Path(file).suffix.lower(), "text")
            sources.append(Source(file, format or found, encoding))
    return sources


def count_records(sources: Sequence[Source]) -> int | None:
    """The number of records that `read_records` gives for all files; None with "-".

    Reads every file but Parquet, which takes a small part of the time that its vectors take.
    """
    total = 0
    for source in sources:
        if source.name == STDIN:
            return None
        if source.format == "parquet":
            total += int(_parquet(source.name).metadata.num_rows)
            continue
        with open(source.name, "rb") as file:
            if source.format == "text":
                total += sum(1 for _ in _lines(file))
            elif source.format == "jsonl":
                total += sum(line is None or bool(line.strip()) for line in _lines(file))
            else:
                with _csv_fields(file, source) as records:
                    next(records, None)  # the header
                    total += sum(record != [] for record in records)
    return total


def read_records(source: Source, column: str | None, keep: Sequence[str]) -> Iterator[Record]:
    """Reads the records of one file, in order.

    Parameters
    ----------
    source : Source
    column : str, optional
        The column of the text; by default "text", or the only column of a CSV or Parquet file.
    keep : sequence of str
        Columns to copy to the output.

    Raises
    ------
    ValueError
        No such column, or a file that is not in its format.
    OSError
        The file cannot be read.
    """
    if source.format == "parquet":
        yield from _parquet_records(source.name, column, keep)
        return
    with nullcontext(sys.stdin.buffer) if source.name == STDIN else open(source.name, "rb") as file:
        if source.format == "text":
            yield from _text_records(file, source, column, keep)
        elif source.format == "jsonl":
            yield from _json_records(file, source, column or _DEFAULT_COLUMN, keep)
        else:
            yield from _csv_records(file, source, column, keep)


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Reads lines without their line ends; None for a line that is too long to be a text."""
    first = True
    while line := file.readline(_MAX_RECORD_BYTES + 1):
        if len(line) > _MAX_RECORD_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            if first:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield line.removesuffix(b"\n").removesuffix(b"\r")
        first = False


_TOO_LONG = Record(None, reason=f"longer than {_MAX_RECORD_BYTES} bytes")


def _bad(raw: bytes | str, reason: str) -> Record:
    if isinstance(raw, bytes):
        return Record(None, raw=raw.decode("utf-8", "backslashreplace"), reason=reason)
    return Record(None, raw=raw.encode("utf-8", "backslashreplace").decode(), reason=reason)


def _decode(line: bytes, source: Source) -> str | Record:
    """The text of a line, or a bad row."""
    try:
        return line.decode(source.encoding)
    except UnicodeDecodeError as error:
        return _bad(line, f"not {source.encoding_name} at byte {error.start}")


def _text_records(
    file: IO[bytes], source: Source, column: str | None, keep: Sequence[str]
) -> Iterator[Record]:
    for wanted in (column, *keep):
        if wanted not in (None, _DEFAULT_COLUMN):
            raise ValueError(
                f"{source.name} is read as plain text, whose only column is "
                f"{_DEFAULT_COLUMN!r}: there is no column {wanted!r}"
            )
    for line in _lines(file):
        if line is None:
            yield _TOO_LONG
            continue
        text = _decode(line, source)
        yield Record(text, (text,) * len(keep)) if isinstance(text, str) else text


def _json_records(
    file: IO[bytes], source: Source, column: str, keep: Sequence[str]
) -> Iterator[Record]:
    for line in _lines(file):
        if line is None:
            yield _TOO_LONG
            continue
        if not line.strip():
            continue  # not a record: often the end of the file
        text = _decode(line, source)
        if not isinstance(text, str):
            yield text
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield _bad(line, f"not JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield _bad(line, f"a {type(value).__name__}, expected an object")
        elif not isinstance(value.get(column), str):
            found = type(value[column]).__name__ if column in value else "missing"
            yield _bad(line, f"{column!r} is {found}, expected a string")
        else:
            row = Record(value[column], tuple(value.get(name) for name in keep))
            yield _unicode(row, line, source)


def _unicode(record: Record, raw: bytes | str, source: Source) -> Record:
    """The record, or a bad one if a str in it isn't Unicode.

    JSON can escape lone surrogates; `_csv_fields` escapes bytes that it can't decode as some.
    """
    try:
        for value in (record.text, *record.kept):
            if isinstance(value, str):
                value.encode()
    except UnicodeEncodeError as error:
        is_byte = "\udc80" <= error.object[error.start] <= "\udcff"
        expected = source.encoding_name if is_byte else "Unicode"
        return _bad(raw, f"not {expected} at character {error.start}")
    return record


@contextmanager
def _csv_fields(file: IO[bytes], source: Source) -> Iterator[Iterator[list[str] | csv.Error]]:
    """The records of a CSV or TSV file, the header first; an error where one can't be read."""
    csv.field_size_limit(_MAX_RECORD_BYTES)
    encoding = "utf-8-sig" if source.has_utf8 else source.encoding
    lines = TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
    reader = csv.reader(lines, delimiter="," if source.format == "csv" else "\t")

    def records() -> Iterator[list[str] | csv.Error]:
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield csv.Error(f"line {reader.line_num}: {error}")

    try:
        yield records()
    finally:
        lines.detach()


def _csv_records(
    file: IO[bytes], source: Source, column: str | None, keep: Sequence[str]
) -> Iterator[Record]:
    with _csv_fields(file, source) as records:
        header = next(records, None)
        if header is None:
            return
        if isinstance(header, csv.Error):
            raise ValueError(f"{source.name}: {header}")
        if not isinstance(_unicode(Record("".join(header)), "", source).text, str):
            raise ValueError(
                f"the header of {source.name} is not {source.encoding_name}: {ENCODING_ADVICE}"
            )
        place = _place(source.name, header, column)
        kept = [_place(source.name, header, each) for each in keep]
        for fields in records:
            if isinstance(fields, csv.Error):
                yield Record(None, reason=str(fields))
                continue
            if not fields:
                continue  # an empty line is not a record
            raw = ("," if source.format == "csv" else "\t").join(fields)
            if len(fields) != len(header):
                yield _bad(raw, f"{len(fields)} fields, expected {len(header)}")
            else:
                row = Record(fields[place], tuple(fields[i] for i in kept))
                yield _unicode(row, raw, source)


def _place(name: str, columns: Sequence[str], wanted: str | None) -> int:
    """The index of the column to read."""
    if wanted is None:
        if _DEFAULT_COLUMN not in columns and len(columns) == 1:
            return 0
        wanted = _DEFAULT_COLUMN
    if wanted not in columns:
        raise ValueError(
            f"{name} has no column {wanted!r}, expected one of "
            f"{', '.join(map(repr, columns))}: choose it with --column"
        )
    return list(columns).index(wanted)


def import_parquet() -> Any:
    """The module `pyarrow.parquet`."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(
            "Parquet needs pyarrow: pip install 'qwen3-embed-native[parquet]'"
        ) from None
    return parquet


def _parquet(name: str) -> Any:
    return import_parquet().ParquetFile(name)


def _parquet_records(name: str, column: str | None, keep: Sequence[str]) -> Iterator[Record]:
    with _parquet(name) as file:
        columns = file.schema_arrow.names
        column = columns[_place(name, columns, column)]
        for each in keep:
            _place(name, columns, each)
        wanted = list(dict.fromkeys([column, *keep]))
        for batch in file.iter_batches(_PARQUET_BATCH, columns=wanted):
            kept = [batch.column(each).to_pylist() for each in keep]
            for text, *others in zip(batch.column(column).to_pylist(), *kept, strict=True):
                if isinstance(text, str):
                    _check_kept(name, keep, others)
                    yield Record(text, tuple(others))
                else:
                    found = type(text).__name__
                    yield Record(None, reason=f"{column!r} is {found}, expected a string")


def _check_kept(name: str, keep: Sequence[str], values: Sequence[Any]) -> None:
    for column, value in zip(keep, values, strict=True):
        if not isinstance(value, _PARQUET_KEPT):
            raise ValueError(
                f"{name}: column {column!r} contains {type(value).__name__}, and --keep copies "
                f"numbers, strings and booleans only"
            )
