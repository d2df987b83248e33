"""Decoding: beams against the exhaustive ranking, with and without a trie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.content.decoding import beam_search, free_beam_search, score_all, score_tuples
from tastemaker.content.trie import Trie

SIZE, LEVELS, ROWS = 4, 3, 5


class TableWriter:
    """Looks the next code's log-probabilities up in tables, one for each prefix and row."""

    def __init__(self, tables: list[torch.Tensor]) -> None:
        self.tables, self.prefixes = tables, torch.zeros(len(tables[0]), 1, dtype=torch.int64)
        self.level = 0

    def first(self) -> torch.Tensor:
        return self.tables[0]

    def extend(self, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        self.prefixes = self.prefixes.gather(1, parents) * SIZE + codes
        self.level += 1
        rows = torch.arange(len(codes))[:, None]
        return self.tables[self.level][rows, self.prefixes]


def tables(rows: int = ROWS, seed: int = 0, *, flat: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = 0.0 if flat else 2.0
    return [
        (scale * torch.randn(rows, SIZE**level, SIZE, generator=generator)).log_softmax(2)
        for level in range(LEVELS)
    ]


def every_tuple() -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(SIZE)] * LEVELS)


def exhaustive(given: list[torch.Tensor]) -> torch.Tensor:
    """[B, 64] the sum of log-probabilities of every tuple, one by one."""
    scores = torch.zeros(len(given[0]), SIZE**LEVELS)
    for row in range(len(scores)):
        for number, (a, b, c) in enumerate(every_tuple().tolist()):
            scores[row, number] = (
                given[0][row, 0, a] + given[1][row, a, b] + given[2][row, a * SIZE + b, c]
            )
    return scores


def catalog(n_items: int = 23) -> torch.Tensor:
    chosen = np.random.default_rng(2).permutation(SIZE**LEVELS)[:n_items]
    return every_tuple()[torch.from_numpy(chosen)]


def test_a_beam_of_full_width_is_the_exhaustive_ranking():
    given = tables()
    expected = exhaustive(given).sort(dim=1, descending=True)
    tuples, scores = free_beam_search(TableWriter(given), LEVELS, 64, ROWS, torch.device("cpu"))
    torch.testing.assert_close(scores, expected.values)
    torch.testing.assert_close(tuples, every_tuple()[expected.indices])


def test_with_the_trie_it_is_the_valid_part_in_the_same_order():
    given, items = tables(), catalog()
    free, scores = free_beam_search(TableWriter(given), LEVELS, 64, ROWS, torch.device("cpu"))
    found = beam_search(TableWriter(given), Trie.of(items), 64, ROWS)
    owned = {tuple(row): item for item, row in enumerate(items.tolist())}
    for row in range(ROWS):
        valid = [number for number, each in enumerate(free[row].tolist()) if tuple(each) in owned]
        expected = [owned[tuple(free[row, number].tolist())] for number in valid]
        assert found.items[row, : len(items)].tolist() == expected
        torch.testing.assert_close(found.scores[row, : len(items)], scores[row, valid])


@pytest.mark.parametrize("width", [1, 3, 10])
def test_a_narrow_beam_gives_distinct_items_in_order_with_their_exact_scores(width):
    given, items = tables(), catalog()
    found = beam_search(TableWriter(given), Trie.of(items), width, ROWS)
    assert found.items.shape == (ROWS, width)
    assert all(len(set(row)) == width and min(row) >= 0 for row in found.items.tolist())
    exact = score_tuples(TableWriter(given), items[found.items])
    torch.testing.assert_close(found.scores, exact)
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()


def test_a_greedy_beam_takes_the_best_child_each_time():
    given, items = tables(), catalog()
    found = beam_search(TableWriter(given), Trie.of(items), 1, ROWS)
    for row in range(ROWS):
        left, prefix = items.tolist(), 0
        for level in range(LEVELS):
            children = sorted({each[level] for each in left})
            best = max(children, key=lambda code: float(given[level][row, prefix, code]))
            left = [each for each in left if each[level] == best]
            prefix = prefix * SIZE + best
        assert items[found.items[row, 0]].tolist() == left[0]


def test_all_scores_and_chosen_scores_are_the_exhaustive_ones():
    given, items = tables(), catalog()
    expected = exhaustive(given)[:, (items * torch.tensor([16, 4, 1])).sum(1)]
    trie = Trie.of(items)
    walked = torch.empty(ROWS, len(items))
    walked[:, trie.items] = score_all(TableWriter(given), trie, ROWS)
    torch.testing.assert_close(walked, expected)
    chosen = score_tuples(TableWriter(given), items.expand(ROWS, -1, -1))
    torch.testing.assert_close(chosen, expected)


def slow_beams(
    given: list[torch.Tensor], row: int, items: torch.Tensor, width: int, banned: set[int]
) -> list[tuple[int, float]]:
    """Items and scores of one row's beam, a prefix and a code at a time."""
    left = {tuple(each): item for item, each in enumerate(items.tolist()) if item not in banned}
    beam: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for level in range(LEVELS):
        longer = []
        for prefix, score in beam:
            number = sum(code * SIZE**place for place, code in enumerate(reversed(prefix)))
            for code in range(SIZE):
                grown = (*prefix, code)
                if any(each[: level + 1] == grown for each in left):
                    longer.append((grown, score + float(given[level][row, number, code])))
        beam = sorted(longer, key=lambda each: -each[1])[:width]
    return [(left[prefix], score) for prefix, score in beam]


@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("n_banned", [0, 9, 19])
def test_a_beam_is_the_slow_one(width, n_banned):
    given, items, generator = tables(), catalog(), np.random.default_rng(4)
    trie = Trie.of(items)
    banned = np.stack([generator.permutation(23)[:n_banned] for _ in range(ROWS)])
    closed = trie.closed_to(np.repeat(np.arange(ROWS), n_banned), banned.flatten())
    found = beam_search(TableWriter(given), trie, width, ROWS, closed)
    for row in range(ROWS):
        expected = slow_beams(given, row, items, width, set(banned[row].tolist()))
        got = [item for item in found.items[row].tolist() if item >= 0]
        assert got == [item for item, _ in expected]
        scores = torch.tensor([score for _, score in expected])
        torch.testing.assert_close(found.scores[row, : len(got)], scores)


@pytest.mark.parametrize("width", [4, 64])
def test_excluded_items_leave_their_places_to_the_next(width):
    given, items = tables(), catalog()
    generator = np.random.default_rng(3)
    banned = [generator.permutation(23)[:19].tolist() for _ in range(ROWS)]
    trie = Trie.of(items)
    closed = trie.closed_to(np.repeat(np.arange(ROWS), 19), np.array(banned).flatten())
    found = beam_search(TableWriter(given), trie, width, ROWS, closed)
    for row in range(ROWS):
        got = [item for item in found.items[row].tolist() if item >= 0]
        assert sorted(got) == sorted(set(range(23)) - set(banned[row]))
    assert (found.scores[found.items < 0] == -torch.inf).all()


def test_who_may_have_nothing_gets_nothing():
    given, items = tables(1), catalog()
    trie = Trie.of(items)
    closed = trie.closed_to(np.zeros(23, np.int64), np.arange(23))
    found = beam_search(TableWriter(given), trie, 4, 1, closed)
    assert (found.items == -1).all()
    assert (found.scores == -torch.inf).all()


def test_a_row_gets_the_same_beam_alone():
    given, items = tables(), catalog()
    trie = Trie.of(items)
    together = beam_search(TableWriter(given), trie, 5, ROWS)
    for row in range(ROWS):
        alone = beam_search(TableWriter([table[[row]] for table in given]), trie, 5, 1)
        assert alone.items[0].tolist() == together.items[row].tolist()


def test_equal_scores_come_in_the_order_of_their_tuples():
    items = catalog()
    found = beam_search(TableWriter(tables(2, flat=True)), Trie.of(items), 6, 2)
    ordered = sorted(range(len(items)), key=lambda item: items[item].tolist())
    assert found.items.tolist() == [ordered[:6]] * 2
