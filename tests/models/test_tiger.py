"""TIGER: what its states see, decoding against training, memorising, and what its codes bring."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.content.decoding import free_beam_search
from tastemaker.content.semantic_ids import SemanticIds
from tastemaker.data import Dataset, Queries, Ragged, TrainingSet
from tastemaker.errors import ConfigError, DataError
from tastemaker.models.generative.tiger import TIGER
from tastemaker.models.generative.tokenizer import Tokenizer
from tastemaker.models.generative.windows import WindowBatches
from tastemaker.training import fit
from tastemaker.training.stages import Batch

SMALL = {
    "features": "text:hashing",
    "codebook_size": 8,
    "num_levels": 2,
    "num_digits": 32,
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "head_size": 8,
    "feedforward_size": 32,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "precision": "float32",
    "monitor": None,
    "max_length": 8,
}
NETWORKS = {
    "encoder-decoder": {},
    "plain": {"separator": False},
    "bidirectional": {"encoder": "bidirectional"},
    "decoder-only": {"architecture": "decoder-only"},
    "user-tokens": {"architecture": "decoder-only", "user_tokens": 3},
}


def shelves(n_users: int = 80, n_shelves: int = 8, each: int = 12, *, seed: int = 0) -> TrainingSet:
    """Users who take random items of one shelf; an item's title names its shelf."""
    generator = np.random.default_rng(seed)
    n_items = n_shelves * each
    every = np.arange(max(n_items, n_users))
    titles = [f"shelf{item // each} shelf{item // each} thing{item}" for item in range(n_items)]
    dataset = Dataset.from_frame(
        pl.DataFrame({"user": every % n_users, "item": every % n_items, "at": every}),
        user="user",
        item="item",
        order="at",
        items=pl.DataFrame({"item": np.arange(n_items), "title": titles}),
        item_id="item",
        name="shelves",
    )
    lengths = generator.integers(3, 7, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    items = (users % n_shelves) * each + generator.integers(0, each, len(users))
    return TrainingSet.whole(
        dataset.with_interactions(users, items, {"order": np.arange(len(items))})
    )


def built(data: TrainingSet, **settings) -> TIGER:
    model = TIGER.create({**SMALL, **settings}, data.dataset)
    model.take_codes(torch.from_numpy(np.random.default_rng(5).integers(0, 8, (model.n_items, 2))))
    with torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def trained(data: TrainingSet, **settings) -> TIGER:
    model = TIGER.create({**SMALL, **settings}, data.dataset)
    fit(model, data, seed=0, device="cpu")
    return model.eval()


def batch_of(rows: list[list[int]], n_items: int, *, last_only: bool = False) -> Batch:
    """Histories whose events are all targets, or their last ones alone."""
    ragged = Ragged.from_lists(rows)
    items = ragged.padded(int(ragged.lengths.max()), n_items)
    place, lengths = np.arange(items.shape[1]), ragged.lengths[:, None]
    counted = place == lengths - 1 if last_only else place < lengths
    arrays = {
        "items": items,
        "lengths": ragged.lengths,
        "users": np.full(len(rows), -1),
        "counted": counted,
    }
    return Batch({name: torch.from_numpy(array) for name, array in arrays.items()})


ROWS = [[3, 9, 4, 40, 7], [8, 1], [5], [2, 2, 60]]


@pytest.mark.parametrize("network", NETWORKS)
def test_what_training_predicts_is_what_decoding_scores(network):
    model = built(shelves(), **NETWORKS[network])
    loss = model.loss(batch_of(ROWS, model.n_items, last_only=True)).value
    queries = Queries.from_histories([row[:-1] for row in ROWS])
    targets = torch.tensor([[row[-1]] for row in ROWS])
    torch.testing.assert_close(-model.score(queries, targets).mean(), loss.detach())


@pytest.mark.parametrize("network", ["encoder-decoder", "decoder-only"])
def test_one_pass_over_a_window_is_one_pass_per_target(network):
    model = built(shelves(), **NETWORKS[network])
    row = ROWS[0]
    together = model.loss(batch_of([row], model.n_items)).value
    alone = [
        model.loss(batch_of([row[: stop + 1]], model.n_items, last_only=True)).value
        for stop in range(len(row))
    ]
    torch.testing.assert_close(torch.stack(alone).mean(), together)


@pytest.mark.parametrize("network", ["encoder-decoder", "bidirectional", "decoder-only"])
def test_a_state_does_not_depend_on_the_code_it_predicts_or_later_ones(network):
    model = built(shelves(), **NETWORKS[network])
    items, lengths = torch.tensor([[3, 9, 4]]), torch.tensor([3])
    tokens = model._embedded(items)
    before = model.network(model.start[None], tokens, lengths)
    for level in range(3):
        changed = tokens.clone()
        changed[:, -1, level:] += 1.0
        after = model.network(model.start[None], changed, lengths)
        same, other = slice(0, level + 1), slice(level + 1, None)
        torch.testing.assert_close(before[:, -1, same], after[:, -1, same], rtol=0, atol=1e-5)
        assert (before[:, -1, other] != after[:, -1, other]).all() or level == 2


@pytest.mark.parametrize("network", NETWORKS)
def test_padding_and_its_content_change_nothing(network):
    model = built(shelves(), **NETWORKS[network])
    batch = batch_of(ROWS, model.n_items, last_only=True)
    other = batch["items"].where(batch["items"] < model.n_items, 11)
    wider = torch.nn.functional.pad(other, (0, 2), value=20)
    counted = torch.nn.functional.pad(batch["counted"], (0, 2))
    changed = Batch({**batch.rows, "items": wider, "counted": counted})
    torch.testing.assert_close(model.loss(changed).value, model.loss(batch).value)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_wide_beam_is_the_full_ranking_and_a_narrow_one_scores_alike(network):
    model = built(shelves(), **NETWORKS[network], beam_size=5)
    queries = Queries.from_histories([row[:-1] for row in ROWS])
    every = model.score(queries)
    probability = every.double().exp().sum(1)
    assert (probability < 1 + 1e-6).all()  # tuples of nobody have the rest
    wide = model.recommend(queries, model.n_items)
    ranked = every.sort(dim=1, descending=True)
    torch.testing.assert_close(wide.scores, ranked.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(every.gather(1, wide.items), wide.scores, rtol=1e-4, atol=1e-4)
    narrow = model.recommend(queries, 5)
    torch.testing.assert_close(every.gather(1, narrow.items), narrow.scores, rtol=1e-4, atol=1e-4)


def test_fifty_users_are_learned_by_heart():
    data = shelves(50)
    width = {"hidden_size": 64, "head_size": 16, "feedforward_size": 128}
    rates = {"epochs": 80, "batch_size": 25, "learning_rate": 5e-3, "decay": "linear"}
    model = trained(data, **width, **rates, augmentation="prefixes")
    histories = data.histories().items
    rows = [histories.row(user).tolist() for user in range(50)]
    # Where two users share a beginning, nobody can know the end of both.
    ends: dict[tuple[int, ...], set[int]] = {}
    for row in rows:
        ends.setdefault(tuple(row[:-1]), set()).add(row[-1])
    rows = [row for row in rows if len(ends[tuple(row[:-1])]) == 1]
    found = model.recommend(Queries.from_histories([row[:-1] for row in rows]), 1).items[:, 0]
    hits = (found == torch.tensor([row[-1] for row in rows])).float().mean()
    assert len(rows) > 45
    assert hits > 0.9, f"{hits:.2f} of the last events of training were found first"


def recall(model: TIGER, data: TrainingSet, queries: list[list[int]]) -> float:
    """Share of the first ten that lie on the query's shelf."""
    found = model.recommend(Queries.from_histories(queries), 10).items // 12
    return float((found == torch.tensor([[row[0] // 12] for row in queries])).float().mean())


def test_codes_of_texts_generalise_and_random_ones_do_not():
    data = shelves()
    settings = {"epochs": 12, "batch_size": 40, "learning_rate": 1e-2}
    asked = [[shelf * 12 + place, shelf * 12 + place + 1] for shelf in range(8) for place in (0, 6)]
    texts = recall(trained(data, **settings), data, asked)

    class Shuffled(TIGER):
        def take_codes(self, codes: torch.Tensor) -> None:
            order = torch.from_numpy(np.random.default_rng(0).permutation(len(codes)))
            super().take_codes(codes[order])

    model = Shuffled.create({**SMALL, **settings}, data.dataset)
    fit(model, data, seed=0, device="cpu")
    assert texts > 0.8
    assert recall(model.eval(), data, asked) < texts - 0.2
    only_last = trained(data, **settings, augmentation="none")
    assert recall(only_last, data, asked) < texts


def test_training_ends_tuples_of_nobody_in_free_beams():
    data = shelves()
    model = trained(data, epochs=12, batch_size=40, learning_rate=1e-2)
    untrained = TIGER.create(SMALL, data.dataset).eval()
    untrained.codes = model.codes
    queries = Queries.from_histories([[item] for item in range(0, 96, 6)])
    ids, shares = SemanticIds(model.codes.numpy(), model.sizes), []
    for each in (untrained, model):
        with torch.no_grad():
            tuples, _ = free_beam_search(each.writer(queries), 3, 10, 16, each.device)
        shares.append((ids.items_of(tuples.flatten(0, 1).numpy()) < 0).mean())
        constrained = each.recommend(queries, 10).items
        assert ((constrained >= 0) & (constrained < model.n_items)).all()
    assert shares[0] > 0.5, f"invalid shares {shares}"
    assert shares[1] < 0.1, f"invalid shares {shares}"


def test_items_nobody_took_have_tuples_and_can_be_recommended():
    data = shelves()
    kept = np.flatnonzero(data.items % 12 != 0)
    model = trained(TrainingSet(data.dataset, data.rows[kept]), epochs=12, learning_rate=1e-2)
    assert len(model.codes) == 96
    cold = np.arange(0, 96, 12)
    found = model.recommend(Queries.from_histories([[1, 2]]), 8, allow=cold).items[0]
    assert sorted(found.tolist()) == cold.tolist()


def test_known_users_have_tokens_and_unknown_ones_the_start_alone():
    model = built(shelves(), **NETWORKS["user-tokens"])
    asked = Queries.from_histories([[3, 4]] * 4)
    known = Queries(np.array([0, 3, 1, -1]), asked.histories)
    scores = model.score(known)
    torch.testing.assert_close(scores[0], scores[1])  # one bucket
    assert (scores[0] - scores[2]).abs().max() > 1e-3
    torch.testing.assert_close(scores[3], model.score(asked)[3])


@pytest.mark.parametrize("kind", ["rq-kmeans", "rq-vae", "r-vq"])
def test_every_quantiser_tells_shelves_apart(kind, monkeypatch):
    monkeypatch.setattr("tastemaker.models.generative.tokenizer._STEPS", 60)
    data = shelves()
    tokenizer = Tokenizer("text:hashing", kind, 2, 8)
    codes = tokenizer.codes(data.dataset, torch.device("cpu"))
    assert codes.shape == (96, 2)
    assert codes.max() < 8
    assert torch.equal(codes, tokenizer.codes(data.dataset, torch.device("cpu")))
    commonest = [torch.bincount(codes[start : start + 12, 0]).max() for start in range(0, 96, 12)]
    assert sum(int(count) for count in commonest) > 80


def test_too_few_digits_are_refused():
    with pytest.raises(ConfigError, match="num_digits"):
        trained(shelves(), codebook_size=1, num_digits=4, epochs=1)


def windows(data: TrainingSet, augmentation: str, *, every_event: bool, max_length: int = 3):
    batches = WindowBatches.of(data, max_length, 16, augmentation, every_event=every_event)
    generator = np.random.default_rng(0)
    return [batches.gather(rows, generator) for rows in batches.plan(generator)]


@pytest.mark.parametrize("every_event", [False, True])
def test_prefixes_count_every_event_of_every_user_once(every_event):
    data = shelves()
    found = windows(data, "prefixes", every_event=every_event)
    counted = sum(int(batch["counted"].sum()) for batch in found)
    assert counted == len(data)
    for batch in found:
        for items, length, user in zip(
            batch["items"], batch["lengths"].tolist(), batch["users"].tolist(), strict=True
        ):
            history = data.histories().items.row(user).tolist()
            window = items[:length].tolist()
            assert any(window == history[at : at + length] for at in range(len(history)))
            assert length <= 4


def test_windows_start_anywhere_and_none_keeps_the_last_event():
    data = shelves()
    for every_event in (False, True):
        starts = set()
        for batch in windows(data, "windows", every_event=every_event, max_length=8):
            for items, user in zip(batch["items"], batch["users"].tolist(), strict=True):
                history = data.histories().items.row(user)
                starts.add(int(np.flatnonzero(history == int(items[0]))[0]))
        assert len(starts) > 3
        found = windows(data, "none", every_event=every_event)
        assert sum(int(batch["counted"].sum()) for batch in found) == data.n_users
        for batch in found:
            last = batch["lengths"] - 1
            assert torch.equal(batch["counted"].int().argmax(1), last)


def test_users_with_one_event_alone_are_nothing_to_learn_from():
    data = shelves()
    one = TrainingSet(data.dataset, data.rows[data.offsets[:-1]])
    with pytest.raises(DataError, match="no next item to learn"):
        WindowBatches.of(one, 3, 16, "windows", every_event=True)
