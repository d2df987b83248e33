"""Requests become queries, filters become lists: raw ids in, codes out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

from tastemaker.data import Dataset
from tastemaker.data.schema import Kind
from tastemaker.errors import ConfigError, RunError
from tastemaker.serving.filters import Filters, ItemAttributes
from tastemaker.serving.store import Event


def raw(loaded, answer):
    return loaded.dataset.item_ids.decode(answer.items).to_pylist()


def test_a_known_user_is_answered_from_everything_known(loaded):
    run = loaded["ease"]
    asked = run.ask("u3", None)
    rows = slice(*run.dataset.user_offsets[[3, 4]])
    assert asked.items.tolist() == run.dataset.column("item")[rows].tolist()
    assert asked.user == -1  # validation and test events came after training
    assert asked.basis.startswith("the user's history of")


def test_an_event_is_part_of_the_next_history(loaded):
    run = loaded["sasrec"]
    before = run.ask("u3", None)
    after = run.ask("u3", None, [Event("e1", "u3", "i7", 2e9), Event("e2", "u3", "none", 2e9)])
    code = int(run.dataset.item_ids.encode(["i7"])[0])
    assert after.items.tolist() == [*before.items.tolist(), code]
    assert after.columns["timestamp"][-1] == 2e9
    assert after.ignored == ("none",)
    assert "1 of them since training" in after.basis
    first, second = run.answer([before, after], 5, Filters())
    assert not np.array_equal(first.scores, second.scores)


def test_a_given_history_is_of_events_that_were_no_dislikes(loaded):
    run = loaded["sasrec"]
    given, known = run.ask(None, ["i1", "i2"]), run.ask("u3", None)
    labels = run.queries([given, known]).histories.columns["label"]
    assert labels[:2].tolist() == [1.0, 1.0]
    assert labels[2:].tolist() == known.columns["label"].tolist()


@pytest.mark.parametrize(
    ("user", "history", "basis"),
    [
        ("nobody", None, "no history: the user is unknown"),
        (None, None, "no history"),
        (None, [], "no history"),
        ("u1", ["i1", "i2"], "the given history of 2 events"),
        (None, ["what"], "no history: none of the given items is known"),
    ],
)
def test_the_basis_says_what_an_answer_rests_on(loaded, user, history, basis):
    asked = loaded["sasrec"].ask(user, history)
    assert asked.basis == basis
    (found,) = loaded["sasrec"].answer([asked], 5, Filters())
    assert len(found.items) == 5


def test_a_batch_answers_as_single_requests_do(loaded):
    run = loaded["sasrec"]
    asked = [run.ask(f"u{number}", None) for number in range(5)] + [run.ask(None, ["i1"])]
    together = run.answer(asked, 5, Filters())
    for one, answer in zip(asked, together, strict=True):
        (alone,) = run.answer([one], 5, Filters())
        assert alone.items.tolist() == answer.items.tolist()


def test_filters_hold(loaded):
    run = loaded["ease"]
    asked = run.ask(None, ["i1", "i2"])
    (plain,) = run.answer([asked], 40, Filters())
    assert not {"i1", "i2"} & set(raw(run, plain))
    (seen,) = run.answer([asked], 40, Filters(include_seen=True))
    assert {"i1", "i2"} <= set(raw(run, seen))
    some = Filters(allow=("i5", "i6", "i1", "unknown"), exclude=("i6",))
    (few,) = run.answer([asked], 10, some)
    assert raw(run, few) == ["i5"]
    (none,) = run.answer([asked], 10, Filters(allow=()))
    assert not len(none.items)
    (ring,) = run.answer([asked], 40, Filters(where={"ring": "ring 2"}))
    assert set(raw(run, ring)) == {f"i{code}" for code in range(20, 30)}


def test_caps_give_the_best_list_under_them(loaded):
    run = loaded["ease"]
    asked = run.ask(None, ["i1", "i2"])
    (whole,) = run.answer([asked], 40, Filters())
    rings = run.dataset.items.column("ring").to_pylist()
    expected, count = [], {}
    for item in whole.items.tolist():
        if count.get(rings[item], 0) < 2:
            count[rings[item]] = count.get(rings[item], 0) + 1
            expected.append(item)
    (capped,) = run.answer([asked], 6, Filters(caps={"ring": 2}))
    assert capped.items.tolist() == expected[:6]
    (short,) = run.answer([asked], 40, Filters(caps={"ring": 2}))
    assert short.items.tolist() == expected


@pytest.fixture(scope="module")
def shop():
    """Four items with a category, several tags and a price, one of each missing."""
    items = pl.DataFrame(
        {
            "item": ["a", "b", "c", "d"],
            "kind": ["book", "film", None, "book"],
            "tags": [["x", "y"], ["y"], [], ["z"]],
            "price": [5.0, 10.0, 20.0, None],
        }
    )
    log = pl.DataFrame({"user": [1, 1, 2, 2], "item": ["a", "b", "c", "d"]})
    dataset = Dataset.from_frame(
        log, user="user", item="item", items=items, item_id="item", name="shop"
    )
    kinds = {**dataset.schema.items, "kind": Kind.CATEGORICAL}  # so few values pass for texts
    schema = dataclasses.replace(dataset.schema, items=kinds)
    return ItemAttributes(dataclasses.replace(dataset, schema=schema))


@pytest.mark.parametrize(
    ("where", "codes"),
    [
        ({"kind": "book"}, [0, 3]),
        ({"kind": ["book", "film"]}, [0, 1, 3]),
        ({"kind": {"in": ["film"]}}, [1]),
        ({"tags": "y"}, [0, 1]),
        ({"price": {"min": 6}}, [1, 2]),
        ({"price": {"min": 5, "max": 10}}, [0, 1]),
        ({"kind": "book", "price": {"max": 7}}, [0]),
        ({"kind": "no such"}, []),
    ],
)
def test_conditions_are_about_attributes(shop, where, codes):
    filters = Filters(where=where)
    shop.check(filters)
    assert shop.allowed(filters).tolist() == codes


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(where={"knd": "book"}), "no attribute 'knd'.*did you mean 'kind'"),
        (Filters(where={"kind": {"min": 3}}), "bounds are numbers"),
        (Filters(where={"price": {"min": "a"}}), "bounds are numbers"),
        (Filters(where={"price": {"over": 3}}), "give a value, a list of values"),
        (Filters(where={"price": ["cheap"]}), "no double values"),
        (Filters(where={"kind": {}}), "give a value, a list of values"),
        (Filters(caps={"kind": 0}), "at least 1"),
        (Filters(caps={"price": 1}), "is a number; caps are for categories"),
    ],
)
def test_wrong_conditions_are_explained(shop, filters, message):
    with pytest.raises(ConfigError, match=message):
        shop.check(filters)


def test_an_item_of_several_values_counts_for_each(shop):
    assert shop.capped(np.array([0, 1, 2, 3]), {"tags": 1}, 4) == [0, 2, 3]


def test_a_golden_request_must_be_answered_as_it_says(loaded, tmp_path):
    run = loaded["ease"]
    (found,) = run.answer([run.ask(None, ["i1"])], 3, Filters())
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"history": ["i1"], "items": raw(run, found)}))
    run.check(golden)
    golden.write_text(json.dumps({"history": ["i1"], "items": ["i39"], "k": 2}))
    with pytest.raises(RunError, match="fails the golden request"):
        run.check(golden)
    golden.write_text("[]")
    with pytest.raises(RunError, match="no golden request"):
        run.check(golden)
