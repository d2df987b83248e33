"""Many requests, one model: a bounded queue, a worker thread, and batches of whatever waits.

Nothing waits for a batch to fill: the worker takes what is there, answers it in one call, and takes
what has come meanwhile. Under load batches grow by themselves; a lone request is answered alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tastemaker.errors import ConfigError, TastemakerError, nearest
from tastemaker.serving.filters import Filters
from tastemaker.serving.loaded import Answered, Asked, LoadedRun
from tastemaker.serving.settings import ServeSettings

__all__ = ["BusyError", "Engine", "LateError"]

T = TypeVar("T")


class BusyError(TastemakerError):
    """As many requests wait as may wait."""


class LateError(TastemakerError):
    """The answer did not come in time."""


@dataclass
class _Waiting:
    """A request in the queue: what is asked for, or work to do in the worker's turn."""

    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    asked: Asked | None = None
    k: int = 0
    filters: Filters = field(default_factory=Filters)
    work: Callable[[LoadedRun], Any] | None = None


class _Worker:
    """The thread that asks one model."""

    def __init__(self, loaded: LoadedRun, settings: ServeSettings) -> None:
        self.loaded, self._settings = loaded, settings
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.batches, self.rows, self.seconds = 0, 0, 0.0
        self._thread = threading.Thread(target=self._run, name=f"model-{loaded.name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def put(self, waiting: _Waiting) -> bool:
        """Queue a request; False when the worker takes no more because it was exchanged.

        Raises:
            BusyError: when the queue is full.
        """
        with self._changed:
            if self._closing:
                return False
            if len(self._queue) >= self._settings.queue_size:
                raise BusyError(
                    f"{len(self._queue)} requests wait for model {self.loaded.name!r}; "
                    "ask again in a moment"
                )
            self._queue.append(waiting)
            self._changed.notify()
        return True

    def close(self) -> None:
        """Answer what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = self._take()
            began = time.perf_counter()
            self._answer(batch)
            self.batches, self.rows = self.batches + 1, self.rows + len(batch)
            self.seconds += time.perf_counter() - began

    def _take(self) -> list[_Waiting]:
        """The oldest request, and those behind it that can share its call."""
        first = self._queue.popleft()
        batch = [first]
        if first.work is None:
            rest: deque[_Waiting] = deque()
            while self._queue and len(batch) < self._settings.batch_rows:
                other = self._queue.popleft()
                alike = other.work is None and other.filters == first.filters
                (batch if alike else rest).append(other)
            self._queue.extendleft(reversed(rest))
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.future.cancelled()]
        if not batch:
            return
        try:
            found = self._found(batch)
        except Exception as error:  # whatever a model raises is its requests' answer
            for waiting in batch:
                _settle(waiting, error=error)
            return
        for waiting, answer in zip(batch, found, strict=True):
            _settle(waiting, answer)

    def _found(self, batch: Sequence[_Waiting]) -> list[Any]:
        if (work := batch[0].work) is not None:
            return [work(self.loaded)]
        asked = [waiting.asked for waiting in batch if waiting.asked is not None]
        longest = max(waiting.k for waiting in batch)
        found = self.loaded.answer(asked, longest, batch[0].filters)
        return [
            Answered(answer.items[: waiting.k], answer.scores[: waiting.k])
            for waiting, answer in zip(batch, found, strict=True)
        ]


def _settle(waiting: _Waiting, answer: Any = None, error: Exception | None = None) -> None:
    """Hand an answer or an error to the event loop that waits for it."""

    def settle() -> None:
        if waiting.future.done():  # it was too late
            return
        if error is None:
            waiting.future.set_result(answer)
        else:
            waiting.future.set_exception(error)

    waiting.loop.call_soon_threadsafe(settle)


class Engine:
    """Models by name, each with its worker; a model can be exchanged while it is asked.

    Args:
        runs: name -> loaded run, the first one being the default unless settings say otherwise.
        settings: of the service.

    Raises:
        ConfigError: when there is no run, or the default is none of them.
    """

    def __init__(self, runs: Mapping[str, LoadedRun], settings: ServeSettings) -> None:
        if not runs:
            raise ConfigError("there is nothing to serve; name at least one run")
        self.settings = settings
        self.default = settings.default or next(iter(runs))
        self._workers = {name: _Worker(loaded, settings) for name, loaded in runs.items()}
        self._exchanging = threading.Lock()
        for name in (self.default, *settings.traffic):
            self.loaded(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Models by name."""
        return tuple(self._workers)

    def loaded(self, name: str) -> LoadedRun:
        """The run that answers under a name now.

        Raises:
            ConfigError: naming the nearest known one.
        """
        return self._worker(name).loaded

    def waiting(self, name: str) -> int:
        """Requests in the queue of a model."""
        return self._worker(name).waiting

    async def recommend(self, name: str, asked: Asked, k: int, filters: Filters) -> Answered:
        """The k best items of a request.

        Raises:
            BusyError: when too many wait.
            LateError: when the answer takes longer than `request_seconds`.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), loop, asked, k, filters)
        answered: Answered = await self._wait(name, waiting)
        return answered

    async def call(self, name: str, work: Callable[[LoadedRun], T]) -> T:
        """Other work with a model, in its worker's turn; errors as in `recommend`."""
        loop = asyncio.get_running_loop()
        done: T = await self._wait(name, _Waiting(loop.create_future(), loop, work=work))
        return done

    async def exchange(self, name: str, folder: Path | str) -> LoadedRun:
        """Serve another run under a name: loaded beside the old one, asked, checked, exchanged.

        Requests that wait are answered by the old run; later ones by the new. A run that cannot be
        loaded, answers nonsense or fails the golden request is refused, and the old one stays.

        Raises:
            RunError: why the run is refused.
        """
        fresh = await asyncio.to_thread(self._load, name, folder)
        with self._exchanging:
            old = self._workers.get(name)
            self._workers[name] = _Worker(fresh, self.settings)
        if old is not None:
            old.close()
        return fresh

    def close(self) -> None:
        """Answer what waits and end the workers."""
        for worker in self._workers.values():
            worker.close()

    def _load(self, name: str, folder: Path | str) -> LoadedRun:
        fresh = LoadedRun.open(
            name, folder, device=self.settings.device, ann_above=self.settings.ann_above
        )
        if self.settings.golden is not None:
            fresh.check(self.settings.golden)
        return fresh

    def _worker(self, name: str) -> _Worker:
        try:
            return self._workers[name]
        except KeyError:
            known = ", ".join(self._workers)
            raise ConfigError(
                f"no model {name!r} is served{nearest(name, self._workers)}; models: {known}"
            ) from None

    async def _wait(self, name: str, waiting: _Waiting) -> Any:
        while not self._worker(name).put(waiting):
            pass  # exchanged in this moment: the next look finds the new one
        try:
            return await asyncio.wait_for(waiting.future, self.settings.request_seconds)
        except TimeoutError:
            raise LateError(
                f"model {name!r} did not answer within {self.settings.request_seconds:g} s; "
                "ask again"
            ) from None
