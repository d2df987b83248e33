"""Semantic ids: digits, the way there and back, growth, and how codes are measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tastemaker.content.semantic_ids import SemanticIds, report_on
from tastemaker.errors import ConfigError

CODES = np.array(
    [
        [0, 1],
        [2, 2],  # shared with items 3 and 5
        [1, 1],
        [2, 2],
        [0, 0],
        [2, 2],
    ]
)


def test_digits_number_the_items_of_a_tuple_and_are_0_for_an_item_of_its_own():
    found = SemanticIds.of(CODES, 3, digits=4)
    np.testing.assert_array_equal(found.codes[:, 2], [0, 1, 0, 2, 0, 3])
    np.testing.assert_array_equal(found.codes[:, :2], CODES)
    assert found.sizes == (3, 3, 4)


def test_items_to_tuples_to_items_is_the_identity():
    codes = np.random.default_rng(0).integers(0, 4, (200, 3))
    found = SemanticIds.of(codes, 4, digits=40)
    assert len(np.unique(found.codes, axis=0)) == 200
    np.testing.assert_array_equal(found.items_of(found.codes), np.arange(200))
    shuffled = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(found.items_of(found.codes[shuffled]), shuffled)


def test_a_tuple_of_nobody_has_no_item():
    found = SemanticIds.of(CODES, 3, digits=4)
    asked = np.array([[2, 2, 0], [2, 2, 3], [1, 0, 0]])
    np.testing.assert_array_equal(found.items_of(asked), [-1, 5, -1])


def test_new_items_leave_the_old_tuples_alone():
    found = SemanticIds.of(CODES, 3, digits=6)
    grown = found.extended(np.array([[2, 2], [0, 2], [2, 2], [0, 1]]))
    np.testing.assert_array_equal(grown.codes[:6], found.codes)
    np.testing.assert_array_equal(grown.codes[6:], [[2, 2, 4], [0, 2, 0], [2, 2, 5], [0, 1, 1]])


def test_too_few_digits_are_refused_with_what_would_do():
    with pytest.raises(ConfigError, match=r"3 items share one tuple.*num_digits to 4"):
        SemanticIds.of(CODES, 3, digits=3)
    found = SemanticIds.of(CODES, 3, digits=4)
    with pytest.raises(ConfigError, match="tokenise the catalog anew"):
        found.extended(np.array([[2, 2]]))


def test_equal_tuples_and_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="same tuple"):
        SemanticIds(np.array([[0, 0], [0, 0]]), (1, 1))
    with pytest.raises(ValueError, match="leave their columns"):
        SemanticIds(np.array([[0, 3]]), (2, 3))


def test_report_counts_collisions_and_use():
    vectors = np.eye(6, dtype=np.float32)
    report = report_on(CODES, 4, vectors)
    assert report.collision_rate == pytest.approx(2 / 6)  # 4 distinct tuples of 6
    assert report.colliding == pytest.approx(3 / 6)
    assert report.largest_group == 3
    assert report.utilisation == (0.75, 0.75)
    shares = np.array([2, 1, 3]) / 6
    assert report.perplexity[0] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert "collisions 0.3333 (largest group 3)" in str(report)


def test_even_codes_have_the_perplexity_of_the_codebook():
    codes = np.arange(32)[:, None] % 8
    assert report_on(codes, 8, np.eye(32, dtype=np.float32)).perplexity[0] == pytest.approx(8)


def test_coherence_is_the_mean_cosine_of_pairs_of_one_prefix():
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for level, found in enumerate(report_on(CODES, 3, vectors).coherence):
        prefixes = [tuple(row[: level + 1]) for row in CODES]
        cosines = [
            unit[a] @ unit[b] for a in range(6) for b in range(a) if prefixes[a] == prefixes[b]
        ]
        assert found == pytest.approx(np.mean(cosines), rel=1e-4)
