"""Reading what publishers write, column-wise: delimited text, JSON lines, Python literals.

Every reader streams an original file block by block and keeps only the columns asked for, so a
file larger than memory is no trouble as long as its columns fit. Nothing is evaluated.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv

from tastemaker.console import Progress
from tastemaker.data.fetch import Originals
from tastemaker.errors import DataError

__all__ = [
    "decode",
    "literals_to_json",
    "read_adjacency",
    "read_delimited",
    "read_json_lines",
    "read_literal_lines",
    "release_year",
]

_BLOCK = 1 << 26  # bytes of text parsed at a time
_UNIT = "\x1f"  # the ASCII unit separator, which no text file here contains


def decode(raw: bytes) -> str:
    """Text of an old file: UTF-8, and Latin-1 for those bytes that are not valid UTF-8."""
    return raw.decode("utf-8", errors="tastemaker.latin-1").removeprefix("\ufeff")


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("tastemaker.latin-1", _as_latin_1)


def read_delimited(
    originals: Originals,
    name: str,
    columns: Mapping[str, pa.DataType],
    *,
    separator: str = ",",
    header: bool = True,
    quoted: bool = True,
    old: bool = False,
) -> pl.DataFrame:
    """A delimited file as a frame; empty fields are null.

    Args:
        columns: with a header, the columns to keep; without one, all columns in order, where
            those of type `pa.null()` are left out.
        separator: one character or several, such as `"::"`.
        quoted: whether `"` quotes fields (that may then hold separators and line ends).
        old: the file may be Latin-1 (see `decode`).

    Raises:
        DataError: naming the file, and the row or column where it is not in the format.
    """
    kept = {column: kind for column, kind in columns.items() if kind != pa.null()}
    convert = pa.csv.ConvertOptions(
        column_types=kept, include_columns=list(kept), strings_can_be_null=True, null_values=[""]
    )
    with originals.open(name) as stream:
        source: BinaryIO = stream
        if old or len(separator) > 1:
            text = decode(stream.read()).replace(
                separator, _UNIT if len(separator) > 1 else separator
            )
            source = io.BytesIO(text.encode())
        try:
            table = pa.csv.read_csv(
                source,
                read_options=pa.csv.ReadOptions(
                    column_names=None if header else list(columns), block_size=1 << 24
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=separator if len(separator) == 1 else _UNIT,
                    quote_char='"' if quoted else False,
                    newlines_in_values=quoted,
                ),
                convert_options=convert,
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise DataError(f"{name}: not in the publisher's format: {error}") from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def read_json_lines(originals: Originals, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """The chosen fields of a file with one JSON object a line; a missing field is null."""
    with originals.open(name) as stream:
        frames = [_parse_json(block, name, schema) for block in _blocks(stream, name)]
    return _concat(frames, name)


def read_literal_lines(originals: Originals, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """The chosen fields of a file with one Python dict a line, as old `print`s left them.

    Every atom arrives as text, numbers too, so the types in `schema` are strings and lists of
    strings; a missing field is null.
    """
    with originals.open(name) as stream:
        frames = []
        for block in _blocks(stream, name):
            lines = pl.Series("line", [decode(block)]).str.split("\n").explode()
            text = literals_to_json(lines.filter(lines.str.len_bytes() > 1)).str.join("\n").item()
            frames.append(_parse_json((text or "").encode(), name, schema))
    return _concat(frames, name)


def read_adjacency(originals: Originals, name: str) -> pl.DataFrame:
    """`user`, `item` int64 pairs from lines of a user followed by that user's items."""
    with originals.open(name) as stream:
        frames = []
        for block in _blocks(stream, name):
            lines = pl.Series("line", [decode(block)]).str.split("\n").explode()
            words = lines.str.strip_chars().str.split(" ").to_frame()
            frames.append(
                words.select(user=pl.col("line").list.first(), item=pl.col("line").list.slice(1))
                .filter(pl.col("item").list.len() > 0)
                .explode("item")
            )
    pairs = _concat(frames, name)
    try:
        return pairs.cast(pl.Int64)
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(f"{name}: not lines of whole numbers: {error}") from error


def release_year(title: pl.Expr) -> pl.Expr:
    """The year in the last parentheses that begin with one, as in `Toy Story (1995)`; float64."""
    return title.str.extract(r".*\((\d{4})[^()]*\)").cast(pl.Float64)


def literals_to_json(lines: pl.Series) -> pl.Series:
    r"""Python literals, one a line, as JSON in which every atom is a string.

    Strings are the only tokens with quotes, so they can be told from left to right by regular
    expressions over the whole column: first escaped backslashes and quotes become placeholder
    characters (which `repr` never leaves in text), then `'...'`, `"..."` (with or without `u`)
    and bare atoms (numbers, True, None) get a placeholder as their quote, and at last quotes and
    placeholders become what JSON wants. `\xe9` becomes `\u00e9`; wide `\U0001f600` the character.
    """
    text = lines
    for old, new in (("\\\\", "\x01"), ("\\'", "\x02"), ('\\"', "\x03")):
        text = text.str.replace_all(old, new, literal=True)
    text = text.str.replace_all(
        r"""u?'([^']*)'|u?"([^"]*)"|([^\s'"\[\]{}(),:]+)""", "\x04${1}${2}${3}\x04"
    )
    text = text.str.replace_all(r"\\x([0-9a-fA-F]{2})", r"\u00$1")
    wide = text.str.extract_all(r"\\U[0-9a-fA-F]{8}").explode().drop_nulls().unique().to_list()
    if wide:
        text = text.str.replace_many(wide, [chr(int(escape[2:], 16)) for escape in wide])
    text = text.str.replace_all('"', '\\"', literal=True)
    for old, new in (("\x04", '"'), ("\x03", '\\"'), ("\x02", "'"), ("\x01", "\\\\")):
        text = text.str.replace_all(old, new, literal=True)
    return text


def _parse_json(block: bytes, name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    if not block.strip():
        return pl.DataFrame(schema=dict(schema))
    try:
        return pl.read_ndjson(block, schema=dict(schema))
    except pl.exceptions.PolarsError as error:
        reason = re.sub(r"\s+", " ", str(error))[:300]
        raise DataError(f"{name}: not in the publisher's format: {reason}") from error


def _blocks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Blocks of whole lines, counted on the terminal when there are many."""
    rest = b""
    with Progress(f"reading {name}", unit="B") as progress:
        while chunk := stream.read(_BLOCK):
            end = chunk.rfind(b"\n") + 1
            if end == 0:
                rest += chunk
                continue
            yield rest + chunk[:end]
            rest = chunk[end:]
            progress.advance(len(chunk))
    if rest.strip():
        yield rest


def _concat(frames: list[pl.DataFrame], name: str) -> pl.DataFrame:
    if sum(frame.height for frame in frames) == 0:
        raise DataError(f"{name}: the file is empty")
    return pl.concat(frames)
