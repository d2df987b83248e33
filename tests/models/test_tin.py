"""TIN: time in attention and representation, the ladder down to DIN, and what it finds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.data.features import Fields, learn_features
from tastemaker.errors import ConfigError
from tastemaker.models.ranking.din import DIN
from tastemaker.models.ranking.ranker import Asked, Ranker
from tastemaker.models.ranking.tin import TIN, gap_places
from tastemaker.training import fit
from tastemaker.training.ranking_batches import RankingBatches
from tests.models.clicks import asked, histories_log, shaken

ITEMS, PLACES = 5, 6  # of the planted log


def small(kind: type[Ranker] = TIN, **settings):
    data = histories_log([[0, 1, 2], [3, 4], [5, 6, 7, 8]], 9)
    sizes = {"hidden_size": 4, "hidden_sizes": (6,), "max_length": 6, "activation": "sigmoid"}
    model = kind.create({"fields": ("item",), **sizes, "dropout": 0.0, **settings}, data.dataset)
    model.stages(data)
    shaken(model)
    return model.eval()


def agree(first: Ranker, second: Ranker) -> None:
    """The same logits when the second takes over the weights they share."""
    own = second.state_dict()
    shared = {name: value for name, value in first.state_dict().items() if name in own}
    second.load_state_dict({**own, **shared})
    histories, candidates = [[0, 1, 2], [3], []], torch.tensor([[1], [3], [2]])
    with torch.no_grad():
        assert torch.equal(
            first.logits(asked(histories, first, 4), candidates),
            second.logits(asked(histories, second, 4), candidates),
        )


def test_without_time_vectors_it_is_din_with_dot_products():
    tin = small(transform=False)
    with torch.no_grad():
        tin.interest.places.weight.zero_()
        tin.item_bias.weight.zero_()
    agree(tin, small(DIN, score="dot", product=True))


def test_without_the_product_too_it_is_plain_din():
    tin = small(transform=False, time="none", product=False)
    with torch.no_grad():
        tin.item_bias.weight.zero_()
    agree(tin, small(DIN, score="dot"))


def test_order_matters_by_places_alone(monkeypatch):
    model = small()
    questions = asked([[0, 1, 2, 3]], model, 4)
    order = torch.tensor([2, 0, 3, 1])
    moved = asked([[2, 0, 3, 1]], model, 4)
    candidates = torch.tensor([[1, 5]])
    with torch.no_grad():
        expected = model.logits(questions, candidates)
        assert (model.logits(moved, candidates) - expected).abs().max() > 1e-4
        places = model.places(questions)
        assert places.tolist() == [[4, 3, 2, 1]]  # the newest is 1
        monkeypatch.setattr(model, "places", lambda _: places[:, order])
        torch.testing.assert_close(model.logits(moved, candidates), expected, rtol=0, atol=1e-6)


def test_padding_changes_nothing():
    model = small()
    histories, candidates = [[0, 1, 2], [3], []], torch.tensor([[1, 0], [3, 1], [2, 8]])
    with torch.no_grad():
        short, long = (model.logits(asked(histories, model, width), candidates) for width in (3, 6))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)


def test_gaps_have_places_that_double():
    gaps = torch.tensor([-5, 0, 1, 2, 3, 4, 7, 8, 86_400, 1 << 40])
    assert gap_places(gaps).tolist() == [1, 1, 2, 3, 3, 4, 4, 5, 18, 33]


def test_the_clock_of_gaps_reads_timestamps():
    frame = {
        "user": ["a", "a", "a", "b", "b"],
        "item": ["x", "y", "z", "x", "z"],
        "time": [1_600_000_000, 1_600_000_010, 1_600_086_400, 1_600_000_000, 1_600_000_001],
        "liked": [1, 1, 0, 1, 0],
    }
    dataset = Dataset.from_frame(
        frame, user="user", item="item", timestamp="time", label="liked", name="timed"
    )
    settings = {"clock": "gap", "hidden_size": 4, "max_length": 8}
    model = TIN.create(settings, dataset)
    (stage,) = model.stages(TrainingSet.whole(dataset))
    batch = stage.objectives[0].batches.gather(np.array([2, 4]), np.random.default_rng(0))
    assert model.places(Asked.of(batch, ("timestamp",)))[:, :3].tolist() == [[18, 18, 0], [2, 0, 0]]
    queries = Queries.from_histories([[0, 1]])  # no times at all: no time has passed
    assert model.score(queries).isfinite().all()
    untimed = histories_log([[0, 1]], 3).dataset
    with pytest.raises(ConfigError, match=r"'clock': gaps are between timestamps.*use clock=rank"):
        TIN.create(settings, untimed)


def planted(n_users: int = 400, n_random: int = 14, n_asked: int = 24) -> TrainingSet:
    """Users like at random, then as their history says: alike items count, recent ones more."""
    generator = np.random.default_rng(0)
    alike = np.array([1.0, 0.6, 0.35, 0.2, 0.1])[:, None] * 3.5 * 0.6 ** np.arange(PLACES)
    users = np.arange(n_users)
    newest = np.full((n_users, PLACES), -1)
    rows = []
    for moment in range(n_random + n_asked):
        item = generator.integers(0, ITEMS, n_users)
        if moment < n_random:
            label = generator.random(n_users) < 0.6
            shifted = np.concatenate([item[:, None], newest[:, :-1]], 1)
            newest = np.where(label[:, None], shifted, newest)
        else:
            effects = alike[(newest - item[:, None]) % ITEMS, np.arange(PLACES)]
            logit = 2 * ((effects * (newest >= 0)).sum(1) - 3)
            label = generator.random(n_users) < 1 / (1 + np.exp(-logit))
        at = np.full(n_users, min(moment, n_random))
        rows.append(np.stack([users, item, at, label], 1))
    frame = pl.DataFrame(np.concatenate(rows), schema=["user", "item", "at", "liked"])
    return TrainingSet.whole(
        Dataset.from_frame(
            frame, user="user", item="item", order="at", label="liked", name="planted"
        )
    )


def measured_correlation(data: TrainingSet) -> np.ndarray:
    """Mutual information of the label and "item b is p events ago", by target: [T, B, P] bits."""
    contexts = learn_features(data, Fields.of(data.dataset, ("item",))).contexts
    batches = RankingBatches.of(data, contexts, len(data), max_length=PLACES)
    batch = batches.gather(np.arange(len(data)), np.random.default_rng(0))
    items, lengths = batch["items"].numpy(), batch["lengths"].numpy()
    ago = lengths[:, None] - 1 - np.arange(PLACES)
    newest = np.where(ago >= 0, np.take_along_axis(items, ago.clip(0), 1), -1)
    targets, labels = batch["targets"].numpy(), batch["labels"].numpy() > 0
    grid = np.zeros((ITEMS, ITEMS, PLACES))
    for target, behaviour, place in np.ndindex(grid.shape):
        here = targets == target
        joint = np.histogram2d(newest[here, place] == behaviour, labels[here], 2)[0] + 1e-5
        joint /= joint.sum()
        alone = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        grid[target, behaviour, place] = (joint * np.log2(joint / alone)).sum()
    return grid


@torch.no_grad()
def learned_correlation(model: Ranker) -> np.ndarray:
    """Attention of an item p events ago, times the length of what it adds: [T, B, P]."""
    items = model.embed_items(torch.arange(ITEMS))[:, 0]
    query, keys = items, items[:, None].expand(-1, PLACES, -1)
    if isinstance(model, TIN):
        places = model.interest.places.weight
        query, keys = items + places[0], items[:, None] + places[1 : PLACES + 1]
    scores = torch.einsum("td,bpd->tbp", query, keys)
    scores = scores - scores.mean((1, 2), keepdim=True)
    scores = scores / scores.std((1, 2), keepdim=True)
    weights = torch.softmax(scores.flatten(1), 1).view_as(scores)
    added = keys.expand(ITEMS, -1, -1, -1)
    if model.interest.product:
        added = added * query[:, None, None]
    return (weights * added.norm(dim=-1)).numpy()


def rank_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Mean Spearman correlation of the two grids over targets."""
    ranks = [grid.reshape(ITEMS, -1).argsort(1).argsort(1) for grid in (first, second)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def test_it_finds_which_items_matter_and_when():
    """Learned and measured correlation agree where time is known, and fade with time."""
    data = planted()
    measured = measured_correlation(data)
    training = {"epochs": 6, "batch_size": 128, "learning_rate": 1e-2, "monitor": None}
    sizes = {"hidden_size": 8, "hidden_sizes": (16,), "max_length": PLACES, "init_std": 0.3}
    agreements = {}
    for kind, own in ((TIN, {}), (DIN, {"score": "dot"})):
        settings = {"fields": ("item",), **sizes, **training, **own, "precision": "float32"}
        model = kind.create(settings, data.dataset)
        fit(model, data, device="cpu")
        learned = learned_correlation(model.eval())
        agreements[kind] = rank_agreement(learned, measured)
        if kind is TIN:
            fading = learned[range(ITEMS), range(ITEMS)].mean(0)  # of the target itself
            assert (np.diff(fading) < 0).all(), fading
            assert fading[0] > 4 * fading[2], fading
    assert agreements[TIN] > 0.6, agreements
    assert agreements[TIN] > agreements[DIN] + 0.2, agreements
