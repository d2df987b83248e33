"""TiM4Rec: its equations, what time may and may not change, and training on prefixes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from tastemaker.data import Dataset, Histories, Queries, Ragged, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.layers.state_space import ssd_recurrent
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.tim4rec import TiM4Rec
from tastemaker.training import fit
from tests.models.sequences import first_batch, shaken

DAY = 86_400


def timed(histories, times, n_items):
    """These histories with these times (seconds) as a training set; items as numbered."""
    users = np.repeat(np.arange(len(histories)), [len(row) for row in histories])
    every = np.arange(max(n_items, len(histories)))
    once = {"user": every % len(histories), "item": every % n_items, "at": every}
    dataset = Dataset.from_frame(
        pl.DataFrame(once), user="user", item="item", timestamp="at", name="timed"
    )
    columns = {"timestamp": np.concatenate(times)}
    return TrainingSet.whole(dataset.with_interactions(users, np.concatenate(histories), columns))


def random_times(n_users=12, n_items=30, longest=9):
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, longest + 1, n_users)
    return timed(
        [generator.integers(0, n_items, length) for length in lengths],
        [1_600_000_000 + generator.integers(0, 90 * DAY, length).cumsum() for length in lengths],
        n_items,
    )


def built(data=None, **settings):
    settings = {
        "hidden_size": 8,
        "state_size": 4,
        "head_size": 4,
        "max_length": 12,
        "chunk_size": 5,
        **settings,
    }
    model = TiM4Rec.create(settings, (data or random_times()).dataset).eval()
    shaken(model)
    if model.times is not None:
        shaken(model.times, 1.0)  # times count little at first
    return model


def rows(*lengths, seed=0):
    """Sequences of random items and times, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths)
    inside = torch.arange(max(lengths)) < length[:, None]
    items = torch.randint(30, inside.shape, generator=generator)
    gaps = torch.randint(1, 90 * DAY, inside.shape, generator=generator)
    times = 1_600_000_000 + gaps.cumsum(1)
    return sequences(items.where(inside, 30), length, times * inside)


def sequences(items, lengths, times):
    return Sequences(items, lengths, {"timestamp": times, "next_timestamp": times.amax(1)})


def padded_further(given, width):
    extra = width - given.items.shape[1]
    items = F.pad(given.items, (0, extra), value=30)
    return sequences(items, given.lengths, F.pad(given.columns["timestamp"], (0, extra)))


def transcribed(model, items, times):
    """The published network on one history, padded to `max_length` by zero times.

    Args:
        items, times: [L] int64; the state after the last is returned, [D] float64.
    """
    config, length, width = model.config, len(items), model.config.max_length
    ids, stamps = torch.full((width,), 30), torch.zeros(width, dtype=torch.float64)
    ids[:length], stamps[:length] = items, times.double()
    x = model.input_norm(model.item_embeddings(ids))
    heads = model.layers[0].block.num_heads

    def norm(layer, signal):
        return F.layer_norm(signal, (width,), layer.weight, layer.bias, layer.epsilon)

    def filtered(layer, signal):  # [L, E], the kernel's last row is for the position itself
        kernel = layer.weight
        rows = [
            layer.bias + sum(kernel[-1 - k] * signal[t - k] for k in range(min(t + 1, 4)))
            for t in range(width)
        ]
        return F.hardswish(torch.stack(rows))

    gaps = torch.cat([torch.zeros(1, dtype=torch.float64), stamps[1:] - stamps[:-1]])
    g = norm(model.times.norm, gaps).expand(heads, -1)  # [H, L]
    for depth, layer in enumerate(model.layers):
        scale, block = model.times.scales[depth], layer.block
        t = (g * scale.narrow(F.silu(scale.widen(g)))).T
        t = filtered(scale.second, filtered(scale.first, t))  # [L, H]
        inner, states = block.inner_size, block.state_size
        z, mixed, dt = block.project(x).split([inner, inner + 2 * states, heads], dim=1)
        values, b, c = filtered(block.convolution, mixed).split([inner, states, states], dim=1)
        values = values.reshape(1, width, heads, -1)
        steps = F.softplus(dt * t + block.step_bias)[None]
        y = ssd_recurrent(values, steps, -block.rate_log.exp(), b[None], c[None])[0]
        y = (y + block.skip[:, None] * values[0]).reshape(width, -1) * F.silu(z)
        y = y / (y.square().mean(1, keepdim=True) + config.norm_epsilon).sqrt() * block.norm.weight
        h = layer.norm(block.output(y) + (x if config.num_layers > 1 else 0))
        x = layer.feedforward_norm(layer.narrow(F.hardswish(layer.widen(h))) + h)
        if depth + 1 < config.num_layers:
            mix = model.times.mixes[depth]
            gate = torch.sigmoid(mix.gate(g))
            g = norm(mix.norm, gate * g + (1 - gate) * t.T)
    return x[length - 1]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("per_position", [True, False])
def test_the_authors_rows_give_the_published_network(layers, per_position):
    model = built(
        num_layers=layers, gate_per_position=per_position, mask_pad_gaps=False, norm_epsilon=1e-5
    ).double()
    given = rows(12, 5, 1)
    found = model.encode_last(given)
    for row, length in enumerate([12, 5, 1]):
        items, times = given.items[row, :length], given.columns["timestamp"][row, :length]
        # The gaps are float32: the sums of the published norm are taken in float64 here.
        torch.testing.assert_close(
            found[row], transcribed(model, items, times), rtol=1e-4, atol=1e-4
        )


def test_rows_without_padding_do_not_depend_on_its_mask():
    given = rows(12, 12)
    masked, unmasked = built(mask_pad_gaps=True), built(mask_pad_gaps=False)
    torch.testing.assert_close(masked.encode_last(given), unmasked.encode_last(given))
    shorter = rows(5, 7)
    assert (masked.encode_last(shorter) - unmasked.encode_last(shorter)).abs().max() > 1e-3


@pytest.mark.parametrize("masked", [True, False])
def test_padding_and_the_rest_of_a_batch_change_nothing(masked):
    model, given = built(mask_pad_gaps=masked), rows(6, 2, 4)
    expected = model.encode_last(given)
    torch.testing.assert_close(model.encode_last(padded_further(given, 12)), expected)
    alone = model.encode_last(given.take(torch.tensor([1]), 2))
    torch.testing.assert_close(alone[0], expected[1])


def test_without_times_the_layers_are_causal():
    data = random_times()
    model = built(data, time_aware=False, targets="positions")
    items = torch.randint(30, (2, 8))
    states, changed = model.encode(items), items.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 30
    after = model.encode(changed)
    torch.testing.assert_close(states[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert (states[:, 5:] - after[:, 5:]).abs().amax(2).min() > 1e-4
    lengths = torch.tensor([8, 3])
    last = model.encode_last(Sequences(items, lengths))
    torch.testing.assert_close(last, states[torch.arange(2), lengths - 1])


def test_later_gaps_change_earlier_steps_but_the_target_has_no_say():
    model, given = built(), rows(8, 8)
    times = given.columns["timestamp"]
    later = times.clone()
    later[:, 7] += 300 * DAY
    before, after = model.times(times, given.lengths), model.times(later, given.lengths)
    assert (before[0][:, :6] - after[0][:, :6]).abs().max() > 1e-3
    histories = Histories(
        Ragged.from_lists(given.items.tolist()), {"timestamp": times.flatten().numpy()}
    )
    nobody = np.full(2, -1)
    asked = [
        Queries(nobody, histories, {"timestamp": times.numpy()[:, -1] + wait})
        for wait in (0, 1000 * DAY)
    ]
    torch.testing.assert_close(model.score(asked[0]), model.score(asked[1]), rtol=0, atol=0)


def test_times_count_in_any_unit():
    model, given = built(), rows(9, 4)
    times = given.columns["timestamp"]
    stretched = sequences(given.items, given.lengths, (times - 1_600_000_000) * 7)
    torch.testing.assert_close(
        model.encode_last(stretched), model.encode_last(given), rtol=1e-4, atol=1e-5
    )


class Ones(torch.nn.Module):
    """Step scales of one."""

    def forward(self, times, lengths):
        return [torch.ones(*times.shape, 4)] * 2


def test_scales_of_one_are_the_model_without_times():
    model, plain, given = built(), built(time_aware=False), rows(9, 4)
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert all(name.startswith("times.") for name in unexpected)
    assert (model.encode_last(given) - plain.encode_last(given)).abs().max() > 1e-3
    model.times = Ones()
    torch.testing.assert_close(model.encode_last(given), plain.encode_last(given))


def test_equal_times_are_the_shift_of_the_norm():
    model, given = built(), rows(9, 4)
    valid = torch.arange(9) < given.lengths[:, None]
    zeros = torch.zeros(2, 1, 9)
    signal = model.times.norm(zeros, valid)[:, 0]
    torch.testing.assert_close(signal, model.times.norm.bias[:9] * valid)
    same = torch.where(valid, 1_600_000_000, 0)
    known, unknown = (
        model.encode_last(sequences(given.items, given.lengths, times))
        for times in (same, torch.zeros_like(same))
    )
    torch.testing.assert_close(known, unknown, rtol=0, atol=0)


def test_a_history_without_times_is_one_of_equal_times():
    model = built()
    items = [[3, 4, 5], [6], []]
    histories = Histories(Ragged.from_lists(items), {"timestamp": np.full(4, 1_600_000_000)})
    told = Queries(np.full(3, -1), histories)
    torch.testing.assert_close(model.score(Queries.from_histories(items)), model.score(told))


def test_gaps_of_a_second_are_seen():
    model = built()
    items, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    close, even = torch.tensor([[0, 1, 3]]), torch.tensor([[0, 2, 3]])
    start = 1_600_000_000  # float32 seconds would make all these times one
    first, second = (
        model.encode_last(sequences(items, lengths, start + times)) for times in (close, even)
    )
    assert (first - second).abs().max() > 1e-4


def test_an_empty_history_is_answered_by_the_start_alone():
    model = built()
    scores = model.score(Queries.from_histories([[], [2, 3]]))
    torch.testing.assert_close(scores[0], model.item_vectors() @ model.start)


def test_only_the_most_recent_events_are_looked_at():
    data = random_times()
    model = built(data, max_length=3, batch_size=1000)
    compute, batch = first_batch(model, data)
    assert batch["items"].shape[1] == 3
    assert compute(batch).value.isfinite()
    scores = model.score(Queries.from_histories([[9, 9, 9, 1, 2, 3], [1, 2, 3]]))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


def test_positions_and_prefixes_are_one_loss_without_times():
    data = random_times()
    total = {}
    for targets in ("prefixes", "positions"):
        model = built(data, time_aware=False, targets=targets, batch_size=1000)
        compute, batch = first_batch(model, data)
        value = compute(batch)
        assert float(value.weight) == len(data)  # every event is a target once
        value.value.backward()
        total[targets] = value.value.detach(), model.item_embeddings.weight.grad
    torch.testing.assert_close(total["prefixes"], total["positions"], rtol=1e-4, atol=1e-5)


def test_what_follows_a_long_gap_is_learned_from_times_alone():
    """Four random items; then item 10 if the last two gaps are the long ones, else item 11."""
    generator = np.random.default_rng(0)
    slow = generator.random(400) < 0.5
    items = np.column_stack([generator.integers(0, 10, (400, 4)), np.where(slow, 10, 11)])
    days = np.where(slow[:, None], [1, 1, 9, 9, 1], [9, 9, 1, 1, 1])
    data = timed(list(items), list(days.cumsum(1) * DAY), 12)
    learned = TrainingSet(data.dataset, np.arange(5 * 200))  # the first half of the users
    known = data.histories(columns=("timestamp",))
    others = np.arange(200, 400)
    asked = Queries(np.full(200, -1), known.ending_at(others, known.items.offsets[201:] - 1, 4))
    settings = {"hidden_size": 16, "state_size": 8, "head_size": 8, "max_length": 8}
    rates = {"epochs": 30, "batch_size": 200, "learning_rate": 1e-2, "dropout": 0.0}
    found = {}
    for aware in (True, False):
        more = {"time_aware": aware, "precision": "float32", "monitor": None, "num_layers": 1}
        model = TiM4Rec.create({**settings, **rates, **more}, data.dataset)
        fit(model, learned, seed=0, device="cpu")
        scores = model.eval().score(asked)
        found[aware] = ((scores[:, 10] > scores[:, 11]).numpy() == slow[200:]).mean()
    assert found[True] > 0.95, found
    assert found[False] < 0.65, found


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="'head_size': 5 does not divide expand"):
        built(head_size=5)
    with pytest.raises(ConfigError, match="'targets': with 'positions', steps"):
        built(targets="positions")
