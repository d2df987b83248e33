"""The one-line spelling of splits and filters, `name:key=value,key=value`, and of times in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np

from tastemaker.errors import ConfigError, nearest

__all__ = ["epoch_seconds", "format_spec", "parse_spec"]

T = TypeVar("T")


def parse_spec(text: str, known: Mapping[str, type[T]], what: str) -> T:
    """The value a line spells: `known[name]` called with the settings as keywords.

    Values that look like numbers become floats, all others stay strings; the class checks them.

    Args:
        text: `"name"` or `"name:key=value,key=value"`; spaces around words are ignored.
        known: name -> dataclass.
        what: the noun of the messages, `"split"` or `"filter"`.

    Raises:
        ConfigError: unknown name or setting, a setting without value, twice, or left out though
            it has no default.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in known:
        raise ConfigError(
            f"unknown {what} {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )
    settings = {field.name: field for field in fields(known[name])}  # type: ignore[arg-type]
    values: dict[str, float | str] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = (word.strip() for word in part.partition("="))
        if key not in settings:
            takes = f"it takes {', '.join(settings)}" if settings else "it takes none"
            raise ConfigError(
                f"{what} {name!r}: unknown setting {key!r}{nearest(key, settings)}; {takes}"
            )
        if not equals or not value:
            raise ConfigError(f"{what} {name!r}: setting {key!r} has no value; write {key}=VALUE")
        if key in values:
            raise ConfigError(f"{what} {name!r}: setting {key!r} is given twice")
        values[key] = _number_or_text(value)
    missing = [
        key for key, field in settings.items() if field.default is MISSING and key not in values
    ]
    if missing:
        raise ConfigError(
            f"{what} {name!r} needs {', '.join(missing)}: "
            f"write {name}:{','.join(f'{key}=VALUE' for key in missing)}"
        )
    return known[name](**values)


def format_spec(name: str, **settings: float | str | None) -> str:
    """The line that `parse_spec` reads back; settings that are None are left out."""
    words = [
        f"{key}={value if isinstance(value, str) else _shortest(value)}"
        for key, value in settings.items()
        if value is not None
    ]
    return f"{name}:{','.join(words)}" if words else name


def epoch_seconds(value: float | str, setting: str) -> float:
    """Seconds since 1970 UTC of a number of seconds or an ISO 8601 date or time (UTC if bare).

    Args:
        value: `"2024-05-01"`, `"2024-05-01T12:00:00+02:00"`, `1714521600`.
        setting: its name, for the message.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, str) and np.isfinite(value):
        return float(value)
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(
            f"{setting}={value!r} is not a time; expected ISO 8601 such as 2024-05-01 or "
            "2024-05-01T12:00:00, or seconds since 1970"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _shortest(value: float) -> Any:
    return np.format_float_positional(float(value), trim="-")
