"""HSTU layers against a transcription of their equations, and what their sums promise."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tastemaker.layers import pointwise_attention as attention
from tastemaker.layers.hstu import HSTUEncoder, HSTULayer
from tastemaker.layers.pointwise_attention import TimeGaps, pointwise_attention, time_buckets


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def slow_bucket(gap: int) -> int:
    return min(math.floor(math.log(max(abs(gap), 1)) / 0.301), 128)


def slow_layer(layer: HSTULayer, states, asking, asked):
    """The equations of one layer, position by position, in float64."""
    rows, length, _ = states.shape
    heads, n = layer.num_heads, layer.max_length
    weight, out, bias = (
        value.detach().double()
        for value in (layer.project.weight, layer.output.weight, layer.output.bias)
    )
    position, time = layer.position_weights.detach(), layer.time_weights.detach()
    result = states.double().clone()
    sizes = [part // heads for part in layer.widths]
    for row in range(rows):
        parts = []
        for i in range(length):
            x = states[row, i].double()
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()
            y = weight @ x
            u, v, q, k = (y * torch.sigmoid(y)).split(layer.widths)
            parts.append((u, v.view(heads, sizes[1]), q.view(heads, -1), k.view(heads, -1)))
        for i in range(length):
            mixed = torch.zeros(heads, sizes[1], dtype=torch.float64)
            for j in range(i + 1):
                gap = int(asking[row, i] - asked[row, j])
                rab = float(position[i - j]) + float(time[slow_bucket(gap)])
                for head in range(heads):
                    score = float(parts[i][2][head] @ parts[j][3][head]) + rab
                    mixed[head] += silu(score) / n * parts[j][1][head]
            o = mixed.flatten()
            o = (o - o.mean()) / (o.var(unbiased=False) + 1e-6).sqrt()
            result[row, i] += out @ (parts[i][0] * o) + bias
    return result


def shaken(module: torch.nn.Module, std: float = 0.3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))


def built(num_layers=1, num_heads=2, **settings) -> HSTUEncoder:
    sizes = {"query_size": 3, "value_size": 5, "max_length": 12, **settings}
    encoder = HSTUEncoder(8, num_layers, num_heads, **sizes).eval()
    shaken(encoder)
    return encoder


def times(rows: int, length: int):
    """Times of events and of those after them: seconds apart, hours apart, equal."""
    generator = torch.Generator().manual_seed(3)
    steps = torch.tensor([0, 0, 1, 2, 30, 3_600, 86_400, 10_000_000])
    drawn = steps[torch.randint(len(steps), (rows, length + 1), generator=generator)]
    moments = 1_600_000_000 + drawn.cumsum(1)
    return moments[:, 1:], moments[:, :-1]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", {"cpu": 40})


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("block", [40, 1 << 20])
def test_a_layer_is_its_equations(num_heads, block, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", {"cpu": block})
    encoder = built(num_heads=num_heads)
    inputs = torch.randn(3, 9, 8)
    asking, asked = times(3, 9)
    found, _ = encoder(inputs, TimeGaps(asking, asked))
    expected = slow_layer(encoder.layers[0], inputs, asking, asked)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_without_bias_the_sum_is_silu_of_products_over_n():
    query = torch.tensor([[[[1.0], [2.0], [-1.0]]]])
    key = torch.tensor([[[[0.5], [-1.0], [2.0]]]])
    value = torch.tensor([[[[1.0], [10.0], [100.0]]]])
    found = pointwise_attention(query, key, value, torch.zeros(4), scale=1 / 4)
    expected = [
        silu(0.5),
        silu(1.0) + 10 * silu(-2.0),
        silu(-0.5) + 10 * silu(1.0) + 100 * silu(-2.0),
    ]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected) / 4)


def test_a_query_with_a_place_sees_the_keys_before_it_alone(small_blocks):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 3) for _ in range(3))
    position, time = torch.randn(6), torch.randn(129)
    asking, asked = times(2, 5)
    places = torch.tensor([[0, 1, 1, 5, 3], [2, 2, 4, 0, 5]])
    found = pointwise_attention(
        query, key, value, position, time=time, gaps=TimeGaps(asking, asked), places=places
    )
    for row in range(2):
        for i, place in enumerate(places[row].tolist()):
            expected = torch.zeros(2, 3)
            for j in range(place):
                rab = position[place - j] + time[slow_bucket(int(asking[row, i] - asked[row, j]))]
                for head in range(2):
                    score = query[row, head, i] @ key[row, head, j] + rab
                    expected[head] += silu(float(score)) * value[row, head, j]
            torch.testing.assert_close(found[row, :, i], expected, rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences(small_blocks):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 6, 3, dtype=torch.float64) for _ in range(3))
    position, time = torch.randn(7, dtype=torch.float64), torch.randn(129, dtype=torch.float64)
    gaps = TimeGaps(*times(2, 6))
    inputs = [part.requires_grad_() for part in (query, key, value, position, time)]

    each = torch.tensor([[0, 1, 1, 3, 6, 6], [2, 2, 2, 0, 5, 1]])
    for places in (None, each, each[:, 4:5]):
        if places is not None and places.shape[1] == 1:
            gaps = TimeGaps(gaps.asking[:, :1], gaps.asked)

        def attend(query, key, value, position, time, places=places, gaps=gaps):
            options = {"time": time, "gaps": gaps, "places": places, "scale": 0.5}
            return pointwise_attention(query, key, value, position, **options)

        assert torch.autograd.gradcheck(attend, inputs)


def test_buckets_grow_by_a_third_and_end_at_128():
    gaps = torch.tensor([[0, 1, -1, 2, 3, 60, 3_600, 86_400, 10**9, 2**62]])
    found = time_buckets(torch.zeros(1, 1, dtype=torch.int64), gaps)[0, 0]
    assert found.tolist() == [slow_bucket(int(gap)) for gap in gaps[0]]
    assert found[:4].tolist() == [0, 0, 0, 2]
    assert time_buckets(torch.tensor([[1e300]]).double(), torch.zeros(1, 1).double()) == 128


def test_gaps_are_exact_where_seconds_since_1970_are_not():
    late = torch.tensor([[1_700_000_001]])
    assert (late + 1).float() == (late - 1).float()
    assert time_buckets(late + 1, late - 1).item() == slow_bucket(2)


def test_a_kept_bucket_is_a_bucket_made_again(monkeypatch):
    asking, asked = times(2, 7)
    kept = TimeGaps(asking, asked)
    assert kept.buckets(2, 5, 6) is kept.buckets(2, 5, 6)
    monkeypatch.setattr(attention, "_KEPT_PAIRS", 0)
    made = TimeGaps(asking, asked)
    assert made.buckets(2, 5, 6) is not made.buckets(2, 5, 6)
    torch.testing.assert_close(made.buckets(2, 5, 6), kept.buckets(2, 5, 6))


def test_what_follows_never_changes_a_state():
    encoder = built(num_layers=3)
    inputs = torch.randn(2, 9, 8)
    gaps = TimeGaps(*times(2, 9))
    changed = inputs.clone()
    changed[:, 5:] += 1
    before, after = encoder(inputs, gaps)[0], encoder(changed, gaps)[0]
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(2).min() > 1e-3


@pytest.mark.parametrize("start", [0, 1, 4, 8])
def test_a_delta_forward_is_the_full_forward(start):
    encoder = built(num_layers=3)
    inputs = torch.randn(2, 9, 8)
    asking, asked = times(2, 9)
    expected, known = encoder(inputs, TimeGaps(asking, asked))
    past = [layer.cut(start) for layer in known]
    found, grown = encoder(inputs[:, start:], TimeGaps(asking[:, start:], asked), past)
    torch.testing.assert_close(found, expected[:, start:], rtol=0, atol=1e-5)
    for layer, other in zip(known, grown, strict=True):
        torch.testing.assert_close(layer.keys, other.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.values, other.values, rtol=0, atol=1e-5)


def test_heads_may_change_places():
    encoder = built()
    swapped = copy.deepcopy(encoder)
    with torch.no_grad():
        for layer in swapped.layers:
            weight, parts = layer.project.weight, layer.project.weight.split(layer.widths)
            weight.copy_(torch.cat([torch.cat(part.chunk(2)[::-1]) for part in parts]))
            layer.output.weight.copy_(torch.cat(layer.output.weight.chunk(2, 1)[::-1], 1))
    inputs, gaps = torch.randn(2, 9, 8), TimeGaps(*times(2, 9))
    torch.testing.assert_close(
        encoder(inputs, gaps)[0], swapped(inputs, gaps)[0], rtol=0, atol=1e-5
    )


def test_a_candidate_is_what_the_next_event_would_be():
    # In a layer, an event sees what a candidate in its place sees: the events before, and itself.
    encoder = built()
    inputs = torch.randn(2, 9, 8)
    asking, asked = times(2, 9)
    asking[:, 8] = asked[:, 8]  # asked at its own moment
    expected, _ = encoder(inputs, TimeGaps(asking, asked))
    known = encoder.remember(inputs[:, :8], TimeGaps(asking[:, :8], asked[:, :8]))
    gaps = TimeGaps(asking[:, 8:], asked[:, :8])
    found = encoder.candidates(inputs[:, 8:], known, torch.full((2, 1), 8), gaps)
    torch.testing.assert_close(found, expected[:, 8:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_microbatches_of_candidates_are_one_batch(size):
    encoder = built(num_layers=3)
    asking, asked = times(2, 9)
    known = encoder.remember(torch.randn(2, 9, 8), TimeGaps(asking, asked))
    candidates = torch.randn(2, 7, 8)
    gaps = TimeGaps(asking[:, -1:] + 100, asked)
    places = torch.tensor([[9], [4]])  # the second history is shorter
    whole = encoder.candidates(candidates, known, places, gaps)
    parts = [encoder.candidates(part, known, places, gaps) for part in candidates.split(size, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


def test_candidates_that_stand_together_are_those_with_a_place_each():
    encoder = built(num_layers=2)
    asking, asked = times(2, 9)
    known = encoder.remember(torch.randn(2, 9, 8), TimeGaps(asking, asked))
    candidates, places = torch.randn(2, 7, 8), torch.tensor([[9], [4]])
    together = encoder.candidates(candidates, known, places, TimeGaps(asking[:, -1:], asked))
    each = TimeGaps(asking[:, -1:].expand(2, 7), asked)
    alone = encoder.candidates(candidates, known, places.expand(2, 7), each)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_what_is_remembered_is_what_the_full_forward_keeps():
    encoder = built(num_layers=3)
    inputs, gaps = torch.randn(2, 9, 8), TimeGaps(*times(2, 9))
    _, known = encoder(inputs, gaps)
    for layer, other in zip(known, encoder.remember(inputs, gaps), strict=True):
        assert torch.equal(layer.keys, other.keys)
        assert torch.equal(layer.values, other.values)
