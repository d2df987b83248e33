"""Where events live: a file by default, PostgreSQL by URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tastemaker.errors import ConfigError
from tastemaker.serving.store.base import (
    Appended,
    Event,
    EventStore,
    Served,
    StoredEvent,
    StoreUnavailableError,
)

__all__ = [
    "Appended",
    "Event",
    "EventStore",
    "Served",
    "StoreUnavailableError",
    "StoredEvent",
    "open_store",
]


def open_store(url: str, *, must_exist: bool = False) -> EventStore:
    """The store of a URL: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Raises:
        ConfigError: for another kind of URL, or a file that is not there and `must_exist`.
        RunError: when there is something else, or a store of another version.
        StoreUnavailableError: when it does not answer.
        MissingExtraError: for PostgreSQL without the extra `postgres`.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite" and url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        from tastemaker.serving.store.sqlite import SqliteStore

        path = Path(url.removeprefix("sqlite:///"))
        if must_exist and not path.exists():
            raise ConfigError(f"there is no event store {path}")
        return SqliteStore(path)
    if scheme in ("postgresql", "postgres"):
        from tastemaker.serving.store.postgres import PostgresStore

        return PostgresStore(url)
    raise ConfigError(
        f"store {url!r} is neither sqlite:///FILE nor postgresql://USER:PASSWORD@HOST/DATABASE"
    )
