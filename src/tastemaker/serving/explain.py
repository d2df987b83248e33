"""Why an item scores as it does, measured and not guessed.

For a method that answers from a history, a reason is an item of the history and its weight is what
the score loses without it: the model is asked again, once for every item left out, in one batch.
For methods that add up similarities (EASE, ItemKNN) these weights are exactly the terms of the sum.
Some methods can say more (`tastemaker.models.reasons`):

- one that passes messages over a knowledge graph names what joins these items with the one
  explained, by the attention of the edges;
- one that knows items by codes of their content names the codes they share with it;
- one that writes a title says what it wrote, which titles are near to it, and which of the history
  are most like the one explained; nothing is left out, as it would have to write again each time;
- one that scores fields says what the score owes to each.

A method that answers everybody alike, or has no history to answer from, says so. One that looks at
content in training alone (FREEDOM, BM3, SRA-CL) keeps none of it, and is explained by its history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tastemaker.data import KnowledgeGraph
from tastemaker.models.reasons import ContentCodes, EdgeAttention, FieldEffects, TitleWriter
from tastemaker.serving.loaded import Asked, LoadedRun

__all__ = ["Explanation", "Reason", "explain", "influences"]

_LOOKED_AT = 100  # most recent distinct items that are left out in turn
_NAMED = 5  # reasons given
_NEAR = 2  # titles of the catalog, and of the history, that are named
_SHARED = 3  # entities named for an item
_FOLLOWED = 8  # entities whose edges are looked at to find them
_ROUNDING = 16 * float(np.finfo(np.float32).eps)  # share of a score that is no difference


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: `"item"` of the history, `"path"` to one in the knowledge graph, `"title"` of another
            item, `"field"`, or `"text"`.
        weight: what the score owes to it, negative when it speaks against the item. In an
            explanation by titles: of an item its likeness (cosine), else a score.
        item: code of the item spoken of, -1 for none.
        text: what joins the two, or the reason itself.
    """

    kind: str
    weight: float
    item: int = -1
    text: str | None = None

    def plain(self, loaded: LoadedRun) -> dict[str, Any]:
        """The same in raw ids."""
        raw = None if self.item < 0 else str(loaded.dataset.item_ids.raw(self.item))
        return {
            "kind": self.kind,
            "item": raw,
            "title": None if self.item < 0 else _title(loaded, self.item),
            "text": self.text,
            "weight": self.weight,
        }


@dataclass(frozen=True)
class Explanation:
    """Reasons for an item, the weightiest first.

    Attributes:
        score: of the item.
        kind: `"leave-one-out"`; with more said of the same items, `"paths"` or `"content"`;
            `"titles"`, `"fields"` or `"everybody"`.
        reasons: at most five.
    """

    score: float
    kind: str
    reasons: tuple[Reason, ...]


@torch.inference_mode()
def explain(loaded: LoadedRun, asked: Asked, item: int) -> Explanation:
    """Why `item` (a code) scores as it does for a request."""
    if isinstance(loaded.model, TitleWriter) and len(asked.items):
        return _by_titles(loaded, loaded.model, asked, item)
    score, items, weights = influences(loaded, asked, item)
    order = np.argsort(-np.abs(weights), kind="stable")[:_NAMED]
    order = order[np.abs(weights[order]) > 0]
    reasons = [Reason("item", float(weights[place]), int(items[place])) for place in order]
    if not reasons and isinstance(loaded.model, FieldEffects):
        reasons = _by_fields(loaded, loaded.model, asked, item)
        score = float(loaded.score(asked, np.array([item]))[0])
        if reasons:
            return Explanation(score, "fields", tuple(reasons))
    if not reasons:
        return Explanation(score, "everybody", (_for_everybody(loaded, asked, item),))
    kind = "leave-one-out"
    if isinstance(loaded.model, EdgeAttention) and loaded.graph is not None:
        kind, reasons = "paths", [_joined(loaded, reason, item) for reason in reasons]
    if isinstance(loaded.model, ContentCodes):
        kind, reasons = "content", _alike(loaded, loaded.model, reasons, items, weights, item)
    return Explanation(score, kind, tuple(reasons))


def influences(
    loaded: LoadedRun, asked: Asked, item: int
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """What the score of an item owes to each item of the history.

    A user known to the model is answered from the history for this: what was learned about a user
    cannot be unlearned item by item. Of a method of fields, the user's fields stay.

    Args:
        loaded: the run.
        asked: the request.
        item: code of the item explained.

    Returns:
        The score; the distinct items of the history [D] int64, the most recent ones; and the
        score minus that without each of them [D] float64 (the whole score for an only one that
        matters), 0 where it is no more than rounding.
    """
    keeps_user = isinstance(loaded.model, FieldEffects) or not len(asked.items)
    whole = asked if keeps_user else replace(asked, user=-1)
    latest = asked.items[::-1]
    items = latest[np.sort(np.unique(latest, return_index=True)[1])][:_LOOKED_AT]
    variants = [whole, *(_without(whole, int(left_out)) for left_out in items)]
    candidates = torch.full((len(variants), 1), item, device=loaded.model.device)
    scores = loaded.model.score(loaded.queries(variants), candidates)[:, 0]
    found = scores.double().cpu().numpy()
    weights = found[0] - found[1:]
    weights[np.abs(weights) <= _ROUNDING * np.abs(found).max()] = 0.0
    if len(items) == 1 and weights[0]:  # nothing is left, and no history has another scale
        weights[0] = found[0]
    return float(found[0]), items, weights


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


def _by_titles(loaded: LoadedRun, model: TitleWriter, asked: Asked, item: int) -> Explanation:
    """What was written, the titles nearest to it, and those of the history nearest to the item."""
    (text,) = model.write(loaded.queries([asked]))
    distances = model.ground([text])  # [1, N]
    scores = model.fuse(distances)[0].cpu().tolist()
    nearest = distances[0].argsort(stable=True).tolist()
    said = f'the model wrote "{text}"; this title is number {nearest.index(item) + 1:,} from there'
    titles = [
        Reason("title", scores[code], code, f"near what it wrote: {_title(loaded, code)}")
        for code in [code for code in nearest[: _NEAR + 1] if code != item][:_NEAR]
    ]
    vectors, chosen = model.item_vectors(), torch.from_numpy(np.unique(asked.items))
    likeness = F.cosine_similarity(vectors[chosen].float(), vectors[item].float(), dim=1)
    best, places = likeness.topk(min(_NEAR, len(chosen)))
    alike = zip(best.tolist(), chosen[places.cpu()].tolist(), strict=True)
    history = [
        Reason("item", weight, code, f"like it, in the history: {_title(loaded, code)}")
        for weight, code in alike
    ]
    first = Reason("text", scores[item], text=said)
    return Explanation(scores[item], "titles", (first, *titles, *history))


def _by_fields(loaded: LoadedRun, model: FieldEffects, asked: Asked, item: int) -> list[Reason]:
    items = torch.full((1,), item, device=loaded.model.device)
    found = model.field_effects(loaded.queries([asked]), items)
    effects = {name: float(effect[0]) for name, effect in found.items()}
    names = sorted(effects, key=lambda name: -abs(effects[name]))[:_NAMED]
    return [
        Reason("field", effects[name], text=f"the field {name}") for name in names if effects[name]
    ]


def _alike(
    loaded: LoadedRun,
    model: ContentCodes,
    reasons: list[Reason],
    items: NDArray[np.int64],
    weights: NDArray[np.float64],
    item: int,
) -> list[Reason]:
    """The reasons, with what content they share with the item; the most alike item among them."""
    codes = model.content_codes().cpu().numpy()
    shared = (codes[items] == codes[item]).cumprod(1).sum(1)  # [D] leading codes in common
    most = int(shared.argmax())
    if shared[most] and int(items[most]) not in [reason.item for reason in reasons]:
        reasons = [*reasons[: _NAMED - 1], Reason("item", float(weights[most]), int(items[most]))]
    of_item = dict(zip(items.tolist(), shared.tolist(), strict=True))
    end, levels = _title(loaded, item), codes.shape[1]
    return [
        replace(
            reason,
            text=f"{_title(loaded, reason.item)} has {count} of {levels} codes of content in "
            f"common with {end}",
        )
        if (count := of_item[reason.item])
        else reason
        for reason in reasons
    ]


def _joined(loaded: LoadedRun, reason: Reason, item: int) -> Reason:
    """The reason with the paths from its item to another, if there are any."""
    found = _paths(loaded, reason.item, item)
    if not found:
        return reason
    words = ", ".join(f"{text} (attention {weight:.2g})" for weight, text in found)
    start, end = (_title(loaded, code) for code in (reason.item, item))
    return replace(reason, kind="path", text=f"{start} and {end} share {words}")


def _paths(loaded: LoadedRun, start: int, end: int) -> list[tuple[float, str]]:
    """What joins two items in the knowledge graph: product of the edges' attention, and words.

    Messages pass from the tail of an edge to its head, so edges are followed from the item of the
    history to an entity and from there to the other item; or to that itself.
    """
    model, graph = loaded.model, loaded.graph
    assert isinstance(model, EdgeAttention)
    assert graph is not None
    knowledge = model.knowledge_used()
    assert knowledge is not None
    goal, half = graph.n_users + end, graph.n_relations // 2

    def followed(node: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Relations, tails and attention of the edges of a node that are no interactions."""
        bounds = np.searchsorted(graph.heads, [node, node + 1])
        edges = np.arange(*bounds)
        weights = model.attention_of(graph, edges).cpu().numpy()
        kept = graph.relations[edges] % half > 0
        return graph.relations[edges][kept], graph.tails[edges][kept], weights[kept]

    relations, tails, weights = followed(graph.n_users + start)
    ends = np.isin(tails, followed(goal)[1]) | (tails == goal)
    found = []
    for place in np.flatnonzero(ends)[np.argsort(-weights[ends], kind="stable")][:_FOLLOWED]:
        word = _word(knowledge, int(relations[place]) % half - 1)
        node, weight = int(tails[place]), float(weights[place])
        if node == goal:
            found.append((weight, f"the link {word}"))
            continue
        _, onward, further = followed(node)
        weight *= float(further[onward == goal].sum())
        found.append((weight, f"{word} {_node(loaded, knowledge, node - graph.n_users)}"))
    return sorted(found, key=lambda one: -one[0])[:_SHARED]


def _node(loaded: LoadedRun, knowledge: KnowledgeGraph, node: int) -> str:
    """An item's title or an entity's name; items are the first nodes."""
    n_items = len(knowledge.item_entities)
    if node < n_items:
        return _title(loaded, node)
    return str(knowledge.entities.raw(int(knowledge.others[node - n_items])))


def _word(knowledge: KnowledgeGraph, relation: int) -> str:
    """The last part of a relation's name: "actor" of "film.film.actor"."""
    return str(knowledge.relations.raw(relation)).rsplit(".", 1)[-1].replace("_", " ")


def _title(loaded: LoadedRun, item: int) -> str:
    title: str = loaded.dataset.titles(np.array([item], np.int64))[0]
    return title
