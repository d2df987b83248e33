"""Augmentations: what each keeps, on rows of every length, and that draws are spread evenly."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tastemaker.training.augmentations import (
    PaddedItems,
    crop,
    insert,
    mask,
    reorder,
    substitute,
    two_views,
)

FILL = 99


def rows(lengths=range(13), width=16):
    """Row b holds 0, 1, 2, ... up to its length."""
    lengths = np.array(list(lengths), np.int64)
    items = np.tile(np.arange(width, dtype=np.int64), (len(lengths), 1))
    items[np.arange(width) >= lengths[:, None]] = FILL
    return PaddedItems.of(items, lengths, FILL)


def events(view):
    """The events of each row as lists, holes as `FILL`."""
    return [row[:length].tolist() for row, length in zip(view.items, view.lengths, strict=True)]


def assert_padded(view):
    column = np.arange(view.items.shape[1])
    assert (view.items[column >= view.lengths[:, None]] == FILL).all()
    assert not view.valid[column >= view.lengths[:, None]].any()
    assert ((view.items == FILL) == ~view.valid).all()


GENERATOR = np.random.default_rng


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_crop_keeps_consecutive_events_of_the_right_number(share):
    given = rows()
    view = crop(given, GENERATOR(0), share=share)
    assert_padded(view)
    for length, kept in zip(given.lengths.tolist(), events(view), strict=True):
        expected = min(length, max(1, int((1 - share) * length + 1e-9)))
        assert len(kept) == expected
        assert kept == list(range(kept[0], kept[0] + expected)) if kept else length == 0
        assert not kept or kept[-1] < length


def test_crop_begins_everywhere_equally_often():
    view = crop(rows([6] * 3000), GENERATOR(0), share=0.5)
    starts = np.bincount(view.items[:, 0])
    assert len(starts) == 4
    assert np.abs(starts / 3000 - 0.25).max() < 0.03


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_mask_hides_the_right_number_and_moves_nothing(share):
    given = rows()
    view = mask(given, GENERATOR(0), share=share)
    assert_padded(view)
    np.testing.assert_array_equal(view.lengths, given.lengths)
    for length, kept in zip(given.lengths.tolist(), events(view), strict=True):
        assert kept.count(FILL) == int(share * length + 1e-9)
        assert all(item in (FILL, at) for at, item in enumerate(kept))


def test_mask_hides_every_event_equally_often():
    view = mask(rows([5] * 3000), GENERATOR(0), share=0.4)
    hidden = (~view.valid[:, :5]).mean(0)
    assert np.abs(hidden - 0.4).max() < 0.04


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_reorder_permutes_one_block(share):
    given = rows()
    view = reorder(given, GENERATOR(0), share=share)
    assert_padded(view)
    for length, kept in zip(given.lengths.tolist(), events(view), strict=True):
        assert sorted(kept) == list(range(length))
        moved = [at for at, item in enumerate(kept) if item != at]
        assert not moved or moved[-1] - moved[0] < int(share * length + 1e-9)


def test_reorder_reaches_every_order():
    view = reorder(rows([3] * 2000), GENERATOR(0), share=1.0)
    orders, counts = np.unique(view.items[:, :3], axis=0, return_counts=True)
    assert len(orders) == 6
    assert np.abs(counts / 2000 - 1 / 6).max() < 0.03


def table(width=16):
    """Items 0 and 1 have one and no neighbour, item i > 1 has i + 100 and i + 200."""
    neighbours = np.arange(width)[:, None] + np.array([100, 200])
    neighbours[0, 1] = -1
    neighbours[1] = -1
    return neighbours


def test_substitutes_are_neighbours_and_everything_else_stays():
    given = rows([12] * 500 + [0, 1])
    view = substitute(given, GENERATOR(0), probability=0.2, neighbours=table())
    np.testing.assert_array_equal(view.lengths, given.lengths)
    np.testing.assert_array_equal(view.items == FILL, given.items == FILL)
    changed = view.items != given.items
    before, after = given.items[changed], view.items[changed]
    assert (after % 100 == before).all()
    assert set(np.unique(after // 100)) == {1, 2}
    assert set(after[before == 0]) == {100}
    assert (before != 1).all()
    possible = 11 * 500  # item 1 has no neighbour
    deviation = np.sqrt(0.2 * 0.8 / possible)
    assert abs(changed.sum() / possible - 0.2) < 4 * deviation


def test_holes_are_not_substituted():
    masked = mask(rows([12] * 20), GENERATOR(0), share=0.5)
    view = substitute(masked, GENERATOR(1), probability=1.0, neighbours=table() + 0)
    np.testing.assert_array_equal(view.items == FILL, masked.items == FILL)


def test_insert_puts_neighbours_before_their_events():
    given = rows([12] * 50 + [1, 0])
    view = insert(given, GENERATOR(0), share=0.5, neighbours=table(), max_length=30)
    assert_padded(view)
    for length, kept in zip(given.lengths.tolist(), events(view), strict=True):
        assert [item for item in kept if item < 100] == list(range(length))
        assert all(kept[at + 1] == item % 100 for at, item in enumerate(kept) if item >= 100)
    grown = view.lengths[:50] - 12
    assert grown.max() == 6  # five where the event without a neighbour is chosen
    assert grown.min() == 5


def test_insert_drops_the_oldest_events_of_rows_that_grow_too_long():
    view = insert(rows([12] * 50), GENERATOR(0), share=0.5, neighbours=table(), max_length=12)
    assert_padded(view)
    assert (view.lengths == 12).all()
    assert all(kept[-1] == 11 for kept in events(view))


def test_two_views_are_by_two_different_augmentations():
    def made(code, given, generator):
        return PaddedItems.of(np.full_like(given.items, code), given.lengths, FILL)

    given = rows([5] * 3000)
    first, second = two_views(given, [partial(made, code) for code in range(3)], GENERATOR(0))
    pairs = np.stack([first.items[:, 0], second.items[:, 0]], 1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    assert found.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert np.abs(counts / 3000 - 1 / 6).max() < 0.03


def test_rows_of_one_event_have_two_equal_views():
    given = rows([1] * 30)
    changes = [partial(crop, share=0.5), partial(mask, share=0.5), partial(reorder, share=0.8)]
    for view in two_views(given, changes, GENERATOR(0)):
        np.testing.assert_array_equal(view.items, given.items)
        np.testing.assert_array_equal(view.valid, given.valid)


def test_views_of_different_width_are_padded_to_the_wider():
    grow = partial(insert, share=1.0, neighbours=np.full((16, 1), 7), max_length=40)
    first, second = two_views(rows([12] * 20), [grow, partial(crop, share=0.5)], GENERATOR(0))
    assert_padded(first)
    assert_padded(second)
    assert {tuple(pair) for pair in np.stack([first.lengths, second.lengths], 1).tolist()} == {
        (24, 6),
        (6, 24),
    }


def test_views_are_a_function_of_the_generator():
    changes = [partial(crop, share=0.5), partial(mask, share=0.5), partial(reorder, share=0.8)]
    once, again, other = (two_views(rows(), changes, GENERATOR(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(once.items, again.items)
    assert (once.items != other.items).any()
