"""What an event store is: events and served answers, kept for good once acknowledged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from tastemaker.errors import TastemakerError

__all__ = [
    "Appended",
    "Event",
    "EventStore",
    "Row",
    "Served",
    "StoreUnavailableError",
    "StoredEvent",
    "event_rows",
    "in_batches",
    "served_of",
    "served_rows",
    "stored_of",
]

Row = tuple[Any, ...]

SCHEMA = 1  # version of the tables; a store of another version is refused


class StoreUnavailableError(TastemakerError):
    """The store cannot be reached or written; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 2) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Event(NamedTuple):
    """Something a user did.

    Attributes:
        event_id: chosen by the sender; the same id is taken once.
        user, item: raw ids.
        timestamp: epoch seconds, or `None` for when it arrived.
        behavior: such as `"click"`.
        label: such as a rating.
    """

    event_id: str
    user: str
    item: str
    timestamp: float | None = None
    behavior: str | None = None
    label: float | None = None


class StoredEvent(NamedTuple):
    """An event with its place in the order of arrival and the time that counts for it."""

    number: int
    event: Event
    at: float


class Served(NamedTuple):
    """An answer that was given, for later training and for audits.

    Attributes:
        request_id: of the request.
        at: epoch seconds.
        user: raw id, or `None`.
        model, run: what answered.
        items: raw ids, best first.
        basis: what the answer rests on.
    """

    request_id: str
    at: float
    user: str | None
    model: str
    run: str
    items: Sequence[str]
    basis: str


class Appended(NamedTuple):
    """How many events were new, and how many were known by their id."""

    accepted: int
    duplicates: int


class EventStore(Protocol):
    """Keeps events and served answers. Every method may be called from any thread.

    All raise `StoreUnavailableError` when the store is down.
    """

    def append(self, events: Sequence[Event], at: float) -> Appended:
        """Store events, all or none; when it returns they survive the death of the process.

        Args:
            events: those whose `event_id` is known are left alone.
            at: when they arrived, epoch seconds.
        """
        ...

    def history(self, user: str, limit: int) -> list[StoredEvent]:
        """The `limit` most recent events of a user, oldest first: by time, then by arrival."""
        ...

    def events(self, after: int = 0, batch: int = 10_000) -> Iterator[list[StoredEvent]]:
        """All events in order of arrival, from number `after + 1` on, in batches."""
        ...

    def log(self, served: Sequence[Served]) -> None:
        """Keep served answers."""
        ...

    def served(self, limit: int) -> list[Served]:
        """The `limit` most recent answers, the newest first."""
        ...

    def ping(self) -> None:
        """Return when the store answers."""
        ...

    def close(self) -> None:
        """Let go of connections; nothing may be asked afterwards."""
        ...


# Rows of the tables, the same in every database: events are (number, event_id, user, item,
# timestamp, behavior, label, at), answers (request_id, at, user, model, run, items, basis).


def event_rows(events: Sequence[Event], at: float) -> list[Row]:
    """Rows to insert, without the number; an event without a time counts from its arrival `at`."""
    return [(*event, at if event.timestamp is None else event.timestamp) for event in events]


def stored_of(row: Row) -> StoredEvent:
    """The event of a row."""
    return StoredEvent(row[0], Event(*row[1:7]), row[7])


def served_rows(served: Sequence[Served]) -> list[Row]:
    """Rows to insert; the items of an answer are JSON."""
    return [(*answer[:5], json.dumps(list(answer.items)), answer.basis) for answer in served]


def served_of(row: Row) -> Served:
    """The answer of a row."""
    request_id, at, user, model, run, items, basis = row
    return Served(request_id, at, user, model, run, json.loads(items), basis)


def in_batches(
    fetch: Callable[[int, int], Sequence[Row]], after: int, batch: int
) -> Iterator[list[StoredEvent]]:
    """Events in order of arrival, by questions of the form "`batch` rows after this number"."""
    while rows := fetch(after, batch):
        yield [stored_of(row) for row in rows]
        after = rows[-1][0]
