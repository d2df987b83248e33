"""Answers that were given, written to the store behind the requests' back."""

from __future__ import annotations

import threading
from collections import deque

from tastemaker.serving.store import EventStore, Served, StoreUnavailableError

__all__ = ["Journal"]

_PAUSE_SECONDS = 0.5  # between two writes
_HELD = 100_000  # answers held while the store is down; older ones are dropped and counted


class Journal:
    """Collects answers and writes them in batches from a thread of its own.

    Attributes:
        dropped: answers that were given up because the store was down for too long.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._held: deque[Served] = deque()
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add(self, served: Served) -> None:
        """Keep an answer; returns at once."""
        with self._guard:
            if len(self._held) >= _HELD:
                self._held.popleft()
                self.dropped += 1
            self._held.append(served)

    def close(self) -> None:
        """Write what is held, if the store lets it, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._guard:
            batch = list(self._held)
        if not batch:
            return
        try:
            self._store.log(batch)
        except StoreUnavailableError:
            return  # they stay; the next turn tries again
        with self._guard:
            for served in batch:
                if self._held and self._held[0] is served:
                    self._held.popleft()
