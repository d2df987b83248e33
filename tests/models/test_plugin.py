"""Plug-ins: the base is built as it is alone, checked, and asked."""

from __future__ import annotations

import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.models.base import settings
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.models.collaborative.factors import PairwiseFactors
from tastemaker.models.plugin import Plugin, PluginConfig
from tests.models.sequences import random_log


class Plain(Plugin):
    """Trains the base as the base trains itself."""

    @settings
    class Config(PluginConfig):
        base: str = "bpr-mf"

    requires = PairwiseFactors

    def stages(self, data):
        return self.base.stages(data)


def test_the_base_begins_as_it_does_alone():
    dataset = random_log().dataset
    plugin = Plain.create({"base_settings": {"hidden_size": 8}}, dataset, seed=3)
    alone = BPRMF.create({"hidden_size": 8}, dataset, seed=3)
    assert torch.equal(plugin.base.item_embedding.weight, alone.item_embedding.weight)


def test_answers_are_those_of_the_base():
    plugin = Plain.create({}, random_log().dataset).eval()
    queries = Queries.from_histories([[1, 2], []])
    assert torch.equal(plugin.score(queries), plugin.base.score(queries))
    assert torch.equal(plugin.recommend(queries, 3).items, plugin.base.recommend(queries, 3).items)


def test_presets_of_the_base_can_be_named():
    plugin = Plain.create({"base_settings": {"preset": "ml-100k"}}, random_log().dataset)
    assert plugin.base.config.learning_rate == BPRMF.presets["ml-100k"]["learning_rate"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "popularity"}, "'popularity' is no PairwiseFactors, which Plain needs"),
        ({"base": "bpr-mff"}, "unknown model 'bpr-mff'"),
        ({"base_settings": {"hiden_size": 8}}, "did you mean 'hidden_size'"),
    ],
)
def test_a_wrong_base_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Plain.create(given, random_log().dataset)
