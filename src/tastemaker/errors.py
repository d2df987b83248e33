"""The errors Tastemaker raises on purpose: what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "MissingNeedError",
    "RunError",
    "TastemakerError",
    "nearest",
]


class TastemakerError(Exception):
    """Base of every error meant for the person who caused it; the command line prints it bare."""


class DataError(TastemakerError, ValueError):
    """Input data cannot be used: the message names file, row, column, value and remedy."""


class ConfigError(TastemakerError, ValueError):
    """A setting is unknown or out of range: the message names the setting and what is allowed."""


class MissingNeedError(DataError):
    """A method needs data (text, knowledge, time, ...) that the data set does not have."""


class MissingExtraError(TastemakerError, ImportError):
    """An optional package is not installed: the message names the extra and the command."""


class RunError(TastemakerError, RuntimeError):
    """A run folder is missing, unfinished, damaged or of another format version."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known word, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
