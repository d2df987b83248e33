"""The event store in PostgreSQL, for several servers or a database that is there already.

The same tables as the embedded store, in the schema that the connection's search path names.
`append` returns after the commit, whose durability is the server's (`synchronous_commit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tastemaker.errors import RunError
from tastemaker.extras import require
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

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["PostgresStore"]

_WAIT_SECONDS = 2.0  # for a connection
_CONNECTIONS = 8
_LOCK = 0x7A57E  # advisory lock under which tables are made
_TABLES = """
CREATE TABLE IF NOT EXISTS tastemaker_meta (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tastemaker_events (
  number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id TEXT NOT NULL UNIQUE,
  "user" TEXT NOT NULL,
  item TEXT NOT NULL,
  timestamp DOUBLE PRECISION,
  behavior TEXT,
  label DOUBLE PRECISION,
  at DOUBLE PRECISION NOT NULL
);
CREATE INDEX IF NOT EXISTS tastemaker_events_by_user
  ON tastemaker_events ("user", at, number);
CREATE TABLE IF NOT EXISTS tastemaker_served (
  number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  request_id TEXT NOT NULL,
  at DOUBLE PRECISION NOT NULL,
  "user" TEXT,
  model TEXT NOT NULL,
  run TEXT NOT NULL,
  items TEXT NOT NULL,
  basis TEXT NOT NULL
);
"""
_COLUMNS = 'number, event_id, "user", item, timestamp, behavior, label, at'


class PostgresStore:
    """Events in a PostgreSQL database.

    Args:
        url: such as `postgresql://user:password@host/database`.

    Raises:
        MissingExtraError: without the extra `postgres`.
        RunError: when the tables are of another version.
        StoreUnavailableError: when the database does not answer.
    """

    def __init__(self, url: str) -> None:
        self._psycopg = require("psycopg", extra="postgres", purpose="a PostgreSQL event store")
        pools = require("psycopg_pool", extra="postgres", purpose="a PostgreSQL event store")
        self._faults = (self._psycopg.Error, pools.PoolTimeout, pools.PoolClosed)
        self._pool = pools.ConnectionPool(
            url,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_WAIT_SECONDS,
            open=False,
            kwargs={"connect_timeout": 2},
            check=pools.ConnectionPool.check_connection,
        )
        self._pool.open(wait=False)
        with self._connected() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_TABLES)
            row = connection.execute("SELECT version FROM tastemaker_meta").fetchone()
            if row is None:
                connection.execute("INSERT INTO tastemaker_meta VALUES (%s)", (SCHEMA,))
            elif row[0] != SCHEMA:
                raise RunError(
                    f"the event store in PostgreSQL is of version {row[0]}, and this is version "
                    f"{SCHEMA}; name another database or search path"
                )

    def append(self, events: Sequence[Event], at: float) -> Appended:
        """See `EventStore.append`."""
        if not events:
            return Appended(0, 0)
        rows = event_rows(events, at)
        with self._connected() as connection:
            columns = list(zip(*rows, strict=True))
            done = connection.execute(
                'INSERT INTO tastemaker_events (event_id, "user", item, timestamp, behavior, '
                "label, at) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], "
                "%s::double precision[], %s::text[], %s::double precision[], "
                "%s::double precision[]) ON CONFLICT (event_id) DO NOTHING",
                [list(column) for column in columns],
            )
            accepted = done.rowcount
        return Appended(accepted, len(rows) - accepted)

    def history(self, user: str, limit: int) -> list[StoredEvent]:
        """See `EventStore.history`."""
        with self._connected() as connection:
            rows = connection.execute(
                f'SELECT {_COLUMNS} FROM tastemaker_events WHERE "user" = %s '  # noqa: S608
                "ORDER BY at DESC, number DESC LIMIT %s",
                (user, limit),
            ).fetchall()
        return [stored_of(row) for row in reversed(rows)]

    def events(self, after: int = 0, batch: int = 10_000) -> Iterator[list[StoredEvent]]:
        """See `EventStore.events`."""

        def fetch(start: int, count: int) -> list[Row]:
            with self._connected() as connection:
                return connection.execute(
                    f"SELECT {_COLUMNS} FROM tastemaker_events WHERE number > %s "  # noqa: S608
                    "ORDER BY number LIMIT %s",
                    (start, count),
                ).fetchall()

        return in_batches(fetch, after, batch)

    def log(self, served: Sequence[Served]) -> None:
        """See `EventStore.log`."""
        rows = served_rows(served)
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.executemany(
                'INSERT INTO tastemaker_served (request_id, at, "user", model, run, items, basis) '
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                rows,
            )

    def served(self, limit: int) -> list[Served]:
        """See `EventStore.served`."""
        with self._connected() as connection:
            rows = connection.execute(
                'SELECT request_id, at, "user", model, run, items, basis FROM tastemaker_served '
                "ORDER BY number DESC LIMIT %s",
                (limit,),
            ).fetchall()
        return [served_of(row) for row in rows]

    def ping(self) -> None:
        """See `EventStore.ping`."""
        with self._connected() as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        """See `EventStore.close`."""
        self._pool.close()

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        """A pooled connection in a transaction, committed at the end of the block."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except self._faults as error:
            raise StoreUnavailableError(
                f"the event store in PostgreSQL does not answer: {' '.join(str(error).split())}"
            ) from error
