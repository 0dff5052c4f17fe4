"""Vectors and kept columns to .npy, JSON lines or Parquet, block by block.

A .npy contains only vectors: record i is row i, and a bad record is a row of NaN. The other formats
leave bad records out and say in the column "row" which row of a .npy each record would be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "ColumnTypes", "write_jsonl", "write_npy", "write_parquet"]

ROW = "row"
EMBEDDING = "embedding"


class Block(NamedTuple):
    """Consecutive records.

    Attributes
    ----------
    indices : ndarray
        (n,) int64: their indices in the input.
    vectors : ndarray
        (n, dim) float32.
    bad : ndarray
        (n,) bool.
    kept : list
        n tuples: the values of the kept columns.
    """

    indices: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    bad: npt.NDArray[np.bool_]
    kept: list[tuple[Any, ...]]


class ColumnTypes:
    """The narrowest type that holds every value of each kept column."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._seen: list[set[type]] = [set() for _ in names]

    def add(self, values: tuple[Any, ...]) -> None:
        """Adds one record's values."""
        for seen, value in zip(self._seen, values, strict=True):
            kind = type(value)
            if kind is int and not -(1 << 63) <= value < 1 << 63:
                kind = object
            seen.add(kind)

    def of(self, index: int) -> str:
        """ "bool", "int64", "float64", "string", or "json" (encoded as strings) for mixed types."""
        seen = self._seen[index] - {type(None)}
        for name, kinds in (
            ("string", {str}),
            ("bool", {bool}),
            ("int64", {int}),
            ("float64", {int, float}),
        ):
            if seen <= kinds:
                return name
        return "json"


def write_npy(file: IO[bytes], blocks: Iterator[Block], n_records: int, dim: int) -> None:
    """Writes an (n_records, dim) float32 array."""
    from numpy.lib.format import write_array_header_1_0

    header = {"descr": "<f4", "fortran_order": False, "shape": (n_records, dim)}
    write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.vectors.astype("<f4", copy=False).data)


def write_jsonl(file: IO[bytes], blocks: Iterator[Block], names: list[str]) -> None:
    """Writes one object per good record: its row, the kept columns, the vector."""
    for block in blocks:
        for i in np.flatnonzero(~block.bad):
            fields = {ROW: int(block.indices[i]), **dict(zip(names, block.kept[i], strict=True))}
            start = json.dumps(fields, ensure_ascii=False)[:-1]
            # The shortest digits that give the same float32 again.
            numbers = ", ".join(map(str, block.vectors[i]))
            file.write(f'{start}, "{EMBEDDING}": [{numbers}]}}\n'.encode())


def write_parquet(
    file: IO[bytes], blocks: Iterator[Block], dim: int, types: ColumnTypes, metadata: dict[str, str]
) -> None:
    """Writes one row group per block; the vectors are a fixed-size list of float32."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [types.of(i) for i in range(len(types.names))]
    arrow = {
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "json": pa.string(),
    }
    schema = pa.schema(
        [
            pa.field(ROW, pa.int64()),
            *(pa.field(n, arrow[kind]) for n, kind in zip(types.names, kinds, strict=True)),
            pa.field(EMBEDDING, pa.list_(pa.float32(), dim)),
        ],
        metadata=metadata,
    )
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for block in blocks:
            good = np.flatnonzero(~block.bad)
            columns = [pa.array(block.indices[good])]
            for index, kind in enumerate(kinds):
                values = [block.kept[i][index] for i in good]
                if kind == "json":
                    values = [json.dumps(value, ensure_ascii=False) for value in values]
                columns.append(pa.array(values, arrow[kind]))
            flat = pa.array(block.vectors[good].reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, dim))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(good) or None)
