from __future__ import annotations

import numpy as np
import pyarrow as pa

from tastemaker.data.knowledge import CollaborativeGraph, KnowledgeGraph


def knowledge() -> KnowledgeGraph:
    """Entities a, b, c, d, e in this order; relations "by" 0 and "in" 1; four items.

    Item 0 is entity a, item 1 nothing that is known, items 2 and 3 both are entity c.
    """
    return KnowledgeGraph.build(
        pa.array(["a", "a", "b", "c"]),
        pa.array(["by", "in", "by", "in"]),
        pa.array(["b", "d", "e", "d"]),
        pa.array(["a", None, "c", "c"]),
    )


def edges(graph: CollaborativeGraph) -> set[tuple[int, int, int]]:
    columns = (graph.heads, graph.relations, graph.tails)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_edges_are_interactions_and_triples_with_their_inverses():
    #            user 0 took items 0 and 1 (twice), user 1 took item 3
    users, items = np.array([0, 0, 1, 0]), np.array([0, 1, 3, 1])
    graph = CollaborativeGraph.build(users, items, 3, 4, knowledge())
    # nodes: users 0 1 2, items 3 4 5 6, then entities b, d, e
    assert (graph.n_users, graph.n_items, graph.n_nodes, graph.n_relations) == (3, 4, 10, 6)
    b, d, e = 7, 8, 9
    forward = {
        (0, 0, 3),
        (0, 0, 4),
        (1, 0, 6),
        (3, 1, b),  # a by b
        (3, 2, d),  # a in d
        (b, 1, e),  # b by e
        (5, 2, d),  # c in d, for each of the two items that are c
        (6, 2, d),
    }
    assert edges(graph) == forward | {(tail, 3 + kind, head) for head, kind, tail in forward}
    assert len(graph) == 16
    keys = (graph.heads * 6 + graph.relations) * 10 + graph.tails
    assert (np.diff(keys) > 0).all()


def test_interactions_alone():
    graph = CollaborativeGraph.build(np.array([0, 1]), np.array([1, 1]), 2, 2, None)
    assert edges(graph) == {(0, 0, 3), (1, 0, 3), (3, 1, 0), (3, 1, 1)}
    assert (graph.n_nodes, graph.n_relations) == (4, 2)


def test_a_triple_between_shared_entities_is_repeated_for_all_pairs_of_items():
    graph = KnowledgeGraph.build(
        pa.array(["c"]), pa.array(["after"]), pa.array(["a"]), pa.array(["a", "c", "c", "a"])
    )
    heads, relations, tails = graph.item_triples()
    assert sorted(zip(heads.tolist(), tails.tolist(), strict=True)) == [
        (1, 0),
        (1, 3),
        (2, 0),
        (2, 3),
    ]
    assert relations.tolist() == [0, 0, 0, 0]
    assert len(graph.others) == 0


def test_rare_entities_go_and_items_stay():
    #                   d is in two triples, b in two, e in one
    kept = knowledge().without_rare(2)
    assert kept.entities.ids.to_pylist() == ["a", "b", "c", "d"]
    assert kept.n_relations == 2
    assert sorted(zip(kept.heads.tolist(), kept.tails.tolist(), strict=True)) == [
        (0, 1),
        (0, 3),
        (2, 3),
    ]
    assert kept.item_entities.tolist() == [0, -1, 2, 2]
    assert kept.entities.ids.take(pa.array(kept.others)).to_pylist() == ["b", "d"]
    assert knowledge().without_rare(1).n_triples == 4


def test_items_whose_triples_all_went_are_no_longer_linked():
    kept = knowledge().without_rare(3)  # leaves nothing: every triple needs b, d or e
    assert kept.n_triples == 0
    assert kept.item_entities.tolist() == [-1, -1, -1, -1]
    graph = CollaborativeGraph.build(np.array([0]), np.array([1]), 1, 4, kept)
    assert edges(graph) == {(0, 0, 2), (2, 3, 0)}
