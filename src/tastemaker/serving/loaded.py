"""A run that answers requests: raw ids in, raw ids out, one call of the model for many requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tastemaker.console import say
from tastemaker.data import Histories, Queries, Ragged
from tastemaker.data.knowledge import CollaborativeGraph
from tastemaker.data.schema import Kind
from tastemaker.errors import MissingExtraError, RunError, TastemakerError
from tastemaker.experiment.run import Run, open_run
from tastemaker.models.base import Recommender
from tastemaker.models.reasons import EdgeAttention, FieldEffects
from tastemaker.serving.filters import Filters, ItemAttributes
from tastemaker.serving.search import VectorSearch, can_search
from tastemaker.serving.store import Event

__all__ = ["Answered", "Asked", "LoadedRun"]

_CONTEXT = {"timestamp": np.int64, "label": np.float32}  # event columns a history may carry
_UNTOLD = {"timestamp": 0.0, "label": 1.0}  # an event without a label was no dislike
_SAMPLE = 256  # histories that approximate search is measured on
_LONGER = 4  # a list with caps is first asked this many times as long


@dataclass(frozen=True)
class Asked:
    """A request in the run's own codes.

    Attributes:
        user: user code when what the model learned about the user may be used, or it looks at
            fields of users; else -1.
        items: [H] int64 codes of the history, oldest first.
        columns: name -> [H] values of the history's events, such as `"timestamp"`.
        context: what is known of the moment, such as `"timestamp"`.
        basis: what an answer rests on, in words.
        ignored: raw item ids that the run does not know.
    """

    user: int
    items: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    context: Mapping[str, float] = field(default_factory=dict)
    basis: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A ranked list: item codes [n] int64 and scores [n] float32, best first."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]


class LoadedRun:
    """A run ready to answer.

    Attributes:
        name: what requests call it.
        run: the run.
        attributes: what items can be filtered by.
        search: what makes lists: the model, or approximate search over its vectors.
    """

    def __init__(self, name: str, run: Run, *, ann_above: int = 0) -> None:
        self.name, self.run = name, run
        self.model, self.dataset = run.model, run.dataset
        self.attributes = ItemAttributes(self.dataset)
        self._events = Ragged(self.dataset.column("item"), self.dataset.user_offsets)
        self._trained = np.diff(run.split.train.offsets)
        present = set(self.dataset.interactions.column_names)
        self._columns = [column for column in _CONTEXT if column in present]
        self.search: Recommender | VectorSearch = self.model
        if ann_above and self.dataset.n_items > ann_above and can_search(self.model):
            self.search = self._index()

    def _index(self) -> Recommender | VectorSearch:
        """Approximate search, measured on histories of users; the model itself without faiss."""
        users = np.random.default_rng(0).permutation(self.dataset.n_users)[:_SAMPLE]
        asked = [Asked(-1, *self._stored(int(user))) for user in users]
        try:
            return VectorSearch(self.model, self.queries(asked))
        except MissingExtraError as error:
            say(f"{self.name}: lists of {self.dataset.n_items:,} items are exact: {error}")
            return self.model

    @cached_property
    def pictures(self) -> pa.Array | None:
        """The items' pictures as bytes [N], null where there is none; `None` without any."""
        kinds = self.dataset.schema.items
        names = [name for name, kind in kinds.items() if kind == Kind.IMAGE]
        if not names or self.dataset.items is None:
            return None
        column = self.dataset.items.column(names[0]).combine_chunks()
        is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        return column if is_bytes else None

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """Interactions of each item, [N]."""
        items = self.dataset.column("item")
        found: NDArray[np.int64] = np.bincount(items, minlength=self.dataset.n_items)
        return found

    @cached_property
    def graph(self) -> CollaborativeGraph | None:
        """The graph that the model weighs the edges of; `None` for one without knowledge."""
        model = self.model
        if not isinstance(model, EdgeAttention) or model.knowledge_used() is None:
            return None
        return model.joint_graph(self.run.split.train)

    @classmethod
    def open(
        cls, name: str, folder: Path | str, *, device: str = "auto", ann_above: int = 0
    ) -> Self:
        """Load a finished run and ask it once, so that the first request is not slower.

        Args:
            name: what requests call it.
            folder: of the run.
            device: where the model answers.
            ann_above: items above which lists come from approximate search; 0 = never.

        Raises:
            RunError: when there is none, or it is damaged.
        """
        try:
            loaded = cls(name, open_run(folder, device=device), ann_above=ann_above)
            loaded.warm()
        except TastemakerError:
            raise
        except Exception as error:  # whatever weights that do not fit make a model raise
            raise RunError(f"{folder}: the model does not answer: {error}") from error
        return loaded

    def warm(self) -> None:
        """Answer for nobody and for a short history; what is made at first use is then made."""
        some = np.arange(min(3, self.dataset.n_items), dtype=np.int64)
        asked = [Asked(-1, some[:0]), Asked(-1, some)]
        for found in self.answer(asked, 10, Filters()):
            if not np.isfinite(found.scores).all():
                raise RunError(f"{self.run.folder}: the model gives scores that are not finite")

    def ask(
        self,
        user: str | None,
        history: Sequence[str] | None,
        live: Sequence[Event] = (),
        context: Mapping[str, float] | None = None,
    ) -> Asked:
        """A request as a query of this run.

        A history that is given is the whole history; otherwise it is what the data hold of the
        user with the live events behind it.

        Args:
            user: raw id, or `None`.
            history: raw item ids, oldest first, or `None`.
            live: events since, oldest first.
            context: such as `"timestamp"`, epoch seconds.
        """
        context = dict(context or {})
        if history is not None:
            return self._from_history(history, context)
        code = -1 if user is None else int(self.dataset.user_ids.encode([user])[0])
        known = self._stored(code)
        codes = self.dataset.item_ids.encode([event.item for event in live])
        fits = codes >= 0
        taken = [event for event, is_known in zip(live, fits.tolist(), strict=True) if is_known]
        items = np.concatenate([known[0], codes[fits]])
        columns = {
            name: np.concatenate([known[1][name], _live_column(name, taken)])
            for name in self._columns
        }
        learned = code >= 0 and not taken and self._trained[code] == len(items) > 0
        ignored = tuple(event.item for event in live if event not in taken)
        basis = _basis(user, code, len(items), len(taken), learned=learned)
        # Fields of a user say more than the history, so they stay when there is more of that.
        is_kept = learned or isinstance(self.model, FieldEffects)
        return Asked(code if is_kept else -1, items, columns, context, basis, ignored)

    def _from_history(self, history: Sequence[str], context: Mapping[str, float]) -> Asked:
        codes = self.dataset.item_ids.encode(list(history))
        items = codes[codes >= 0]
        pairs = zip(history, codes.tolist(), strict=True)
        ignored = tuple(raw for raw, code in pairs if code < 0)
        basis = (
            f"the given history of {_events(len(items))}"
            if len(items)
            else ("no history: none of the given items is known" if history else "no history")
        )
        return Asked(-1, items, {}, context, basis, ignored)

    def _stored(self, code: int) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        """What the data hold of a user: items, and the columns of their events."""
        if code < 0:
            return np.empty(0, np.int64), {name: np.empty(0) for name in self._columns}
        rows = slice(int(self._events.offsets[code]), int(self._events.offsets[code + 1]))
        columns = {name: self.dataset.column(name)[rows] for name in self._columns}
        return self._events.values[rows].astype(np.int64), columns

    def queries(self, asked: Sequence[Asked]) -> Queries:
        """Requests as one batch; events that are told nothing of have `_UNTOLD` values."""
        lengths = np.array([len(one.items) for one in asked], np.int64)
        items = Ragged.from_lengths(np.concatenate([one.items for one in asked]), lengths)
        columns = {}
        for name in self._columns:
            kind = _CONTEXT[name]
            untold = [np.full(len(one.items), _UNTOLD[name], kind) for one in asked]
            pairs = zip(asked, untold, strict=True)
            values = [one.columns.get(name, missing) for one, missing in pairs]
            columns[name] = np.concatenate(values).astype(kind)
        context = {}
        if "timestamp" in columns:
            context["timestamp"] = np.array([_moment(one) for one in asked], np.int64)
        users = np.array([one.user for one in asked], np.int64)
        return Queries(users, Histories(items, columns), context)

    @torch.inference_mode()
    def answer(self, asked: Sequence[Asked], k: int, filters: Filters) -> list[Answered]:
        """The k best items of each request under shared filters, in one call of the model."""
        queries = self.queries(asked)
        allow = self.attributes.allowed(filters)
        exclude = None if filters.include_seen else queries.histories.items
        if allow is not None and not len(allow):
            return [Answered(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in asked]
        length = k if not filters.caps else min(_LONGER * k, self.dataset.n_items)
        while True:
            found = self.search.recommend(queries, length, exclude=exclude, allow=allow)
            answers = [
                self._cut(items, scores, k, filters)
                for items, scores in zip(
                    found.items.cpu().numpy(), found.scores.float().cpu().numpy(), strict=True
                )
            ]
            if not filters.caps or length >= self.dataset.n_items:
                return answers
            if all(len(answer.items) >= k for answer in answers):
                return answers
            length = min(_LONGER * length, self.dataset.n_items)

    def _cut(
        self, items: NDArray[np.int64], scores: NDArray[np.float32], k: int, filters: Filters
    ) -> Answered:
        real = items >= 0
        items, scores = items[real], scores[real]
        if filters.caps:
            kept = self.attributes.capped(items, filters.caps, k)
            return Answered(items[kept], scores[kept])
        return Answered(items[:k], scores[:k])

    @torch.inference_mode()
    def score(self, asked: Asked, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of given items for one request, [C] float32."""
        candidates = torch.from_numpy(items[None]).to(self.model.device)
        found: NDArray[np.float32] = (
            self.model.score(self.queries([asked]), candidates)[0].float().cpu().numpy()
        )
        return found

    def check(self, golden: Path | str) -> None:
        """Ask what a file says and compare: it holds `"history"` or `"user"`, and `"items"`.

        Every listed item must be among the first `"k"` (by default, as many as are listed).

        Raises:
            RunError: when the file is no such request, or the answer lacks an item.
        """
        try:
            wanted = json.loads(Path(golden).read_text(encoding="utf-8"))
            items = [str(item) for item in wanted["items"]]
            asked = self.ask(wanted.get("user"), wanted.get("history"))
            (found,) = self.answer([asked], int(wanted.get("k", len(items))), Filters())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{golden} is no golden request: {error}") from error
        got = {str(raw) for raw in self.dataset.item_ids.decode(found.items).to_pylist()}
        if missing := [item for item in items if item not in got]:
            raise RunError(
                f"{self.run.folder} fails the golden request {golden}: {missing[0]!r} is not in "
                "its answer; the run that is served stays"
            )


def _live_column(name: str, events: Sequence[Event]) -> NDArray[Any]:
    values = [event.timestamp if name == "timestamp" else event.label for event in events]
    return np.array([_UNTOLD[name] if value is None else value for value in values], np.float64)


def _moment(asked: Asked) -> float:
    """When it is asked: as told, else the time of the last event."""
    if "timestamp" in asked.context:
        return asked.context["timestamp"]
    times = asked.columns.get("timestamp")
    return float(times[-1]) if times is not None and len(times) else 0.0


def _basis(user: str | None, code: int, n_events: int, n_live: int, *, learned: bool) -> str:
    if learned:
        return f"what was learned about the user from {_events(n_events)}"
    if n_events:
        since = f", {n_live} of them since training" if n_live else ""
        return f"the user's history of {_events(n_events)}{since}"
    if user is None:
        return "no history"
    return "no history: the user is unknown" if code < 0 else "no history: the user has no events"


def _events(count: int) -> str:
    return f"{count:,} event" + ("" if count == 1 else "s")
