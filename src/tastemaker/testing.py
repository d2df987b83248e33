"""The contract as checks that anyone can run over their own method.

In a test suite::

    import pytest
    from tastemaker.testing import CHECKS

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check, tmp_path):
        check(MyMethod, tmp_path)

Each check builds and fits the method on a tiny data set and raises `AssertionError` saying which
promise was broken. `SMALL` holds the settings that make fits short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.data import Dataset, KnowledgeGraph, Queries, Ragged, Split, split
from tastemaker.errors import ConfigError, MissingNeedError
from tastemaker.evaluation import evaluate_pointwise
from tastemaker.models.base import GradientConfig, Recommender
from tastemaker.training import GradientStage, fit

__all__ = ["CHECKS", "SMALL", "check_method", "tiny_dataset"]

#: Settings that keep a fit on the tiny data set below a second; those a Config lacks are left out.
SMALL: Mapping[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "hidden_size": 16,
    "precision": "float32",
    "learning_rate": 5e-3,
    "features": "text:hashing",
    "language_model": "tiny-random",
    "wrapper": "plain",
    "max_prompt_tokens": 112,
    "training_samples": 128,
    "base_settings": {"hidden_size": 16},
}

_PRETRAINED = ("features", "language_model")  # settings that name what has to be installed
_SEED = 7
Kind = type[Recommender]
Check = Callable[[Kind, Path], None]


@functools.cache
def tiny_dataset() -> Dataset:
    """80 users walk around one of four rings of ten items; half of the users share the first ring.

    What comes next is known (the next item of the ring), what is popular is known (the first
    ring), so anything that learns beats a random order. There are timestamps, labels, titles,
    categories and a knowledge graph in which each item belongs to its ring.
    """
    generator = np.random.default_rng(0)
    n_users, n_rings, ring_size = 80, 4, 10
    ring = np.where(np.arange(n_users) < n_users // 2, 0, np.arange(n_users) % n_rings)
    lengths = generator.integers(5, 10, n_users)
    user = np.repeat(np.arange(n_users), lengths)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = generator.integers(0, ring_size, n_users)
    item = ring[user] * ring_size + (start[user] + step) % ring_size
    items = np.arange(n_rings * ring_size)
    dataset = Dataset.from_frame(
        pl.DataFrame(
            {
                "user": [f"u{code}" for code in user],
                "item": [f"i{code}" for code in item],
                "time": 1_600_000_000 + user * 100 + step * 86_400,
                "liked": 1.0 - item % 2,
            }
        ),
        user="user",
        item="item",
        timestamp="time",
        label="liked",
        items=pl.DataFrame(
            {
                "item": [f"i{code}" for code in items],
                "title": [f"Ring {code // ring_size}, stop {code % ring_size}" for code in items],
                "ring": [f"ring {code // ring_size}" for code in items],
            }
        ),
        item_id="item",
        name="tiny",
    )
    return _with_knowledge(dataset, n_rings, ring_size)


def _with_knowledge(dataset: Dataset, n_rings: int, ring_size: int) -> Dataset:
    """The data set with triples (item, in, its ring)."""
    names = [str(dataset.item_ids.raw(code)) for code in range(n_rings * ring_size)]
    rings = [f"ring {int(name[1:]) // ring_size}" for name in names]
    heads = pa.array(names)
    relations = pa.array(["in"] * len(names))
    knowledge = KnowledgeGraph.build(heads, relations, pa.array(rings), heads)
    return dataclasses.replace(dataset, knowledge=knowledge)


@functools.cache
def _split() -> Split:
    return split(tiny_dataset(), "leave-one-out")


def _small(kind: Kind, **settings: Any) -> dict[str, Any]:
    known = {name for name in SMALL if name in getattr(kind.Config, "__dataclass_fields__", {})}
    return {**{name: SMALL[name] for name in known}, **settings}


def _fitted(kind: Kind, seed: int = _SEED, **settings: Any) -> Recommender:
    model = kind.create(_small(kind, **settings), tiny_dataset(), seed=seed)
    fit(model, _split().train, seed=seed, device="cpu")
    return model


@functools.cache
def _shared(kind: Kind) -> Recommender:
    """One fitted model for the checks that only ask it questions."""
    return _fitted(kind)


def _queries() -> Queries:
    part = _split().test
    assert part is not None
    return part.queries


def check_builds_and_refuses_unknown_settings(kind: Kind, folder: Path) -> None:
    """Defaults are valid; a misspelt setting is an error that lists the known ones.

    Pretrained models need not be installed: what stands in for them in `SMALL` is given.
    """
    del folder
    stand_ins = {name: value for name, value in _small(kind).items() if name in _PRETRAINED}
    kind.create(stand_ins, tiny_dataset())
    message = _refusal(lambda: kind.create({"no_such_setting": 1}, tiny_dataset()), ConfigError)
    assert message is not None, "an unknown setting was accepted"
    assert "no_such_setting" in message, f"the error does not name the setting: {message}"


def check_loss_falls(kind: Kind, folder: Path) -> None:
    """Every gradient stage ends with a lower loss than it began with."""
    del folder
    model = kind.create(_small(kind), tiny_dataset(), seed=_SEED)
    result = fit(model, _split().train, seed=_SEED, device="cpu")
    names = [stage.name for stage in model.stages(_split().train)]
    assert len(set(names)) == len(names), f"stage names repeat: {names}"
    for stage in (s for s in model.stages(_split().train) if isinstance(s, GradientStage)):
        records = [record for record in result.records if record["stage"] == stage.name]
        for loss in (name for name in records[0] if name.endswith("loss")):
            first, last = records[0][loss], records[-1][loss]
            assert last < first, f"{stage.name}: {loss} went from {first:.4f} to {last:.4f}"


def check_beats_a_random_order(kind: Kind, folder: Path) -> None:
    """The held-out item is among the first ten of forty more often than by chance (1 in 4).

    Of a method that predicts labels, the held-out labels are ranked better than by chance.
    """
    del folder
    settings = {"epochs": 30} if issubclass(kind.Config, GradientConfig) else {}
    model = _fitted(kind, **settings)
    part = _split().test
    assert part is not None
    if kind.predicts == "labels":
        value = evaluate_pointwise(model, part, metrics=["auc"]).values["auc"].value
        assert value > 0.7, f"AUC is {value:.2f}; a random order has 0.5"
        return
    found = model.recommend(part.queries, 10, exclude=part.queries.histories.items).items
    hits = (found == torch.from_numpy(part.targets.values)[:, None]).any(1).float().mean()
    assert hits > 0.4, f"hit rate at 10 is {hits:.2f}; a random order has 0.25 to 0.3"


def check_every_parameter_is_trained(kind: Kind, folder: Path) -> None:
    """Fitting moves every trainable parameter: none is forgotten by the objectives."""
    del folder
    before = kind.create(_small(kind), tiny_dataset(), seed=_SEED)
    after = dict(_shared(kind).named_parameters())
    for name, value in before.named_parameters():
        if value.requires_grad and value.numel():
            assert not torch.equal(value, after[name]), f"parameter {name} never moved"


def check_scores(kind: Kind, folder: Path) -> None:
    """Scores are finite, [B, N] or [B, C], and scoring some items agrees with scoring all."""
    del folder
    model, queries = _shared(kind), _queries()
    n_items = tiny_dataset().n_items
    chosen = torch.from_numpy(np.random.default_rng(1).integers(0, n_items, (len(queries), 5)))
    with torch.inference_mode():
        every, some = model.score(queries), model.score(queries, chosen)
    assert every.shape == (len(queries), n_items), f"score gave {tuple(every.shape)}"
    assert some.shape == chosen.shape, f"score of candidates gave {tuple(some.shape)}"
    assert every.isfinite().all(), "scores are not finite"
    torch.testing.assert_close(some, every.gather(1, chosen), rtol=1e-4, atol=1e-5)


def check_batch_equals_single(kind: Kind, folder: Path) -> None:
    """A query gets the same answer alone and in a batch."""
    del folder
    model, queries = _shared(kind), _queries().take(slice(0, 6))
    together = model.recommend(queries, 10)
    for index in range(len(queries)):
        alone = model.recommend(queries.take(slice(index, index + 1)), 10)
        torch.testing.assert_close(alone.scores[0], together.scores[index], rtol=1e-4, atol=1e-5)


def check_seed_repeats(kind: Kind, folder: Path) -> None:
    """The same seed gives the same weights, bit for bit."""
    del folder
    _assert_same_state(_shared(kind), _fitted(kind), "a second fit with the same seed")


def check_saves_and_loads(kind: Kind, folder: Path) -> None:
    """A state stored and loaded, without the interactions, gives the same scores."""
    model, queries = _shared(kind), _queries()
    save_file(
        {name: value.contiguous().clone() for name, value in model.state().items()},
        folder / "model.safetensors",
    )
    loaded = kind.create(_small(kind), tiny_dataset().without_interactions(), seed=1)
    loaded.load_state(load_file(folder / "model.safetensors")).eval()
    with torch.inference_mode():
        same = torch.equal(loaded.score(queries), model.score(queries))
    assert same, "a loaded model scores differently"


class _Interrupted(Exception):  # noqa: N818 - not an error: the check's stand-in for a crash
    pass


def check_resumes(kind: Kind, folder: Path) -> None:
    """Interrupted after its first record and started again, training ends with equal weights."""

    def interrupt(record: Mapping[str, Any]) -> None:
        raise _Interrupted(record["stage"])

    model = kind.create(_small(kind), tiny_dataset(), seed=_SEED)
    data = _split().train
    with contextlib.suppress(_Interrupted):
        fit(
            model,
            data,
            seed=_SEED,
            device="cpu",
            folder=folder,
            checkpoint_seconds=0,
            listeners=[interrupt],
        )
    model = kind.create(_small(kind), tiny_dataset(), seed=_SEED)
    fit(model, data, seed=_SEED, device="cpu", folder=folder)
    _assert_same_state(_shared(kind), model, "a resumed fit")


def check_answers_unseen_users(kind: Kind, folder: Path) -> None:
    """A user the method never saw is answered from a history, even from an empty one."""
    del folder
    model = _shared(kind)
    empty = Queries.from_histories([[], [3], [3, 4, 5]])
    for queries in (_queries().anonymous(), empty):
        found = model.recommend(queries, 5)
        assert found.scores.isfinite().all(), "scores for an unseen user are not finite"
        assert (found.items >= 0).all(), "an unseen user got fewer items than there are"


def check_respects_filters(kind: Kind, folder: Path) -> None:
    """Excluded items never appear, only allowed ones do, and short lists are padded with -1."""
    del folder
    model, queries = _shared(kind), _queries().take(slice(0, 8))
    allowed = np.array([1, 4, 9, 16, 25, 36])
    exclude = Ragged.from_lists([[int(item)] * 2 for item in range(8)])
    found = model.recommend(queries, 10, exclude=exclude, allow=allowed)
    items = found.items.numpy()
    assert items.shape == (8, 10), f"recommend gave {items.shape}"
    for row, banned in enumerate(range(8)):
        expected = set(allowed.tolist()) - {banned}
        got = items[row][items[row] >= 0].tolist()
        assert len(got) == len(set(got)), f"an item was recommended twice: {got}"
        assert set(got) == expected, f"allowed {sorted(expected)}, recommended {sorted(got)}"
    assert (found.scores[items < 0] == -torch.inf).all(), "padding has a finite score"
    ordered = found.scores[:, :5]
    assert (ordered[:, 1:] <= ordered[:, :-1]).all(), "scores are not in falling order"


def check_refuses_missing_needs(kind: Kind, folder: Path) -> None:
    """Data without what the method needs are refused before training, with what to add."""
    del folder
    bare = Dataset.from_frame(
        pl.DataFrame({"user": ["a", "a", "b", "b"], "item": ["x", "y", "y", "z"]}),
        user="user",
        item="item",
        name="bare",
    )
    if not kind.needs:
        kind.create(_small(kind), bare)
        return
    message = _refusal(lambda: kind.create(_small(kind), bare), MissingNeedError)
    assert message is not None, f"{kind.__name__} accepted data without {sorted(kind.needs)}"
    assert "add" in message, f"the error does not say what to add: {message}"


def check_runs_on_a_gpu(kind: Kind, folder: Path) -> None:
    """Where there is a GPU, fitting and scoring there work and agree with the CPU."""
    del folder
    if not torch.cuda.is_available():
        return
    model, queries = _shared(kind), _queries()
    with torch.inference_mode():
        expected = model.score(queries)
        copy = kind.create(_small(kind), tiny_dataset(), seed=_SEED).load_state(model.state())
        found = copy.eval().to("cuda").score(queries).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    fit(kind.create(_small(kind), tiny_dataset()), _split().train, device="cuda")


def _refusal(action: Callable[[], object], error: type[Exception]) -> str | None:
    """The message with which `action` is refused, or `None` when it is not."""
    try:
        action()
    except error as refusal:
        return str(refusal)
    return None


def _assert_same_state(expected: Recommender, found: Recommender, what: str) -> None:
    own: dict[str, Tensor] = found.state()
    for name, value in expected.state().items():
        assert torch.equal(value, own[name]), f"{what} has another {name}"


#: The contract, check by check.
CHECKS: Mapping[str, Check] = {
    "builds": check_builds_and_refuses_unknown_settings,
    "loss-falls": check_loss_falls,
    "beats-random": check_beats_a_random_order,
    "trains-every-parameter": check_every_parameter_is_trained,
    "scores": check_scores,
    "batch-equals-single": check_batch_equals_single,
    "seed-repeats": check_seed_repeats,
    "saves-and-loads": check_saves_and_loads,
    "resumes": check_resumes,
    "unseen-users": check_answers_unseen_users,
    "filters": check_respects_filters,
    "missing-needs": check_refuses_missing_needs,
    "gpu": check_runs_on_a_gpu,
}


def check_method(kind: Kind, folder: Path) -> None:
    """Run every check of the contract over a method, in folders below `folder`.

    Raises:
        AssertionError: naming the first broken promise.
    """
    for name, check in CHECKS.items():
        place = folder / name
        place.mkdir(parents=True)
        try:
            check(kind, place)
        except AssertionError as error:
            raise AssertionError(f"{kind.__name__}, {name}: {error}") from error
