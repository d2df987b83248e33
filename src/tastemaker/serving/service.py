"""What the service does, apart from HTTP: requests in, answers as plain values out."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import ConfigError, RunError
from tastemaker.serving.engine import Engine
from tastemaker.serving.journal import Journal
from tastemaker.serving.loaded import Answered, Asked, LoadedRun
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.metering import Meters
from tastemaker.serving.settings import ServeSettings
from tastemaker.serving.store import Appended, Event, Served
from tastemaker.serving.wire import (
    EventsRequest,
    ExplainRequest,
    RecommendRequest,
    ScoreRequest,
    SimilarRequest,
    Subject,
)

__all__ = ["Service", "UnknownItemError"]

_WRITERS = 4


class UnknownItemError(ConfigError):
    """An item id that the run does not know."""


class LimitError(ConfigError):
    """More was asked for than the server gives."""


class Service:
    """Models, live histories and the journal of one server.

    Attributes:
        engine, live, settings, meters: its parts.
    """

    def __init__(self, engine: Engine, live: LiveHistories, settings: ServeSettings) -> None:
        self.engine, self.live, self.settings = engine, live, settings
        self._journal = Journal(live.store) if settings.log_served else None
        self.meters = Meters(engine, live, self._journal)
        # Threads of their own: histories do not wait behind events for a store that is down.
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="events")

    def close(self) -> None:
        """Answer what waits, write what is held, let go of the store."""
        self.engine.close()
        self._writers.shutdown()
        if self._journal is not None:
            self._journal.close()
        self.live.store.close()

    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """A ranked list."""
        self._check("k", request.k, self.settings.max_k)
        filters = request.filters.filters()
        self._check("filters.allow", len(filters.allow or ()), self.settings.max_candidates)
        self._check("filters.exclude", len(filters.exclude), self.settings.max_candidates)
        name = self.choose(request.model, request.user)
        loaded = self.engine.loaded(name)
        loaded.attributes.check(filters)
        asked = await self._asked(request, loaded)
        found = await self.engine.recommend(name, asked, request.k, filters)
        answer = self._answer(loaded, asked, found)
        self._keep(answer, request.user)
        return answer

    async def similar(self, request: SimilarRequest) -> dict[str, Any]:
        """The items most like one."""
        self._check("k", request.k, self.settings.max_k)
        name = self.choose(request.model, None)
        loaded = self.engine.loaded(name)
        code = item_code(loaded, request.item)
        found = await self.engine.call(
            name, lambda run: run.model.similar(np.array([code], np.int64), request.k)
        )
        items, scores = found.items[0].cpu().numpy(), found.scores[0].float().cpu().numpy()
        asked = Asked(-1, np.array([code], np.int64), basis=f"likeness to {request.item}")
        return self._answer(loaded, asked, Answered(items, scores))

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """Scores of given items, in their order."""
        self._check("items", len(request.items), self.settings.max_candidates)
        name = self.choose(request.model, request.user)
        loaded = self.engine.loaded(name)
        asked = await self._asked(request, loaded)
        codes = loaded.dataset.item_ids.encode(request.items)
        known = codes[codes >= 0]
        scores = await self.engine.call(name, lambda run: run.score(asked, known))
        answer = self._answer(loaded, asked, Answered(known, scores))
        unknown = [raw for raw, code in zip(request.items, codes.tolist(), strict=True) if code < 0]
        answer["ignored"] = list(dict.fromkeys([*answer["ignored"], *unknown]))
        return {name: value for name, value in answer.items() if name != "request_id"}

    async def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """Why an item scores as it does."""
        from tastemaker.serving.explain import explain

        name = self.choose(request.model, request.user)
        loaded = self.engine.loaded(name)
        asked = await self._asked(request, loaded)
        code = item_code(loaded, request.item)
        found = await self.engine.call(name, lambda run: explain(run, asked, code))
        return {
            "model": name,
            "run": str(loaded.run.folder.name),
            "item": request.item,
            "score": found.score,
            "kind": found.kind,
            "reasons": [reason.plain(loaded) for reason in found.reasons],
            "basis": asked.basis,
        }

    async def add(self, request: EventsRequest) -> Appended:
        """Keep events; when this returns they are safe, and part of the next answers."""
        self._check("events", len(request.events), self.settings.max_batch)
        events = [Event(**event.model_dump()) for event in request.events]
        loop = asyncio.get_running_loop()
        appended = await loop.run_in_executor(self._writers, self.live.add, events)
        self.meters.events.labels("accepted").inc(appended.accepted)
        self.meters.events.labels("duplicate").inc(appended.duplicates)
        return appended

    def item(self, raw: str, model: str | None = None) -> dict[str, Any]:
        """What the data say of an item."""
        loaded = self.engine.loaded(self.choose(model, None))
        return described(loaded, np.array([item_code(loaded, raw)], np.int64))[0]

    async def reload(self, name: str, run: str | None) -> LoadedRun:
        """Serve a folder beside the one that is served, or that one again."""
        current = Path(self.engine.loaded(name).run.folder)
        try:
            fresh = await self.engine.exchange(
                name, current if run is None else current.parent / run
            )
        except RunError:
            self.meters.exchanges.labels("refused").inc()
            raise
        self.meters.exchanges.labels("done").inc()
        return fresh

    def choose(self, model: str | None, user: str | None) -> str:
        """The model that answers: the one named, else by the user's share of traffic."""
        if model is not None:
            self.engine.loaded(model)
            return model
        shares = self.settings.traffic
        if not shares or user is None:
            return self.engine.default
        drawn = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") / 2**64
        total = 0.0
        for name, share in shares.items():
            total += share
            if drawn < total:
                return name
        return name

    def models(self) -> list[dict[str, Any]]:
        """What is served."""
        return [self._described(name) for name in self.engine.names]

    def _described(self, name: str) -> dict[str, Any]:
        loaded = self.engine.loaded(name)
        record = loaded.run.record
        return {
            "name": name,
            "method": record.model,
            "run": loaded.run.folder.name,
            "data": record.data,
            "trained": record.started,
            "items": loaded.dataset.n_items,
            "users": loaded.dataset.n_users,
            "is_default": name == self.engine.default,
            "share": self.settings.traffic.get(name),
            "attributes": list(loaded.attributes.names),
            "metrics": record.metrics,
        }

    async def _asked(self, subject: Subject, loaded: LoadedRun) -> Asked:
        self._check("history", len(subject.history or ()), self.settings.max_history)
        live: Sequence[Event] = ()
        if subject.user is not None and subject.history is None:
            at_hand = self.live.at_hand(subject.user)
            live = (
                await asyncio.to_thread(self.live.of, subject.user) if at_hand is None else at_hand
            )
        context = subject.context.model_dump(exclude_none=True)
        return loaded.ask(subject.user, subject.history, live, context)

    def _answer(self, loaded: LoadedRun, asked: Asked, found: Answered) -> dict[str, Any]:
        items = described(loaded, found.items)
        for item, score in zip(items, found.scores.tolist(), strict=True):
            item["score"] = score
        return {
            "request_id": uuid.uuid4().hex,
            "model": loaded.name,
            "run": loaded.run.folder.name,
            "items": items,
            "basis": asked.basis,
            "ignored": list(asked.ignored),
        }

    def _keep(self, answer: Mapping[str, Any], user: str | None) -> None:
        self.meters.answers.labels(answer["model"], answer["run"]).inc()
        if self._journal is not None:
            items = [item["item"] for item in answer["items"]]
            names = ("model", "run")
            model, run = (answer[name] for name in names)
            served = Served(
                answer["request_id"], time.time(), user, model, run, items, answer["basis"]
            )
            self._journal.add(served)

    def _check(self, name: str, value: int, limit: int) -> None:
        if value > limit:
            raise LimitError(f"{name}: {value:,} is more than this server gives, {limit:,}")


def item_code(loaded: LoadedRun, raw: str) -> int:
    """The code of an item.

    Raises:
        UnknownItemError: when the run does not know it.
    """
    code = int(loaded.dataset.item_ids.encode([raw])[0])
    if code < 0:
        raise UnknownItemError(f"model {loaded.name!r} knows no item {raw!r}")
    return code


def described(loaded: LoadedRun, codes: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Ids and titles of items, and where their pictures are, if they have any."""
    dataset = loaded.dataset
    ids = dataset.item_ids.decode(codes).to_pylist()
    titles = dataset.titles(codes)
    items = [{"item": str(raw), "title": title} for raw, title in zip(ids, titles, strict=True)]
    if loaded.pictures is not None:
        for item, code in zip(items, codes.tolist(), strict=True):
            if loaded.pictures[code].is_valid:
                item["picture"] = f"items/{quote(item['item'], safe='')}/picture"
    return items
