"""DIN: the published parameter count, attention by its equation, and what is in a history."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.models.ranking.din import DIN
from tests.models.clicks import asked, histories_log, listing, n_parameters, shaken


def small(**settings) -> DIN:
    data = histories_log([[0, 1, 2], [3, 4], [5, 6, 7, 8]], 9)
    defaults = {"hidden_size": 4, "hidden_sizes": (6,), "attention_sizes": (5, 3)}
    model = DIN.create({"fields": ("item",), **defaults, **settings}, data.dataset)
    model.stages(data)
    shaken(model)
    return model.eval()


def test_published_parameter_count():
    """Amazon Electronics: 63,003 items and 803 categories, users not among the fields."""
    items = pl.DataFrame({"item": np.arange(63_001), "category": np.arange(63_001) % 801})
    dataset = listing(
        2, 63_001, {}, items=items, item_id="item", item_columns={"category": "categorical"}
    )
    settings = {
        "fields": ("item", "item.category"),
        "hidden_size": 64,
        "attention_sizes": (512, 256),
        "hidden_sizes": (1024, 512, 256),
        "batch_norm": True,
    }
    assert n_parameters(DIN.create(settings, dataset)) == 5_403_522


def test_logits_are_the_equations_of_the_paper():
    for softmax, product in itertools.product((True, False), (True, False)):
        model = small(softmax=softmax, product=product)
        histories = [[0, 1, 2], [3], [], [8, 8]]
        candidates = torch.tensor([[1, 4], [3, 0], [2, 2], [5, 8]])
        with torch.no_grad():
            found = model.logits(asked(histories, model, 5), candidates)
            vectors = model.embed_items(torch.arange(10))[:, 0]
            for row, column in itertools.product(range(4), range(2)):
                target = vectors[candidates[row, column]]
                seen = vectors[histories[row]]
                pairs = [torch.cat([target, key, target - key, target * key]) for key in seen]
                interest = torch.zeros(4)
                if pairs:
                    weights = model.interest.scorer(torch.stack(pairs)).squeeze(-1)
                    weights = torch.softmax(weights, 0) if softmax else weights
                    interest = weights @ seen
                parts = [interest, target] + ([interest * target] if product else [])
                expected = model.deep(torch.cat(parts))[0]
                torch.testing.assert_close(found[row, column], expected, rtol=1e-4, atol=1e-5)


def test_histories_are_what_was_liked_and_the_most_recent():
    model = small(max_length=2)
    queries = Queries.from_histories([[0, 1, 2], [1, 2], [2, 1]])
    scores = model.score(queries)
    torch.testing.assert_close(scores[0], scores[1])
    told = Queries.from_histories([[1, 4, 2], [4, 4, 4]])
    told.histories.columns["label"] = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0])  # type: ignore[index]
    bare = Queries.from_histories([[1, 2], []])
    torch.testing.assert_close(model.score(told), model.score(bare))
    torch.testing.assert_close(scores[1], scores[2])  # attention knows no order


def test_items_without_fields_are_refused():
    with pytest.raises(ConfigError, match=r"'fields': DIN compares items.*add 'item'"):
        small(fields=("user",))


def test_padding_changes_nothing():
    model = small()
    histories = [[0, 1, 2], [3], []]
    candidates = torch.tensor([[1], [3], [2]])
    with torch.no_grad():
        short, long = (model.logits(asked(histories, model, width), candidates) for width in (3, 9))
    torch.testing.assert_close(short, long)
