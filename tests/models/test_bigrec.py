"""BIGRec: what is learned, what is written, how it is grounded, and what a run keeps."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.models.language.bigrec import BIGRec
from tastemaker.training import fit

pytest.importorskip("transformers")

TITLES = ["Alien", "Brazil", "Cube", "Dune", "Alien"]
SMALL = {
    "language_model": "tiny-random",
    "wrapper": "plain",
    "words": "films",
    "precision": "float32",
    "max_title_tokens": 8,
    "lora_dropout": 0.0,
}
QUERIES = Queries.from_histories([[0, 1], [], [3], [2, 1, 0, 3]])


def films(*histories: list[int], titles: list[str] = TITLES) -> TrainingSet:
    """A log of films; every film is seen once by the first user before its other events."""
    rows = [list(range(len(titles))), *histories]
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    names = [f"f{code}" for code in range(len(titles))]
    dataset = Dataset.from_frame(
        pl.DataFrame(
            {
                "user": users,
                "item": [names[code] for row in rows for code in row],
                "at": np.arange(len(users)),
            }
        ),
        user="user",
        item="item",
        order="at",
        items=pl.DataFrame({"item": names, "title": titles}),
        item_id="item",
        title="title",
        name="films",
    )
    return TrainingSet.whole(dataset)


def built(data: TrainingSet | None = None, **settings) -> BIGRec:
    data = data or films()
    model = BIGRec.create({**SMALL, **settings}, data.dataset).eval()
    for stage in model.stages(data)[:2]:
        stage.apply(stage.compute())
    return model


def batch_of(model: BIGRec, data: TrainingSet):
    batches = model.stages(data)[2].objectives[0].batches
    return batches.gather(np.arange(len(batches.samples)), np.random.default_rng(0))


def test_an_exact_title_comes_first_and_duplicates_share_its_place():
    model = built()
    distances = model.ground(["Dune", "Alien", "no film"])
    assert distances.shape == (3, 5)
    assert distances[0].argmin() == 3
    assert distances[0, 3] == distances[1, 0] == distances[1, 4] == 0
    assert distances[2].min() > 0


def test_vectors_are_last_states_of_the_untuned_model():
    model = built()
    before = model.ground(["no film"])
    for adapter in model.adapters.values():
        torch.nn.init.normal_(adapter.up)
    torch.testing.assert_close(model.ground(["no film"]), before, rtol=0, atol=0)
    tokens = torch.tensor([model.language.tokenizer("Brazil")["input_ids"]])
    tuned = model.language.states(tokens, tokens >= 0)[0, -1]
    assert (tuned - model.title_vectors[1]).abs().max() > 0.01


def test_a_generated_title_decides_the_ranking(monkeypatch):
    model = built()
    monkeypatch.setattr(model, "write", lambda queries: ["Cube", "Dune", "Brazil", "Cube"])
    assert model.score(QUERIES).argmax(1).tolist() == [2, 3, 1, 2]
    chosen = torch.tensor([[0, 2], [3, 1], [1, 1], [4, 0]])
    scores = model.score(QUERIES)
    torch.testing.assert_close(model.score(QUERIES, chosen), scores.gather(1, chosen))


def test_popularity_moves_the_ranking_only_as_far_as_it_weighs(monkeypatch):
    data = films([2, 1], [1, 3], [1, 2])
    plain, popular = built(data), built(data, popularity_weight=99.0)
    assert popular.popularity.tolist() == [1, 4, 3, 2, 1]
    for model in (plain, popular):
        monkeypatch.setattr(model, "write", lambda queries: ["no film"] * len(queries))
    torch.testing.assert_close(
        plain.score(QUERIES).argsort(), (-plain.ground(["no film"] * 4)).argsort()
    )
    assert popular.recommend(QUERIES, 3).items[0].tolist() == [1, 2, 3]


def test_the_loss_is_the_cross_entropy_of_the_language_model():
    data = films([0, 1, 2], [3, 1])
    model = built(data)
    batch = batch_of(model, data)
    network = model.language.network
    places = torch.arange(batch["tokens"].shape[1])
    valid = places < batch["lengths"][:, None]
    logits = network(batch["tokens"], attention_mask=valid.long()).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, batch["tokens"][:, 1:], reduction="none")
    answers = valid[:, 1:] & (places[1:] >= batch["prompt_lengths"][:, None])
    for whole, mask in ((True, valid[:, 1:]), (False, answers)):
        loss = built(data, train_on_prompt=whole).loss(batch)
        torch.testing.assert_close(loss.value, losses[mask].mean())
        assert loss.weight == mask.sum()
    ends = batch["tokens"][:, 1:][answers] == model.language.tokenizer.eos_token_id
    assert ends.sum() == len(batch)  # every answer's end is learned


def test_examples_are_prompts_with_their_answers():
    data = films([3, 1])
    model = built(data)
    batch = batch_of(model, data)
    texts = [
        model.language.tokenizer.decode(row[:length])
        for row, length in zip(batch["tokens"], batch["lengths"], strict=True)
    ]
    assert len(texts) == 5
    assert texts[-1].endswith('Films: "Dune"\n"Brazil"</s>')
    assert texts[1].endswith('Films: "Alien", "Brazil"\n"Cube"</s>')


def test_only_as_many_examples_as_asked_for_are_drawn_and_drawn_alike():
    data = films(*[[0, 1, 2, 3]] * 20)
    chosen = [
        model.stages(data)[2].objectives[0].batches.samples
        for model in (built(data, training_samples=7), built(data, training_samples=7))
    ]
    assert len(chosen[0]) == 7
    np.testing.assert_array_equal(*chosen)
    other = built(data, training_samples=7, sample_seed=1)
    assert list(other.stages(data)[2].objectives[0].batches.samples) != list(chosen[0])


def test_long_titles_are_cut_alike_everywhere():
    model = built(films(titles=["A very long title", 'He said "no"', "Cube"]))
    assert model.titles == ["A very l", "He said", "Cube"]
    assert model.ground(["A very l"]).argmin() == 0


def test_a_stored_state_holds_no_language_model():
    model = built()
    state = model.state()
    tensors = sum(value.numel() for value in state.values())
    weights = sum(value.numel() for value in model.language.network.parameters())
    adapters = sum(value.numel() for value in model.adapters.parameters())
    assert tensors == adapters + 5 * 64 + 5
    assert not any("embed_tokens" in name for name in state)
    assert adapters < weights / 10


def test_memorised_examples_are_written_word_for_word(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path))
    data = films(*[[0, 1], [1, 2], [2, 3]] * 2)
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    model = BIGRec.create(
        {
            **SMALL,
            "lora_targets": every,
            "lora_rank": 16,
            "train_on_prompt": False,
            "epochs": 60,
            "batch_size": 5,
            "learning_rate": 1e-2,
        },
        data.dataset,
    )
    queries = Queries.from_histories([[0], [1], [2]])
    untuned = sum(title in TITLES for title in model.eval().write(queries))
    fit(model, data, device="cpu")
    written = model.write(queries)
    assert untuned == 0
    assert written == ["Brazil", "Cube", "Dune"]
    found = model.recommend(queries, 1).items[:, 0]
    assert found.tolist() == [1, 2, 3]
