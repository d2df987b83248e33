"""Settings of a method as people give them, `key=value` or a file, and what each one means."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import tokenize
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from tastemaker.errors import ConfigError

if TYPE_CHECKING:
    from tastemaker.models.base import ModelConfig

__all__ = ["Setting", "documented", "parse_assignments", "read_settings"]


@dataclass(frozen=True)
class Setting:
    """One field of a Config: its name, type, default and the comment beside it."""

    name: str
    type: str
    default: Any
    meaning: str


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as settings; a value that is JSON is taken as such, else as a string.

    Raises:
        ConfigError: for a text without `=` or a key given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {text!r} has no '='; write --set hidden_size=64")
        if key in values:
            raise ConfigError(f"--set {key!r} is given twice; give it once")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def read_settings(path: Path | str) -> dict[str, Any]:
    """The settings of a TOML or JSON file: one table of names and values.

    Raises:
        ConfigError: when the file is missing, of another kind, or not one table.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".json"):
        raise ConfigError(f"{path}: settings are read from a .toml or .json file")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such settings file")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected one table of settings, got {type(values).__name__}")
    return values


def documented(kind: type[ModelConfig]) -> list[Setting]:
    """The fields of a Config in order, each with the comment that follows it in the source."""
    comments: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner):
            comments |= _comments(owner)
    types = get_type_hints(kind)
    return [
        Setting(
            field.name,
            _type_name(types[field.name]),
            _default(field),
            comments.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    ]


def _type_name(kind: Any) -> str:
    """A type as a person reads it: `"int"`, `"float or None"`, `"'adam' or 'sgd'"`."""
    if get_origin(kind) is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_type_name(part) for part in get_args(kind))
    if kind is NoneType:
        return "None"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _comments(owner: type) -> dict[str, str]:
    """Field name -> trailing comment of its statement, for the fields of one class."""
    try:
        lines = inspect.getsource(owner)
    except (OSError, TypeError):  # a class without source, such as one made in a test
        return {}
    comments: dict[str, str] = {}
    first, before = "", tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(lines)).readline):
        if token.type == tokenize.NAME and before in _STATEMENT_ENDS:
            first = token.string
        if token.type == tokenize.COMMENT and before != tokenize.NL and first:
            said = token.string.lstrip("#").strip()
            comments[first] = f"{comments[first]} {said}" if first in comments else said
        before = token.type
    return comments


_STATEMENT_ENDS = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default as a JSON value or, for what has none, as text."""
    value: Any = field.default
    factory: Any = field.default_factory
    if value is dataclasses.MISSING and factory is not dataclasses.MISSING:
        value = factory()
    if isinstance(value, FieldInfo):
        value = value.default
    if value is dataclasses.MISSING:
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
