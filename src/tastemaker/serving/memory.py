"""What users have just done, in memory in front of the store.

An event is stored first and shown after, so nothing is shown that could be lost. Recommendations
read from here and ask the store once for each user; when the store is down they go on with what is
here.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tastemaker.serving.store import Appended, Event, EventStore, StoreUnavailableError

__all__ = ["LiveHistories"]

_PAUSE_SECONDS = 1.0  # for which a store that was down is not asked for histories again


@dataclass
class _Row:
    """A user's events here; `complete` when those of the store are among them."""

    complete: bool = False
    placed: list[tuple[float, int, Event]] = field(default_factory=list)  # time, arrival, event
    ids: set[str] = field(default_factory=set)

    def add(self, events: Iterable[tuple[float, int, Event]], limit: int) -> None:
        """Put events in their places, each once, and keep the `limit` most recent ones."""
        for entry in events:
            if entry[2].event_id not in self.ids:
                self.ids.add(entry[2].event_id)
                insort(self.placed, entry, key=lambda placed: placed[:2])
        for _, _, event in self.placed[:-limit]:
            self.ids.discard(event.event_id)
        del self.placed[:-limit]

    def events(self) -> list[Event]:
        """Oldest first; an event without a time of its own has that of its arrival."""
        return [event._replace(timestamp=at) for at, _, event in self.placed]


class LiveHistories:
    """The most recent events of each user, as this server knows them.

    What another server stores is seen when the user is read for the first time.

    Args:
        store: where events are kept.
        limit: events of a user that are looked at, the most recent ones.
        users: users held in memory; those asked least recently make room.
        clock: gives epoch seconds.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        limit: int = 1_000,
        users: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.limit, self.users, self._clock = store, limit, users, clock
        self._rows: OrderedDict[str, _Row] = OrderedDict()
        self._guard = threading.Lock()
        self._arrivals = 1 << 62  # events that arrive here come after all that are stored
        self._paused_until = 0.0

    def add(self, events: Sequence[Event]) -> Appended:
        """Store events; from then on they are part of their users' histories.

        Raises:
            StoreUnavailableError: when they could not be stored; then nothing is shown either.
        """
        arrived = self._clock()
        appended = self.store.append(events, arrived)
        with self._guard:
            for event in events:
                self._arrivals += 1
                at = arrived if event.timestamp is None else event.timestamp
                self._row(event.user).add([(at, self._arrivals, event)], self.limit)
        return appended

    def at_hand(self, user: str) -> list[Event] | None:
        """The events of a user if that takes no question to the store, else `None`."""
        with self._guard:
            row = self._row(user)
            is_final = row.complete or self._clock() < self._paused_until
            return row.events() if is_final else None

    def of(self, user: str) -> list[Event]:
        """The events of a user, oldest first; what is in memory when the store is down."""
        known = self.at_hand(user)
        if known is not None:
            return known
        try:
            stored = self.store.history(user, self.limit)
        except StoreUnavailableError:
            self._paused_until = self._clock() + _PAUSE_SECONDS
            stored = None
        with self._guard:
            row = self._row(user)  # events may have arrived meanwhile
            if stored is not None:
                row.add([(kept.at, kept.number, kept.event) for kept in stored], self.limit)
                row.complete = True
            return row.events()

    @property
    def is_waiting(self) -> bool:
        """Whether the store was down when it was last asked for a history."""
        return self._clock() < self._paused_until

    def _row(self, user: str) -> _Row:
        """The row of a user, made when there is none; the caller holds the guard."""
        row = self._rows.get(user)
        if row is None:
            row = self._rows[user] = _Row()
            if len(self._rows) > self.users:
                self._rows.popitem(last=False)
        self._rows.move_to_end(user)
        return row
