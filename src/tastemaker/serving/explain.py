"""Why an item scores as it does, measured and not guessed.

For a method that answers from a history, a reason is an item of the history and its weight is what
the score loses without it: the model is asked again, once for every item left out, in one batch.
For methods that add up similarities (EASE, ItemKNN) these weights are exactly the terms of the sum.
A method whose data have a knowledge graph names, for the items that matter, what joins them with
the one explained. A method that answers everybody alike says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data import Dataset, KnowledgeGraph
from tastemaker.models.base import Need
from tastemaker.serving.loaded import Asked, LoadedRun

__all__ = ["Explanation", "Reason", "explain", "influences"]

_LOOKED_AT = 100  # most recent distinct items that are left out in turn
_NAMED = 5  # reasons given
_SHARED = 3  # entities named for an item


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: `"item"` of the history, `"path"` in the knowledge graph, or `"text"`.
        weight: what the score owes to it; negative when it speaks against the item.
        item: code of the history's item, -1 for none.
        text: what joins the two, or the reason itself.
    """

    kind: str
    weight: float
    item: int = -1
    text: str | None = None

    def plain(self, loaded: LoadedRun) -> dict[str, Any]:
        """The same in raw ids."""
        raw = None if self.item < 0 else str(loaded.dataset.item_ids.raw(self.item))
        codes = np.array([self.item], np.int64)
        title = None if self.item < 0 else loaded.dataset.titles(codes)[0]
        return {
            "kind": self.kind,
            "item": raw,
            "title": title,
            "text": self.text,
            "weight": self.weight,
        }


@dataclass(frozen=True)
class Explanation:
    """Reasons for an item, the weightiest first.

    Attributes:
        score: of the item.
        kind: `"leave-one-out"`, `"paths"` or `"everybody"`.
        reasons: at most five.
    """

    score: float
    kind: str
    reasons: tuple[Reason, ...]


@torch.inference_mode()
def explain(loaded: LoadedRun, asked: Asked, item: int) -> Explanation:
    """Why `item` (a code) scores as it does for a request."""
    score, items, weights = influences(loaded, asked, item)
    order = np.argsort(-np.abs(weights), kind="stable")[:_NAMED]
    order = order[np.abs(weights[order]) > 0]
    if not len(order):
        return Explanation(score, "everybody", (_for_everybody(loaded, asked, item),))
    reasons = [Reason("item", float(weights[place]), int(items[place])) for place in order]
    knowledge = loaded.dataset.knowledge
    if Need.KNOWLEDGE not in type(loaded.model).needs or knowledge is None:
        return Explanation(score, "leave-one-out", tuple(reasons))
    joined = [
        replace(reason, kind="path", text=text)
        if (text := path(loaded.dataset, knowledge, reason.item, item))
        else reason
        for reason in reasons
    ]
    return Explanation(score, "paths", tuple(joined))


def influences(
    loaded: LoadedRun, asked: Asked, item: int
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """What the score of an item owes to each item of the history.

    A user known to the model is answered from the history for this: what was learned about a user
    cannot be unlearned item by item.

    Args:
        loaded: the run.
        asked: the request.
        item: code of the item explained.

    Returns:
        The score; the distinct items of the history [D] int64, the most recent ones; and the
        score minus that without each of them [D] float64 (the whole score for an only one).
    """
    whole = replace(asked, user=-1) if len(asked.items) else asked
    latest = asked.items[::-1]
    items = latest[np.sort(np.unique(latest, return_index=True)[1])][:_LOOKED_AT]
    variants = [whole, *(_without(whole, int(left_out)) for left_out in items)]
    candidates = torch.full((len(variants), 1), item, device=loaded.model.device)
    scores = loaded.model.score(loaded.queries(variants), candidates)[:, 0]
    found = scores.double().cpu().numpy()
    if len(items) == 1:  # nothing would be left, and no history has another scale
        found[1] = 0.0
    return float(found[0]), items, found[0] - found[1:]


def _without(asked: Asked, item: int) -> Asked:
    kept = asked.items != item
    columns = {name: values[kept] for name, values in asked.columns.items()}
    # The moment of the question stays, although its last event may be the one left out.
    context = dict(asked.context)
    times = asked.columns.get("timestamp")
    if times is not None and len(times):
        context.setdefault("timestamp", float(times[-1]))
    return replace(asked, items=asked.items[kept], columns=columns, context=context)


def _for_everybody(loaded: LoadedRun, asked: Asked, item: int) -> Reason:
    counts = loaded.item_counts
    rank = int((counts > counts[item]).sum()) + 1
    about = "no history to answer from" if not len(asked.items) else "the history changes nothing"
    text = f"{about}; chosen {int(counts[item]):,} times, number {rank:,} of {len(counts):,} items"
    return Reason("text", 0.0, text=text)


def path(dataset: Dataset, knowledge: KnowledgeGraph, start: int, end: int) -> str | None:
    """What two items share in the knowledge graph, in words; `None` when nothing joins them."""
    around = [_around(knowledge, int(knowledge.item_entities[item])) for item in (start, end)]
    shared = [entity for entity in around[0] if entity in around[1]][:_SHARED]
    if not shared:
        return None
    titles: Sequence[str] = dataset.titles(np.array([start, end], np.int64))
    links = [
        f"{_word(knowledge, around[0][entity])} {knowledge.entities.raw(entity)}"
        for entity in shared
    ]
    return f"{titles[0]} and {titles[1]} share {', '.join(links)}"


def _around(knowledge: KnowledgeGraph, entity: int) -> dict[int, int]:
    """Neighbours of an entity -> the relation that leads to them."""
    if entity < 0:
        return {}
    out = np.flatnonzero(knowledge.heads == entity)
    back = np.flatnonzero(knowledge.tails == entity)
    pairs = [
        *zip(knowledge.tails[out].tolist(), knowledge.relations_[out].tolist(), strict=True),
        *zip(knowledge.heads[back].tolist(), knowledge.relations_[back].tolist(), strict=True),
    ]
    return dict(pairs)


def _word(knowledge: KnowledgeGraph, relation: int) -> str:
    """The last part of a relation's name: "actor" of "film.film.actor"."""
    return str(knowledge.relations.raw(relation)).rsplit(".", 1)[-1].replace("_", " ")
