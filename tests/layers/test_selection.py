from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tastemaker.layers.selection import tie_order, top_k


def slow_top_k(
    scores: torch.Tensor, k: int, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort every row by (-score, tie order), and cut."""
    orders = tie_order(keys, scores.shape[1])
    rows = [
        np.lexsort((order.numpy(), -row.numpy()))[:k]
        for row, order in zip(scores, orders, strict=True)
    ]
    items = torch.from_numpy(np.stack(rows))
    values = scores.gather(1, items)
    return items.where(values > -torch.inf, -1), values


def draw_keys(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-(2**62), 2**62, (n,), generator=generator)


def assert_equals_slow(scores: torch.Tensor, k: int, keys: torch.Tensor) -> None:
    items, values = top_k(scores, k, keys)
    expected_items, expected_values = slow_top_k(scores, k, keys)
    assert torch.equal(values, expected_values)
    assert torch.equal(items, expected_items)
    assert items.dtype == torch.int64
    assert values.dtype == scores.dtype


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_rows=st.integers(1, 5),
    n_items=st.one_of(st.integers(1, 60), st.integers(600, 3_000)),
    depth=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 3, 10, 100, 10**6]),
    missing=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    rare=st.sampled_from([1.0, 0.02]),
)
def test_equals_a_full_sort(
    seed: int, n_rows: int, n_items: int, depth: float, levels: int, missing: float, rare: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (n_rows, n_items), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) >= rare] = -1.0
    scores[torch.rand(scores.shape, generator=generator) < missing] = -torch.inf
    k = max(1, round(depth * min(n_items, 40)))
    assert_equals_slow(scores, k, draw_keys(n_rows, generator))


@pytest.mark.parametrize("n_items", [1, 2, 15, 16, 17, 200])
def test_the_whole_catalog_in_order(n_items: int) -> None:
    generator = torch.Generator().manual_seed(n_items)
    scores = torch.randint(0, 3, (4, n_items), generator=generator).float()
    assert_equals_slow(scores, n_items, draw_keys(4, generator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda noise: noise, id="distinct"),
        pytest.param(lambda noise: torch.zeros_like(noise), id="constant"),
        pytest.param(lambda noise: torch.where(noise > 0.999, noise, 0.0), id="sparse"),
        pytest.param(lambda noise: (noise > 0.98).float(), id="a rare level"),
        pytest.param(lambda noise: (noise > 0.9997).float() + (noise > 0.9999), id="two levels"),
        pytest.param(lambda noise: torch.where(noise > 0.999, noise, -torch.inf), id="few allowed"),
        pytest.param(lambda noise: torch.arange(noise.shape[1]).expand_as(noise) / 7, id="sorted"),
    ],
)
def test_wide_rows_equal_a_full_sort(make, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = make(torch.rand((70, 30_011), generator=generator)).to(dtype)
    items, values = top_k(scores, 20, keys := draw_keys(70, generator))
    expected_items, expected_values = slow_top_k(scores.double(), 20, keys)
    assert torch.equal(values.double(), expected_values)
    assert torch.equal(items, expected_items)


def test_a_query_alone_equals_the_query_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 3, (100, 500), generator=generator).float()
    keys = draw_keys(100, generator)
    items, values = top_k(scores, 10, keys)
    for row in range(100):
        alone = top_k(scores[row : row + 1], 10, keys[row : row + 1])
        assert torch.equal(alone[0][0], items[row])
        assert torch.equal(alone[1][0], values[row])


def test_shorter_lists_begin_longer_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(0, 5, (30, 5_000), generator=generator).float()
    keys = draw_keys(30, generator)
    longest, _ = top_k(scores, 50, keys)
    for k in (1, 2, 9, 10, 49):
        assert torch.equal(top_k(scores, k, keys)[0], longest[:, :k])


def test_strided_scores() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 9, (3_000, 12), generator=generator).float().T
    assert_equals_slow(scores, 10, draw_keys(12, generator))
    wide = torch.rand((6, 4_000), generator=generator)[:, ::2]
    assert_equals_slow(wide, 10, draw_keys(6, generator))


def test_tie_order_is_a_permutation_for_each_key() -> None:
    keys = draw_keys(50, torch.Generator().manual_seed(4))
    for n_items in (1, 2, 100, 1_024, 1_025, 5_000):
        order = tie_order(keys, n_items)
        assert order.shape == (50, n_items)
        assert (order.sort(1).values.diff(dim=1) > 0).all()
        assert torch.equal(order, torch.cat([tie_order(key[None], n_items) for key in keys]))


@pytest.mark.parametrize("n_items", [12, 100, 1_500])
@pytest.mark.parametrize("keys_are", ["random", "consecutive"])
def test_constant_scores_give_a_random_order(n_items: int, keys_are: str) -> None:
    n_rows, k = 20_000, 5
    keys = (
        torch.arange(n_rows)
        if keys_are == "consecutive"
        else draw_keys(n_rows, torch.Generator().manual_seed(5))
    )
    items, _ = top_k(torch.zeros(1, 1).expand(n_rows, n_items), k, keys)
    for place in range(k):  # every item is as often first, second, ...
        counts = items[:, place].bincount(minlength=n_items).numpy()
        assert stats.chisquare(counts).pvalue > 1e-4
    # The number of listed items from any set has the mean and variance of a random draw.
    codes = torch.arange(n_items)
    for members in (codes < n_items // 4, codes % 2 == 0, codes % 8 == 3):
        m, listed = int(members.sum()), members[items].sum(1).double()
        law = stats.hypergeom(n_items, m, k)
        assert abs(listed.mean() - law.mean()) < 4.5 * law.std() / math.sqrt(n_rows)
        kurtosis = float(law.stats("k")) + 2
        reach = 4.5 * law.var() * math.sqrt(max(kurtosis, 0.1) / n_rows)
        assert abs(listed.var() - law.var()) < reach


def test_bad_input_is_refused() -> None:
    scores, keys = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for k in (0, 4):
        with pytest.raises(ValueError, match="3 items to choose from"):
            top_k(scores, k, keys)
    scores[1, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k(scores, 1, keys)
    wide = torch.zeros(1, 10_000)
    wide[0, 7_777] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k(wide, 5, keys[:1])


def test_no_rows() -> None:
    items, values = top_k(torch.zeros(0, 4), 2, torch.zeros(0, dtype=torch.int64))
    assert items.shape == values.shape == (0, 2)
