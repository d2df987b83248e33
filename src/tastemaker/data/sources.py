"""Where tables come from: text files, JSON lines, Parquet, Arrow files, frames and queries.

A source says its column names and yields blocks of the columns asked for, in order, never the
whole table at once. It turns every failure of a parser into a `DataError` with file and row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tastemaker.data.checks import check_columns, decoded
from tastemaker.errors import DataError, nearest

__all__ = ["FrameSource", "Source", "TextNeeded", "Want", "is_frame", "open_source"]

_BLOCK_ROWS = 1 << 19


class Want(Enum):
    """What a column is read as; only text files need to be told."""

    CODED = auto()  # repeated values: a dictionary of text
    NUMBER = auto()
    TIME = auto()
    TEXT = auto()  # anything else, as written


class TextNeeded(Exception):  # noqa: N818 - a request, not an error
    """A column does not keep to the type it began with: read again, `as_text`."""


class Source(Protocol):
    """One table."""

    label: str  # the file's name, or what a person calls the frame
    names: list[str]

    def batches(self, wants: Mapping[str, Want], *, as_text: bool = False) -> Iterator[Any]:
        """Record batches with the wanted columns, in source order."""

    def place(self, row: int) -> str:
        """Label and number, as a person counts, of data row `row` (0, 1, ...)."""


def is_frame(value: object) -> bool:
    """Whether `value` is a table in memory: an Arrow, Polars or pandas one, or a mapping."""
    return isinstance(value, (pa.Table, pa.RecordBatch, Mapping)) or hasattr(
        value, "__arrow_c_stream__"
    )


class FrameSource:
    """A table in memory. Rows count from 1."""

    def __init__(self, frame: Any, label: str) -> None:
        self.label = label
        try:
            table = pa.table(frame)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{label}: a {type(frame).__name__} is no table ({error}); give a Polars or pandas "
                "frame, an Arrow table or a mapping of columns"
            ) from error
        self.names: list[str] = table.column_names
        self._table = table

    def batches(
        self,
        wants: Mapping[str, Want],
        *,
        as_text: bool = False,  # noqa: ARG002 - types are known
    ) -> Iterator[Any]:
        """Blocks of the frame."""
        check_columns(self.label, wants, self.names)
        yield from _plain(self._table.select(list(wants)).to_batches(_BLOCK_ROWS))

    def place(self, row: int) -> str:
        """Label and row."""
        return f"{self.label}, row {row + 1}"


def _plain(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Dictionary columns as plain values: their dictionaries may be unsorted or half unused."""
    for batch in batches:
        columns = [decoded(column) for column in batch.columns]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


class _FileSource:
    """What the binary formats share: a path, names found at opening, rows from 1."""

    noun = ""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.name
        try:
            self.names = self._names()
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error

    def batches(
        self,
        wants: Mapping[str, Want],
        *,
        as_text: bool = False,  # noqa: ARG002 - types are known
    ) -> Iterator[Any]:
        """Blocks of the file."""
        check_columns(self.label, wants, self.names)
        try:
            yield from _plain(self._blocks(list(wants)))
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error

    def place(self, row: int) -> str:
        """File and row."""
        return f"{self.label}, row {row + 1}"

    def _broken(self, error: Exception) -> DataError:
        reason = str(error).split("\n")[0]
        return DataError(
            f"{self.path}: not a whole {self.noun} file ({reason}); it may be cut short, so copy "
            "or write it again"
        )

    def _names(self) -> list[str]:
        raise NotImplementedError

    def _blocks(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        raise NotImplementedError


class _ParquetSource(_FileSource):
    noun = "Parquet"

    def _names(self) -> list[str]:
        import pyarrow.parquet as pq

        return list(pq.ParquetFile(self.path).schema_arrow.names)

    def _blocks(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.path)
        blocks: Iterable[pa.RecordBatch] = file.iter_batches(_BLOCK_ROWS, columns=columns)
        return (block.select(columns) for block in blocks)


class _ArrowSource(_FileSource):
    noun = "Arrow IPC"

    def _names(self) -> list[str]:
        return list(pa.ipc.open_file(pa.memory_map(str(self.path))).schema.names)

    def _blocks(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
        return (
            reader.get_batch(index).select(columns) for index in range(reader.num_record_batches)
        )


_SUFFIXES = {
    ".csv": "text",
    ".tsv": "text",
    ".txt": "text",
    ".dat": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_COMPRESSED = (".gz", ".bz2", ".zst")


def open_source(path: Path | str, separator: str | None = None) -> Source:
    """The table in a file, told by its suffix; text and JSON lines may be compressed.

    Raises:
        DataError: for a missing file or an unknown suffix.
    """
    from tastemaker.data.text import CsvSource, JsonSource

    path = Path(path)
    if not path.is_file():
        siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}{nearest(path.name, siblings)}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    match _SUFFIXES.get(suffix):
        case "text":
            return CsvSource(path, separator or ("\t" if suffix == ".tsv" else ","))
        case "json":
            return JsonSource(path)
        case "parquet":
            return _ParquetSource(path)
        case "arrow":
            return _ArrowSource(path)
        case _:
            raise DataError(
                f"{path}: cannot tell the format from the name; known endings: "
                f"{', '.join(_SUFFIXES)}"
            )
