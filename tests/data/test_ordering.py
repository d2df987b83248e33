from __future__ import annotations

import numpy as np
import pytest

from tastemaker.data import ordering


@pytest.mark.parametrize("n_rows", [0, 1, 6, 7, 8, 50])
def test_blocks_gathered_at_once_give_what_indexing_gives(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_BLOCK", 7)
    rng = np.random.default_rng(n_rows)
    values, rows = rng.random(40).astype(np.float32), rng.integers(0, 40, n_rows)
    found = ordering.gather(values, rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[rows])


@pytest.mark.parametrize("kind", [np.int64, np.float64, None])
def test_events_are_sorted_by_user_time_and_row(
    kind: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    users = rng.integers(0, 5, 60).astype(np.int32)
    keys = None if kind is None else rng.integers(0, 9, 60).astype(kind)
    found = ordering.event_order(users, 5, keys)
    assert found is not None
    told = range(60) if keys is None else sorted(range(60), key=lambda row: keys[row])
    assert found.tolist() == sorted(told, key=lambda row: users[row])
