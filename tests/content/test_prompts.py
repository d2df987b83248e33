"""Prompts: words and tokens agree, and what does not fit loses its oldest titles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.content.pretrained import load_language_model
from tastemaker.content.prompts import (
    HistoryPrompt,
    TitlePrompts,
    alpaca,
    bare_title,
    joined,
    quoted,
)
from tastemaker.data import Ragged
from tastemaker.errors import ConfigError

TITLES = ["Alien", 'The "Thing"', "Cube\n 2"]
HISTORIES = [[0, 1, 2], [], [1], [2, 2, 0, 2]]


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return load_language_model(None, torch.float32, "tests")[0]


def prompt(wrapper: str = "alpaca") -> HistoryPrompt:
    return HistoryPrompt("Recommend a film.", "Watched: ", "Nothing watched.", wrapper)


def test_the_alpaca_form_ends_with_the_response_marker():
    text = prompt().text(["Alien", "Cube"])
    assert text == alpaca("Recommend a film.", 'Watched: "Alien", "Cube"')
    assert text.endswith("### Response:\n")
    assert "### Input:\nNothing watched.\n" in prompt().text([])


def test_titles_survive_quoting():
    assert quoted('The  "Thing"\n') == "\"The 'Thing' \"".replace(' "', '"')
    for title in TITLES:
        assert bare_title(quoted(title) + "\nand more") == quoted(title)[1:-1]
    assert bare_title("") == bare_title("\n") == ""


@pytest.mark.parametrize("wrapper", ["alpaca", "plain"])
def test_tokens_are_those_of_the_words(tokenizer, wrapper):
    prompts = TitlePrompts.of(prompt(wrapper), TITLES, tokenizer)
    rendered = prompts.render(Ragged.from_lists(HISTORIES), budget=10_000)
    assert len(rendered) == len(HISTORIES)
    for row, history in enumerate(HISTORIES):
        expected = prompt(wrapper).text([TITLES[item] for item in history])
        assert tokenizer.decode(rendered.row(row)) == expected


def test_answers_are_quoted_and_end(tokenizer):
    prompts = TitlePrompts.of(prompt(), TITLES, tokenizer)
    answer = prompts.answers.row(1)
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer[:-1]) == "\"The 'Thing'\""


def test_oldest_titles_go_first_and_the_instruction_stays(tokenizer):
    prompts = TitlePrompts.of(prompt(), TITLES, tokenizer)
    fixed = len(tokenizer(prompt().text(["x"]))["input_ids"]) - len('"x"')
    histories = Ragged.from_lists([[0, 1, 2], [2, 1, 0]])
    # With their separators the titles need 9, 15 and 10 bytes.
    for budget, left in ((34, [3, 3]), (33, [2, 2]), (24, [1, 2]), (9, [0, 1]), (0, [0, 0])):
        rendered = prompts.render(histories, fixed + budget)
        for row, count in enumerate(left):
            kept = histories.row(row)[len(histories.row(row)) - count :]
            expected = prompt().text([TITLES[item] for item in kept])
            assert tokenizer.decode(rendered.row(row)) == expected, (budget, row)


def test_rows_are_joined():
    first, second = Ragged.from_lists([[1], [], [2, 3]]), Ragged.from_lists([[4, 5], [6], []])
    whole = joined(first, second)
    assert [whole.row(row).tolist() for row in range(3)] == [[1, 4, 5], [6], [2, 3]]
    assert len(joined(Ragged.empty(0), Ragged.empty(0))) == 0


def test_unknown_wrappers_are_refused():
    with pytest.raises(ConfigError, match="neither alpaca nor plain"):
        prompt("chat").text([])


def test_no_prompts_are_no_rows(tokenizer):
    prompts = TitlePrompts.of(prompt(), TITLES, tokenizer)
    np.testing.assert_array_equal(prompts.render(Ragged.empty(0), 100).lengths, [])
