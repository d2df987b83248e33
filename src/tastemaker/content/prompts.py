"""Prompts: a history in words, and the same as token ids for a language model.

A prompt never ends in a space and an answer begins with its quote, so the tokens of both together
are the tokens of each. What does not fit into the budget loses its oldest titles, never the
instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tastemaker.data.queries import Ragged
from tastemaker.errors import ConfigError

__all__ = ["HistoryPrompt", "TitlePrompts", "alpaca", "bare_title", "joined", "quoted"]

_SEPARATOR = ", "


def alpaca(instruction: str, given: str) -> str:
    """An instruction and its input in the form that Alpaca-tuned models know."""
    return (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Input:\n{given}\n\n### Response:\n"
    )


def quoted(title: str) -> str:
    """A title in double quotes; its own become single ones, line breaks become spaces."""
    return '"' + " ".join(title.replace('"', "'").split()) + '"'


def bare_title(text: str) -> str:
    """The title in a generated text: its first line without quotes and spaces around it.

    It undoes `quoted`, so the titles of the catalog and generated ones are stripped alike.
    """
    lines = text.strip().splitlines()
    return lines[0].strip(' "') if lines else ""


@dataclass(frozen=True)
class HistoryPrompt:
    """How a history is put to a language model.

    Attributes:
        instruction: what to do.
        lead: what stands before the quoted titles, e.g. `"The user has watched these movies: "`.
        nothing: what stands there instead when the history is empty.
        wrapper: `"alpaca"`, or `"plain"`: instruction, input and answer in three lines.
    """

    instruction: str
    lead: str
    nothing: str
    wrapper: str = "alpaca"

    def parts(self, lead: str) -> tuple[str, str]:
        """What stands before and behind the titles."""
        match self.wrapper:
            case "alpaca":
                whole = alpaca(self.instruction, f"{lead}\0")
            case "plain":
                whole = f"{self.instruction}\n{lead}\0\n"
            case _:
                raise ConfigError(f"prompt wrapper {self.wrapper!r} is neither alpaca nor plain")
        head, _, tail = whole.partition("\0")
        return head, tail

    def text(self, titles: Sequence[str]) -> str:
        """The prompt of a history, oldest title first."""
        head, tail = self.parts(self.lead if titles else self.nothing)
        return head + _SEPARATOR.join(quoted(title) for title in titles) + tail


@dataclass(frozen=True)
class TitlePrompts:
    """The prompts of histories as token ids, put together from parts that are tokenised once.

    Attributes:
        pieces: token ids of N titles with the separator before them, of N titles without it, of
            the part before the titles, the part behind them and the prompt of an empty history.
        answers: token ids of each item's answer: its quoted title and the end of text.
        n_items: N.
    """

    pieces: Ragged
    answers: Ragged
    n_items: int

    @classmethod
    def of(cls, prompt: HistoryPrompt, titles: Sequence[str], tokenizer: Any) -> TitlePrompts:
        """Tokenise the parts of a prompt.

        Args:
            prompt: the words around the titles.
            titles: [N] the items' titles.
            tokenizer: of the language model, with an end-of-text token.
        """
        head, tail = prompt.parts(prompt.lead)
        named = [quoted(title) for title in titles]
        plain = tokenizer([*named, tail], add_special_tokens=False)["input_ids"]
        follow = tokenizer([_SEPARATOR + title for title in named], add_special_tokens=False)
        starts = [_opened(tokenizer, head), _opened(tokenizer, prompt.text([]))]
        rows = [*follow["input_ids"], *plain[:-1], starts[0], plain[-1], starts[1]]
        answers = [[*row, tokenizer.eos_token_id] for row in plain[:-1]]
        return cls(Ragged.from_lists(rows), Ragged.from_lists(answers), len(named))

    def render(self, histories: Ragged, budget: int) -> Ragged:
        """The prompts of B histories, the oldest titles left out until they fit.

        Args:
            histories: item codes, oldest first.
            budget: tokens of a prompt; the instruction stays even where it alone is longer.

        Returns:
            B rows of token ids.
        """
        n, costs = self.n_items, self.pieces.lengths
        left = self._fitting(histories, budget - int(costs[2 * n] + costs[2 * n + 1]))
        sizes = np.where(left.lengths > 0, left.lengths + 2, 1)  # pieces of each prompt
        ends = np.cumsum(sizes)
        starts = ends - sizes
        sequence = np.full(int(sizes.sum()), -1, np.int64)
        sequence[ends - 1] = 2 * n + 1
        sequence[starts] = np.where(left.lengths > 0, 2 * n, 2 * n + 2)
        sequence[sequence < 0] = left.values
        sequence[starts[left.lengths > 0] + 1] += n
        tokens = self.pieces.take(sequence)
        per_prompt = np.add.reduceat(tokens.lengths, starts) if len(starts) else sizes
        return Ragged.from_lengths(tokens.values, per_prompt)

    def _fitting(self, histories: Ragged, budget: int) -> Ragged:
        """The most recent items of each history whose titles need at most `budget` tokens."""
        rows = histories.row_index()
        spent = np.zeros(len(histories.values) + 1, np.int64)
        np.cumsum(self.pieces.lengths[histories.values], out=spent[1:])
        needed = spent[histories.offsets[1:]][rows] - spent[:-1]  # by an item and all later ones
        fits = needed <= budget
        counts = np.bincount(rows[fits], minlength=len(histories)).astype(np.int64)
        return Ragged.from_lengths(histories.values[fits], counts)


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Each row of `first` with the same row of `second` behind it."""
    count = len(first)
    both = Ragged.from_lengths(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.lengths, second.lengths]),
    )
    rows = np.arange(2 * count, dtype=np.int64).reshape(2, count).T.ravel()
    return Ragged.from_lengths(both.take(rows).values, first.lengths + second.lengths)


def _opened(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text at the start of a prompt, with the start token if the model has one."""
    return list(tokenizer(text)["input_ids"])
