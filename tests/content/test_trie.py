"""The trie: children, paths, and what exclusions close."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.content.trie import Trie

TUPLES = torch.tensor(
    [
        [1, 0, 2],
        [0, 3, 0],
        [1, 0, 0],
        [1, 2, 1],
        [0, 3, 1],
    ]
)


def random_tuples(n_items: int = 60, size: int = 5, levels: int = 3) -> torch.Tensor:
    every = np.stack(np.meshgrid(*[np.arange(size)] * levels), -1).reshape(-1, levels)
    chosen = np.random.default_rng(0).permutation(len(every))[:n_items]
    return torch.from_numpy(every[chosen])


def walked(trie: Trie, prefix: tuple[int, ...]) -> int | None:
    """The node of a prefix, one child after the other; `None` where the trie has none."""
    node = 0
    for depth, code in enumerate(prefix):
        found = trie.children(depth, torch.tensor([[node]]))
        hits = ((found.codes[0, 0] == code) & (found.bias[0, 0] == 0)).nonzero()
        if not len(hits):
            return None
        parents, nodes, codes = found.chosen(hits)
        assert (int(parents), int(codes)) == (0, code)
        node = int(nodes)
    return node


def test_children_are_exactly_the_codes_that_follow():
    trie = Trie.of(TUPLES)
    assert [len(codes) for codes in trie.codes] == [2, 3, 5]
    found = trie.children(0, torch.tensor([[0]]))
    assert found.codes.tolist() == [[[0, 1]]]
    found = trie.children(1, torch.tensor([[0, 1, -1]]))  # prefixes 0 and 1, and no node
    valid = found.bias == 0
    assert valid.tolist() == [[[True, False], [True, True], [False, False]]]
    assert found.codes[valid].tolist() == [3, 0, 2]
    parents, nodes, codes = found.chosen(torch.tensor([[0, 2, 3]]))  # of 3 x 2 places
    assert parents.tolist() == [[0, 1, 1]]
    assert nodes.tolist() == [[0, 1, 2]]
    assert codes.tolist() == [[3, 0, 2]]


def test_one_node_of_many_children_among_many_of_one():
    many = torch.stack([torch.zeros(300, dtype=torch.int64), torch.arange(300)], 1)
    single = torch.stack([torch.arange(1, 400), torch.arange(1, 400)], 1)
    trie = Trie.of(torch.cat([many, single]))
    found = trie.children(1, torch.tensor([[7, 399], [-1, 1]]))
    assert found.codes.tolist() == [[[7], [399]], [[found.codes[1, 0, 0]], [1]]]
    assert (found.bias == 0).tolist() == [[[True], [True]], [[False], [True]]]
    found = trie.children(1, torch.tensor([[0, 5]]))
    assert found.codes[0, 0].tolist() == list(range(300))
    assert (found.bias == 0).sum(2).tolist() == [[300, 1]]
    assert found.chosen(torch.tensor([[299, 300]]))[1].tolist() == [[299, 304]]


def paths(trie: Trie) -> torch.Tensor:
    """[H, N] int64: the node at depth 1, ..., H above each leaf, from leaf to root."""
    nodes = [torch.arange(len(trie))]
    for parents in reversed(trie.parents[1:]):
        nodes.append(parents[nodes[-1]])
    return torch.stack(nodes[::-1])


def test_every_tuple_leads_to_its_item_and_nothing_else_does():
    tuples = random_tuples()
    trie = Trie.of(tuples)
    owned = {tuple(row): item for item, row in enumerate(tuples.tolist())}
    for prefix in np.ndindex(5, 5, 5):
        node = walked(trie, prefix)
        expected = owned.get(tuple(prefix))
        assert (None if node is None else int(trie.items[node])) == expected


def test_parents_lead_from_leaves_to_the_root():
    tuples = random_tuples()
    trie = Trie.of(tuples)
    above = paths(trie)
    for leaf in range(len(trie)):
        row = tuples[trie.items[leaf]].tolist()
        for depth in range(3):
            assert int(above[depth, leaf]) == walked(trie, tuple(row[: depth + 1]))


def test_some_items_alone_make_a_smaller_trie():
    items = torch.tensor([3, 0, 4])
    trie = Trie.of(TUPLES[items], items)
    assert sorted(trie.items.tolist()) == [0, 3, 4]
    assert trie.leaves_of(np.array([[3, 1]])).tolist() == [[trie.items.tolist().index(3), -1]]


def test_equal_tuples_are_refused():
    with pytest.raises(ValueError, match="same tuple"):
        Trie.of(torch.tensor([[0, 1], [0, 1]]))


def test_what_is_closed_is_what_has_no_other_item_behind_it():
    tuples = random_tuples(40, 4)
    trie = Trie.of(tuples)
    generator = np.random.default_rng(1)
    rows = np.repeat(np.arange(6), 12)
    items = generator.integers(0, 45, 72)  # some twice, some nobody's
    items[:40] = np.where(np.arange(40) < 38, np.arange(40), 0)
    rows[:40] = 0
    closed, above = trie.closed_to(rows, items), paths(trie)
    for depth in range(3):
        found = {
            (row, parent, place)
            for row, parent, place in zip(
                closed[depth].rows.tolist(),
                closed[depth].parents.tolist(),
                closed[depth].places.tolist(),
                strict=True,
            )
        }
        expected = set()
        for row in range(6):
            banned = set(items[rows == row].tolist())
            for node in range(len(trie.codes[depth])):
                behind = set(trie.items[above[depth] == node].tolist())
                if behind <= banned:
                    parent = int(trie.parents[depth][node])
                    expected.add((row, parent, node - int(trie.offsets[depth][parent])))
        assert found == expected


def test_shorter_sequences_end_with_a_code_of_their_own():
    end = 9
    trie = Trie.of(torch.tensor([[4, end, end], [4, 5, end], [4, 5, 6]]))
    assert walked(trie, (4, end, end)) is not None
    assert walked(trie, (4, 5)) is not None
    assert walked(trie, (4, end, 6)) is None
