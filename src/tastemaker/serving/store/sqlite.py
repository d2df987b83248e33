"""The embedded event store: one SQLite file with a write-ahead log.

A commit is synced to disk before `append` returns (`synchronous=FULL`). Readers never wait for the
writer. One connection per thread; writers take turns.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tastemaker.errors import RunError
from tastemaker.serving.store.base import (
    SCHEMA,
    Appended,
    Event,
    Row,
    Served,
    StoredEvent,
    StoreUnavailableError,
    event_rows,
    in_batches,
    served_of,
    served_rows,
    stored_of,
)

__all__ = ["SqliteStore"]

_WAIT_SECONDS = 2.0  # for a lock that another process holds
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL UNIQUE,
  user TEXT NOT NULL,
  item TEXT NOT NULL,
  timestamp REAL,
  behavior TEXT,
  label REAL,
  at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user, at, number);
CREATE TABLE IF NOT EXISTS served (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  request_id TEXT NOT NULL,
  at REAL NOT NULL,
  user TEXT,
  model TEXT NOT NULL,
  run TEXT NOT NULL,
  items TEXT NOT NULL,
  basis TEXT NOT NULL
);
"""
_COLUMNS = "number, event_id, user, item, timestamp, behavior, label, at"


class SqliteStore:
    """Events in a file.

    Args:
        path: the file; made with its tables when it is not there.

    Raises:
        RunError: when the file is no store of this version.
        StoreUnavailableError: when it cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        self._closed = False
        with self._connected() as connection:
            version = _version(connection, self.path)
        if version != SCHEMA:
            raise RunError(
                f"{self.path} is an event store of version {version}, and this is version "
                f"{SCHEMA}; name another file, or export it with the version that made it"
            )

    def append(self, events: Sequence[Event], at: float) -> Appended:
        """See `EventStore.append`."""
        rows = event_rows(events, at)
        with self._turn(), self._connected() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO events (event_id, user, item, timestamp, behavior, label, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
                rows,
            )
            accepted = connection.total_changes - before
        return Appended(accepted, len(rows) - accepted)

    def history(self, user: str, limit: int) -> list[StoredEvent]:
        """See `EventStore.history`."""
        with self._connected() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM events WHERE user = ? "  # noqa: S608 - constant names
                "ORDER BY at DESC, number DESC LIMIT ?",
                (user, limit),
            ).fetchall()
        return [stored_of(row) for row in reversed(rows)]

    def events(self, after: int = 0, batch: int = 10_000) -> Iterator[list[StoredEvent]]:
        """See `EventStore.events`."""

        def fetch(start: int, count: int) -> list[Row]:
            with self._connected() as connection:
                return connection.execute(
                    f"SELECT {_COLUMNS} FROM events WHERE number > ? "  # noqa: S608
                    "ORDER BY number LIMIT ?",
                    (start, count),
                ).fetchall()

        return in_batches(fetch, after, batch)

    def log(self, served: Sequence[Served]) -> None:
        """See `EventStore.log`."""
        rows = served_rows(served)
        with self._turn(), self._connected() as connection, connection:
            connection.executemany(
                "INSERT INTO served (request_id, at, user, model, run, items, basis) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def served(self, limit: int) -> list[Served]:
        """See `EventStore.served`."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT request_id, at, user, model, run, items, basis FROM served "
                "ORDER BY number DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [served_of(row) for row in rows]

    def ping(self) -> None:
        """See `EventStore.ping`: whether the file can be written."""
        with self._turn(), self._connected() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """See `EventStore.close`."""
        with self._writing:
            self._closed = True
            for connection in self._open:
                connection.close()
            self._open.clear()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The turn to write; behind a writer that waits for a lock, nobody waits for long."""
        if not self._writing.acquire(timeout=_WAIT_SECONDS):
            raise StoreUnavailableError(f"the event store {self.path}: others wait to write")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection of this thread; faults of SQLite become `StoreUnavailableError`."""
        if self._closed:
            raise StoreUnavailableError(f"the event store {self.path} is closed")
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._connect()
                self._local.connection = connection
                self._open.append(connection)
            yield connection
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the event store {self.path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the store in a file; makes the tables of an empty one."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if tables and "meta" not in tables:
        raise RunError(f"{path} is a database but no event store; name another file")
    connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}COMMIT;")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("SELECT version FROM meta").fetchone()
        if row is None:
            connection.execute("INSERT INTO meta VALUES (?)", (SCHEMA,))
            return SCHEMA
    return int(row[0])
