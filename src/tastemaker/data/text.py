"""Text tables: CSV with any one-character separator, and JSON lines, read in blocks."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson

from tastemaker.data.checks import check_columns
from tastemaker.data.sources import TextNeeded, Want
from tastemaker.errors import DataError

__all__ = ["CsvSource", "JsonSource"]

# four megabytes keep a parsed block in the cache and the memory small; a row must fit into one
_BLOCK_BYTES = 4 << 20
_CODED = pa.dictionary(pa.int32(), pa.large_string())
_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar", "::": "'::'"}


def _open(path: Path) -> Any:
    return pa.input_stream(str(path), compression="detect")


def _check_utf8(path: Path) -> None:
    """Refuse a file that is not UTF-8, with line and byte of the first bad character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    start, lines = 0, 1
    with _open(path) as stream:
        while block := stream.read(1 << 22):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                before = block[: max(error.start - pending, 0)]
                lines += before.count(b"\n")
                raise DataError(
                    f"{path.name}, row {lines}: byte {error.object[error.start]:#04x} at offset "
                    f"{start - pending + error.start} is not UTF-8; convert the file, e.g. "
                    f"iconv -f LATIN1 -t UTF-8 {path.name}"
                ) from None
            start += len(block)
            lines += block.count(b"\n")


def _check_start(path: Path) -> None:
    """Refuse an empty file and one in UTF-16."""
    with _open(path) as stream:
        start = stream.read(4)
    if not start.removeprefix(codecs.BOM_UTF8).strip():
        with _open(path) as stream:
            if not stream.read(1 << 20).removeprefix(codecs.BOM_UTF8).strip():
                raise DataError(f"{path}: the file is empty; it needs a header and rows")
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(
            f"{path.name}, row 1: byte {start[0]:#04x} at offset 0 begins UTF-16, which is not "
            f"UTF-8; convert the file, e.g. iconv -f UTF-16 -t UTF-8 {path.name}"
        )


class CsvSource:
    """Separated text with a header line. Rows count as lines of the file: the header is row 1.

    Ids and categories are read as text, so "007" stays "007". Only an empty cell is missing;
    "NA" and "null" are text like any other. A UTF-8 byte order mark is skipped.
    """

    def __init__(self, path: Path, separator: str) -> None:
        if len(separator) != 1:
            raise DataError(
                f"{path.name}: a separator is one character, not {separator!r}; replace it in the "
                "file first"
            )
        self.path, self.label, self.separator = path, path.name, separator
        _check_start(path)
        self.names = self._header()

    def _header(self) -> list[str]:
        with _open(self.path) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
            try:
                return next(row for row in csv.reader(lines, delimiter=self.separator) if row)
            except UnicodeDecodeError:
                _check_utf8(self.path)
                raise
            except csv.Error as error:
                raise DataError(
                    f"{self.label}, row 1: no header of a text table ({error})"
                ) from None

    def _hint(self, wanted: list[str]) -> str:
        """What to say of missing columns when another separator splits the header."""
        header = self.names[0]
        for separator, name in _SEPARATORS.items():
            parts = [part.strip('"') for part in header.split(separator)]
            if len(self.names) == 1 < len(parts):
                found = ", ".join(repr(column) for column in wanted if column in parts)
                remedy = (
                    f"pass separator={separator!r}" if len(separator) == 1 else "use one character"
                )
                return (
                    f": the header is one column, but split by {name} it holds "
                    f"{found or 'several'}; {remedy}"
                )
        return ""

    def batches(self, wants: Mapping[str, Want], *, as_text: bool = False) -> Iterator[Any]:
        """Blocks of the file; with `as_text`, numbers and times arrive as written."""
        check_columns(self.label, wants, self.names, hint=self._hint(list(wants)))
        kinds = {Want.CODED: _CODED}
        if not as_text:
            kinds[Want.NUMBER] = pa.float64()
        types = {name: kinds.get(want, pa.large_string()) for name, want in wants.items()}
        n_rows = 0
        try:
            if not as_text:
                types.update(self._time_types(wants))
            for batch in self._reader(list(wants), types):
                n_rows += batch.num_rows
                yield batch
        except pa.ArrowException as error:
            if "Empty CSV" in str(error):
                raise self._no_rows() from error
            self._explain(error)
            if as_text:
                raise DataError(f"{self.label}: {error}") from error
            raise TextNeeded from error
        if not n_rows:
            raise self._no_rows()

    def _no_rows(self) -> DataError:
        return DataError(f"{self.path}: a header but no rows; it needs at least one row")

    def _time_types(self, wants: Mapping[str, Want]) -> dict[str, Any]:
        """Times as int64, float64 or text, by the first block."""
        times = [name for name, want in wants.items() if want is Want.TIME]
        if not times:
            return {}
        text = {name: pa.large_string() for name in times}
        first = next(iter(self._reader(times, text)), None)
        if first is None:
            return {}
        found: dict[str, Any] = {}
        for name in times:
            for kind in (pa.int64(), pa.float64(), pa.large_string()):
                try:
                    first.column(name).cast(kind)
                except pa.ArrowException:
                    continue
                found[name] = kind
                break
        return found

    def _reader(self, columns: list[str], types: dict[str, Any], **options: Any) -> Any:
        reading = pacsv.ReadOptions(
            block_size=_BLOCK_BYTES, use_threads=not options, column_names=None
        )
        parsing = pacsv.ParseOptions(delimiter=self.separator, newlines_in_values=True, **options)
        converting = pacsv.ConvertOptions(
            column_types=types,
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        return pacsv.open_csv(
            _open(self.path),
            read_options=reading,
            parse_options=parsing,
            convert_options=converting,
        )

    def _explain(self, error: Exception) -> None:
        """Raise a `DataError` for bad text and ragged rows; return for anything else."""
        if "UTF8" in str(error):
            _check_utf8(self.path)
        if "Expected" in str(error) and "columns" in str(error):
            ragged: list[Any] = []

            def keep(row: Any) -> str:
                ragged.append(row)
                return "error"

            first = self.names[0]
            with suppress(pa.ArrowException):
                for _ in self._reader([first], {first: pa.binary()}, invalid_row_handler=keep):
                    pass
            for row in ragged:
                text = row.text if len(row.text) <= 60 else f"{row.text[:57]}..."
                more = row.actual_columns > row.expected_columns
                remedy = "quote values that hold the separator" if more else "complete the row"
                raise DataError(
                    f"{self.place(row.number - 2)}: {row.actual_columns} values where the header "
                    f"has {row.expected_columns}: {text!r}; {remedy}"
                )

    def place(self, row: int) -> str:
        """File and line; blank lines and line breaks inside quotes are counted."""
        line = _line_of(self.path, row + 1)
        if line is None:
            line = _quoted_line_of(self.path, row + 1, self.separator)
        return f"{self.label}, row {line}"


def _line_of(path: Path, record: int, *, quotes: bool = True) -> int | None:
    """The line number (from 1) of record 0, 1, ..., the first of which may be a header.

    None when a quote occurs before and `quotes` may hold line breaks.
    """
    lines = records = 0
    rest = b""
    with _open(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            block = rest + block
            if quotes and b'"' in block:
                return None
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
            blank = ends == starts
            if b"\r\n" in block:
                blank |= (ends == starts + 1) & (
                    np.frombuffer(block, np.uint8)[starts] == ord("\r")
                )
            counts = np.cumsum(~blank)
            if len(ends) and records + counts[-1] > record:
                return lines + int(np.searchsorted(counts, record - records + 1)) + 1
            lines += len(ends)
            records += int(counts[-1]) if len(ends) else 0
            rest = block[int(ends[-1]) + 1 :] if len(ends) else block
    return lines + 1


def _quoted_line_of(path: Path, record: int, separator: str) -> int:
    """Like `_line_of` for any file; slower, as it reads record by record."""
    with _open(path) as stream:
        lines = io.TextIOWrapper(
            io.BufferedReader(stream), encoding="utf-8", errors="replace", newline=""
        )
        reader = csv.reader(lines, delimiter=separator)
        before = records = 0
        with suppress(csv.Error):  # a cell too long for this reader: its row is near enough
            for cells in reader:
                if cells:
                    if records == record:
                        break
                    records += 1
                before = reader.line_num
    return before + 1


class JsonSource:
    """One JSON object a line. Rows count as lines of the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.name
        _check_start(path)
        try:
            self.names = list(self._reader().schema.names)
        except pa.ArrowException as error:
            raise self._broken(error) from error

    def _reader(self) -> Any:
        options = pajson.ReadOptions(block_size=_BLOCK_BYTES)
        return pajson.open_json(_open(self.path), read_options=options)

    def batches(self, wants: Mapping[str, Want], *, as_text: bool = False) -> Iterator[Any]:
        """Blocks of the file; with `as_text`, of the whole file read at once.

        The reader fixes the types by the first block; only the whole file shows those of a field
        that is null there.
        """
        check_columns(self.label, wants, self.names)
        try:
            blocks = pajson.read_json(_open(self.path)).to_batches() if as_text else self._reader()
            for batch in blocks:
                yield batch.select(list(wants))
        except pa.ArrowException as error:
            if not as_text:
                raise TextNeeded from error
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> DataError:
        """The first line that is not UTF-8, no JSON object, or of other types than those before."""
        _check_utf8(self.path)
        sorts: dict[str, tuple[str, int]] = {}
        with _open(self.path) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig")
            for number, line in enumerate(lines, 1):
                try:
                    cells = json.loads(line) if line.strip() else {}
                except json.JSONDecodeError:
                    cells = None
                if not isinstance(cells, dict):
                    return DataError(
                        f"{self.label}, row {number}: {line.strip()[:60]!r} is not a JSON object; "
                        "write one object a line"
                    )
                for name, value in cells.items():
                    sort = _SORTS.get(type(value))
                    first, row = sorts.setdefault(name, (sort, number)) if sort else (sort, number)
                    if first != sort:
                        return DataError(
                            f"{self.label}, row {number}, column {name!r}: {value!r} is {sort}, "
                            f"but row {row} has {first}; write all rows one way"
                        )
        return DataError(f"{self.label}: {error}")

    def place(self, row: int) -> str:
        """File and line; blank lines are counted."""
        return f"{self.label}, row {_line_of(self.path, row, quotes=False)}"


_SORTS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}
