"""A causal language model on this machine: batches by length, beam search, scores, embeddings.

Prompts run once, whatever the number of beams or continuations: keys and values are repeated
after the prompt. Rows are padded on the left where something is generated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.content.pretrained import (
    folder_digest,
    inference_device,
    inference_dtype,
    load_language_model,
    model_folder,
    smollm2_folder,
)
from tastemaker.data.queries import Ragged
from tastemaker.extras import require

__all__ = ["GREEDY", "LocalLanguageModel", "Writing"]

_TOKENS = 8192  # tokens that go through the model at once, padding included
_KEPT_BYTES = 512 << 20  # keys and values held at once while texts are written


@dataclass(frozen=True)
class Writing:
    """How a text is written; always the likeliest found, nothing is drawn at random.

    Attributes:
        max_new_tokens: where it is cut off.
        num_beams: hypotheses kept at each token; 1 takes the likeliest token.
        chat: wrap prompts as a user's message in the model's own chat form.
    """

    max_new_tokens: int = 32
    num_beams: int = 1
    chat: bool = False


GREEDY = Writing()


class LocalLanguageModel:
    """A tokenizer and a causal language model of the `transformers` library.

    Args:
        tokenizer: with an end-of-text token.
        network: the model, frozen, in evaluation mode.
        identity: changes whenever the weights do.
    """

    def __init__(self, tokenizer: Any, network: Any, identity: str) -> None:
        self.tokenizer, self.network, self.identity = tokenizer, network, identity

    @classmethod
    def find(
        cls, name: str, *, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> LocalLanguageModel:
        """The model of that name.

        Args:
            name: `"smollm2"`, `"tiny-random"`, a model folder or a hub name.
            dtype: of the weights; `None` is bfloat16 where that is native, else float32.
            device: where it runs; `None` is the GPU where there is one.

        Raises:
            ConfigError: when no such model is found.
            MissingExtraError: when packages or weights are not installed.
        """
        purpose = f"language model {name!r}"
        device = device or inference_device()
        dtype = dtype or inference_dtype(device)
        match name:
            case "tiny-random":
                folder, digest = None, "tiny-random"
            case "smollm2":
                folder = smollm2_folder(purpose)
                digest = folder_digest(folder)
            case _:
                folder = model_folder(name, extra="llm", purpose=purpose)
                digest = folder_digest(folder)
        tokenizer, network = load_language_model(folder, dtype, purpose)
        return cls(tokenizer, network.to(device), f"local-{digest}-{dtype}")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self.network.device
        return found

    def generate(self, prompts: Sequence[str], writing: Writing = GREEDY) -> list[str]:
        """What comes after each prompt, without special tokens."""
        if writing.chat:
            prompts = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for prompt in prompts
            ]
        rows = self._tokenized(prompts, add_special_tokens=not writing.chat)
        return self.write(Ragged.from_lists(rows), writing)

    @torch.inference_mode()
    def write(self, prompts: Ragged, writing: Writing) -> list[str]:
        """What comes after each prompt, B rows of token ids."""
        texts = [""] * len(prompts)
        beams, longest = writing.num_beams, writing.max_new_tokens
        kept = max(1, _KEPT_BYTES // self._bytes_per_token)
        for rows, width in _alike(
            prompts.lengths, lambda w: min(_TOKENS // w, kept // (w + longest) // beams)
        ):
            ids, valid = self._batch(prompts.take(rows), width, align="right")
            found = _beam_search(
                self.network, ids, valid, writing, int(self.tokenizer.eos_token_id)
            ).tolist()
            written = self.tokenizer.batch_decode(found, skip_special_tokens=True)
            for row, text in zip(rows.tolist(), written, strict=True):
                texts[row] = text
        return texts

    @torch.inference_mode()
    def score(self, prompt: str, continuations: Sequence[str]) -> NDArray[np.float32]:
        """Log-probability of each continuation after the prompt, summed over its tokens, [n].

        The prompt runs once. It must not be empty, nor end in a space: its tokens are those of
        the whole text only where a continuation brings its own space.
        """
        (head,) = self._tokenized([prompt])
        tails = Ragged.from_lists(self._tokenized(continuations, add_special_tokens=False))
        ids = torch.tensor([head], device=self.device)
        first = self.network(input_ids=ids, use_cache=True, logits_to_keep=_last(ids))
        start = F.log_softmax(first.logits[:, -1].float(), -1)  # [1, V]
        sums = np.zeros(len(tails), np.float32)
        for rows, width in _alike(tails.lengths, lambda w: _TOKENS // (w + len(head))):
            ids, valid = self._batch(tails.take(rows), width, align="left")
            past = copy.deepcopy(first.past_key_values)
            past.batch_repeat_interleave(len(rows))
            seen = valid.new_ones(len(rows), len(head))
            logits = self.network(
                input_ids=ids,
                attention_mask=torch.cat([seen, valid], 1).long(),
                past_key_values=past,
                use_cache=True,
            ).logits.float()
            before = torch.cat(
                [start.expand(len(rows), 1, -1), F.log_softmax(logits[:, :-1], -1)], 1
            )  # [n, T, V]: what stood before each token said of it
            values = before.gather(2, ids[:, :, None]).squeeze(2) * valid
            sums[rows] = values.sum(1).cpu().numpy()
        return sums

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The last layer's state of each text's last token, [n, D] float32."""
        tokens = Ragged.from_lists(self._tokenized(texts))
        vectors = np.zeros((len(texts), self.network.config.hidden_size), np.float32)
        for rows, width in _alike(tokens.lengths, lambda w: _TOKENS // w):
            ids, valid = self._batch(tokens.take(rows), width, align="left")
            states = self.states(ids, valid)
            last = valid.sum(1) - 1
            chosen = states[torch.arange(len(rows), device=last.device), last]
            vectors[rows] = chosen.float().cpu().numpy()
        return vectors

    def states(self, ids: Tensor, valid: Tensor) -> Tensor:
        """The last layer's states, [B, L, D], of token ids [B, L] int64, valid [B, L] bool."""
        found: Tensor = self.network.base_model(
            input_ids=ids, attention_mask=valid.long(), use_cache=False
        ).last_hidden_state
        return found

    @property
    def _bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        config = self.network.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        size = int(self.network.dtype.itemsize)
        return 2 * int(config.num_hidden_layers) * int(heads) * int(width) * size

    def _tokenized(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of texts; one without any is the end-of-text token alone."""
        if not texts:
            return []
        rows = self.tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"]
        return [row or [self.tokenizer.eos_token_id] for row in rows]

    def _batch(self, tokens: Ragged, width: int, *, align: str) -> tuple[Tensor, Tensor]:
        """Token ids and validity, both [B, width]."""
        dense = torch.from_numpy(tokens.padded(width, 0, align=align))
        places = torch.arange(width)
        if align == "right":
            places = places.flip(0)
        valid = places < torch.from_numpy(tokens.lengths)[:, None]
        return dense.to(self.device), valid.to(self.device)


def _alike(
    lengths: NDArray[np.int64], at_most: Callable[[int], int]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Batches of rows of like length, longest first, and the longest length in each.

    Args:
        lengths: [B] tokens of each row.
        at_most: longest length -> rows of a batch.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        size = max(1, at_most(width))
        yield order[start : start + size], width
        start += size


@dataclass
class _Beams:
    """Hypotheses under way, and the best that have ended.

    Attributes:
        best: [B, T] int64 the best ended text of each prompt, filled with `end`.
        best_mean: [B] float its mean log-probability, -inf before one has ended.
        ended: [B] int64 how many have ended.
        live: [b] int64 the prompts that are not done.
        words: [b, K, t] int64 the K hypotheses of each of them.
        sums: [b, K] float their log-probabilities.
        end: the end-of-text token.
    """

    best: Tensor
    best_mean: Tensor
    ended: Tensor
    live: Tensor
    words: Tensor
    sums: Tensor
    end: int

    @classmethod
    def fresh(cls, n_rows: int, writing: Writing, end: int, device: torch.device) -> _Beams:
        """One empty hypothesis a prompt: of K equal ones only one may branch."""
        sums = torch.full((n_rows, writing.num_beams), -torch.inf, device=device)
        sums[:, 0] = 0.0
        words = torch.zeros(n_rows, writing.num_beams, 0, dtype=torch.int64, device=device)
        return cls(
            torch.full((n_rows, writing.max_new_tokens), end, device=device),
            torch.full((n_rows,), -torch.inf, device=device),
            torch.zeros(n_rows, dtype=torch.int64, device=device),
            torch.arange(n_rows, device=device),
            words,
            sums,
            end,
        )

    def grow(self, logits: Tensor) -> Tensor:
        """Take the next words by their logits [b * K, V]; returns whose row each goes on, [b, K].

        Of the 2 K likeliest continuations those that end compete for the best text if they are
        among the first K, and the K likeliest of the others go on.
        """
        count, beams, length = self.words.shape
        width = min(2 * beams, logits.shape[1])  # no other word can be among the 2 K likeliest
        first, words = logits.topk(width, 1)
        likely = (first.float() - logits.float().logsumexp(1, keepdim=True)).view(count, beams, -1)
        totals = (self.sums[:, :, None] + likely).flatten(1)  # [b, K 2K]
        values, flat = totals.topk(2 * beams, 1)
        beam, word = flat // width, words.view(count, -1).gather(1, flat)
        ending = word == self.end
        possible = ending & values.isfinite()
        self._keep_best(values[:, :beams] / (length + 1), possible[:, :beams], beam)
        self.sums, kept = values.masked_fill(ending, -torch.inf).topk(beams, 1)
        beam, word = beam.gather(1, kept), word.gather(1, kept)
        before = self.words.gather(1, beam[:, :, None].expand(-1, -1, length))
        self.words = torch.cat([before, word[:, :, None]], 2)
        return beam

    def _keep_best(self, means: Tensor, ending: Tensor, beam: Tensor) -> None:
        """The best of those that end here, where it beats what had ended before."""
        beams, length = self.words.shape[1:]
        ending = ending & (self.ended[self.live] < beams)[:, None]
        mean, which = means.masked_fill(~ending, -torch.inf).max(1)
        better = mean > self.best_mean[self.live]
        rows, chosen = self.live[better], beam.gather(1, which[:, None])[better, 0]
        self.best[rows] = self.end
        self.best[rows, :length] = self.words[better, chosen]
        self.best_mean[rows] = mean[better]
        self.ended[self.live] += ending.sum(1)

    def drop_done(self) -> Tensor | None:
        """Leave out prompts with K ended hypotheses once they are half of the batch.

        Returns:
            Which of the live ones stay, [b] bool; `None` when all do.
        """
        going = self.ended[self.live] < self.words.shape[1]
        if 2 * int(going.sum()) > len(going):
            return None
        self.live, self.words, self.sums = self.live[going], self.words[going], self.sums[going]
        return going

    def texts(self) -> Tensor:
        """[B, T] the best text of each prompt; the likeliest unfinished one where none ended."""
        without = torch.isinf(self.best_mean[self.live])
        self.best[self.live[without], : self.words.shape[2]] = self.words[without, 0]
        return self.best


def _beam_search(network: Any, ids: Tensor, valid: Tensor, writing: Writing, end: int) -> Tensor:
    """The likeliest text found after each prompt, [B, max_new_tokens] int64, filled with `end`.

    Hypotheses are compared by the mean log-probability of their tokens, the end included. A
    prompt is done when `num_beams` of them have ended, and leaves the batch.

    Args:
        network: a causal language model.
        ids: [B, L] int64 token ids, padded on the left.
        valid: [B, L] bool.
        writing: beams and length.
        end: the end-of-text token.
    """
    k, longest = writing.num_beams, writing.max_new_tokens
    beams = _Beams.fresh(len(ids), writing, end, ids.device)
    step = network(
        input_ids=ids,
        attention_mask=valid.long(),
        position_ids=(valid.long().cumsum(1) - 1).clamp_min(0),
        past_key_values=require("transformers", extra="llm", purpose="writing").DynamicCache(),
        use_cache=True,
        logits_to_keep=_last(ids),
    )
    past = step.past_key_values
    layers = [_Room(layer, k, longest) for layer in past.layers]
    logits = step.logits[:, -1].repeat_interleave(k, 0)
    mask, position = valid.repeat_interleave(k, 0), valid.sum(1).repeat_interleave(k)
    for length in range(1, longest + 1):
        rows = torch.arange(len(beams.live), device=ids.device)[:, None] * k + beams.grow(logits)
        going = beams.drop_done()
        if length == longest or not len(beams.live):
            break
        origin = (rows if going is None else rows[going]).flatten()
        for layer in layers:
            layer.reorder(origin, all_of_it=going is not None)
        mask = torch.cat([mask[origin], mask.new_ones(len(origin), 1)], 1)
        position = position[origin]
        logits = network(
            input_ids=beams.words[:, :, -1].reshape(-1, 1),
            attention_mask=mask.long(),
            position_ids=position[:, None],
            past_key_values=past,
            use_cache=True,
        ).logits[:, -1]
        position = position + 1
    return beams.texts()


def _last(ids: Tensor) -> Tensor:
    """The last position as an index: a slice there would make the head copy itself per row."""
    return torch.tensor([ids.shape[1] - 1], device=ids.device)


class _Room:
    """Gives a layer of a key-value cache room for the words to come, so that it need not be copied.

    Left alone, a layer grows by copying all they hold at every word, and copy it again when
    hypotheses change places; that takes most of the time of a beam search on a CPU. Hypotheses of
    a prompt share its part, so only what is behind the prompt changes places.

    Args:
        layer: a layer that has seen the prompts; it grows in this room from now on.
        repeats: hypotheses a prompt.
        room: words to come.
    """

    def __init__(self, layer: Any, repeats: int, room: int) -> None:
        self._layer, self._prompt = layer, int(layer.keys.shape[2])
        self._stored = []
        for held in (layer.keys, layer.values):
            rows, heads, length, width = held.shape
            roomy = held.new_empty(rows, repeats, heads, length + room, width)
            roomy[:, :, :, :length] = held[:, None]
            self._stored.append(roomy.flatten(0, 1))
        layer.update = self.update
        self._show(self._prompt)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the keys and values of one word; returns those of all so far."""
        at, length = self._length, self._length + keys.shape[2]
        for stored, new in zip(self._stored, (keys, values), strict=True):
            stored[:, :, at:length] = new
        self._show(length)
        return self._layer.keys, self._layer.values

    def reorder(self, origin: Tensor, *, all_of_it: bool) -> None:
        """Let row r hold what row `origin[r]` held; prompts too where rows are dropped."""
        if all_of_it:
            self._stored = [stored[origin] for stored in self._stored]
        else:
            for stored in self._stored:
                written = stored[:, :, self._prompt : self._length]
                written.copy_(written[origin])
        self._show(self._length)

    def _show(self, length: int) -> None:
        self._length = length
        self._layer.keys, self._layer.values = (s[:, :, :length] for s in self._stored)
