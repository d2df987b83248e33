"""Raw ids to codes and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import Vocabulary
from tastemaker.errors import DataError

IDS = st.one_of(
    st.lists(st.text(max_size=8), min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
)


@settings(deadline=None)
@given(IDS)
def test_codes_follow_first_appearance_and_come_back(raw: list[str] | list[int]) -> None:
    vocabulary = Vocabulary.build(raw)
    assert vocabulary.ids.to_pylist() == list(dict.fromkeys(raw))
    assert vocabulary.decode(vocabulary.encode(raw)).to_pylist() == raw


@settings(deadline=None)
@given(IDS, st.integers(0, 2000))
def test_few_and_many_ids_are_found_alike(raw: list[str] | list[int], repeats: int) -> None:
    vocabulary = Vocabulary.build(raw[: len(raw) // 2 + 1])
    asked = list(raw) * (repeats // len(raw) + 1)
    few = np.concatenate([vocabulary.encode([one]) for one in raw])
    assert np.array_equal(vocabulary.encode(asked), np.tile(few, repeats // len(raw) + 1))


def test_text_keeps_its_spelling() -> None:
    raw = ["007", "7", " 7", 'say "x"', "a,b", "naïve", "名前", "", "NA", "null", "a\nb"]
    vocabulary = Vocabulary.build(raw)
    assert vocabulary.encode(raw).tolist() == list(range(len(raw)))
    assert vocabulary.encode(["07", "8"]).tolist() == [-1, -1]
    assert vocabulary.raw(0) == "007"


def test_integers_stay_integers_and_are_found_as_text() -> None:
    vocabulary = Vocabulary.build(np.array([17, 4, 17, -3], np.int16))
    assert vocabulary.ids.type == pa.int64()
    assert vocabulary.raw(0) == 17
    assert vocabulary.encode(["17", "-3", "017", "x"]).tolist() == [0, 2, -1, -1]
    assert vocabulary.encode(["17"] * 5000).tolist() == [0] * 5000
    assert Vocabulary.build(["17", "4"]).encode([4, 17, 5]).tolist() == [1, 0, -1]
    assert Vocabulary.build(["17", "4"]).encode(np.array([4] * 5000)).tolist() == [1] * 5000


def test_nulls_are_unknown() -> None:
    vocabulary = Vocabulary.build(["None", "nan"])
    assert vocabulary.encode([None, "nan"]).tolist() == [-1, 1]
    assert vocabulary.encode([None, "nan"] * 2000).tolist() == [-1, 1] * 2000
    assert vocabulary.decode([0, -1]).to_pylist() == ["None", None]


def test_other_types_of_ids() -> None:
    assert Vocabulary.build(pa.array([2**63 + 1, 5], pa.uint64())).raw(0) == str(2**63 + 1)
    assert Vocabulary.build(pa.array([5, 6], pa.uint64())).raw(0) == 5
    assert Vocabulary.build([1.0, float("nan"), 3.0]).ids.to_pylist() == [1, 3]
    assert Vocabulary.build(pa.array(["b", "a", "b"]).dictionary_encode()).raw(0) == "b"


def test_refusals() -> None:
    vocabulary = Vocabulary.build(["a", "b"])
    with pytest.raises(TypeError, match=r"\['ab'\]"):
        vocabulary.encode("ab")
    with pytest.raises(IndexError, match="code 2 is outside a vocabulary of 2 ids"):
        vocabulary.decode([2])
    with pytest.raises(IndexError, match="code -1"):
        vocabulary.raw(-1)
    with pytest.raises(DataError, match="ids are integers or text"):
        Vocabulary.build([1.5])
    with pytest.raises(DataError, match="ids are integers or text"):
        Vocabulary.build(["a", 1])


def test_take_and_equality() -> None:
    vocabulary = Vocabulary.build(["a", "b", "c"])
    assert vocabulary.take(np.array([2, 0])) == Vocabulary.build(["c", "a"])
    assert vocabulary != Vocabulary.build(["a", "c", "b"])
    assert repr(vocabulary) == "Vocabulary(3 ids: 'a', 'b', 'c')"
