"""BIGRec: a language model writes the title of the next item, which is grounded to the nearest one.

Paper: "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems", TORS
2025, arXiv 2308.08434; code SAI990323/Grounding4Rec. A language model is tuned with LoRA on a few
examples "titles of a history -> title of the next item". At inference it writes a title; items are
ranked by the distance between the vectors that the untuned model gives that text and their titles,
optionally shrunk for popular items.

What we changed: the default model is SmolLM2-135M, small enough for a CPU, instead of LLaMA-7B
with an instruction adapter; titles are cut to `max_title_tokens` everywhere, so that prompts stay
short; prompts are put together from titles that are tokenised once; a text that is a title of the
catalog takes that title's vector; the popularity weight is one setting, not one per metric and
cut-off; history items are left out by the caller, not here. Scores of a collaborative model are
fused by `content.grounding.fused_scores`, not inside this method.

Cost with P parameters: 6 P operations a training token; a query costs 2 P per prompt token and
2 P num_beams per written token, then N D for the distances. Memory: the model, and [N, D] vectors
of titles; a stored state holds adapters and vectors, not the language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.content.grounding import fused_scores, text_distances
from tastemaker.content.local_language import LocalLanguageModel, Writing
from tastemaker.content.prompts import HistoryPrompt, TitlePrompts, bare_title, joined, quoted
from tastemaker.content.text import item_texts
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Queries
from tastemaker.layers.lora import inject_adapters, without_adapters
from tastemaker.losses.softmax import chunked_softmax
from tastemaker.models.base import GradientConfig, Need, Recommender, settings
from tastemaker.training.batches import PrefixBatches, shuffled
from tastemaker.training.stages import Batch, ComputeStage, GradientStage, Loss, Objective, Stage

__all__ = ["AnswerBatches", "BIGRec"]

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": None}
_WINDOW = 8  # batches whose samples are sorted by length together


class BIGRec(Recommender):
    """A language model that names the next item, and grounding to the catalog."""

    @settings
    class Config(GradientConfig):
        """Settings of BIGRec."""

        language_model: str = "smollm2"  # or "tiny-random", a model folder, a hub name
        words: str = "items the user has chosen"  # what a history is, in the prompt
        wrapper: Literal["alpaca", "plain"] = "alpaca"  # form of the prompt (reference code)
        max_length: int = Field(default=10, ge=1)  # titles in a prompt (paper, sec. 4.1)
        max_title_tokens: int = Field(default=24, ge=1)  # tokens of a title (ours)
        max_prompt_tokens: int = Field(default=512, ge=64)  # older titles go (reference code)
        training_samples: int | None = Field(default=1024, ge=1)  # examples (paper); None = all
        sample_seed: int = 0  # which examples (reference code: 0, 1 and 2)
        train_on_prompt: bool = True  # whether prompt tokens count in the loss (reference code)
        lora_rank: int = Field(default=8, ge=1)  # reference code
        lora_alpha: float = Field(default=16.0, gt=0)  # reference code
        lora_dropout: float = Field(default=0.05, ge=0, lt=1)  # reference code
        lora_targets: tuple[str, ...] = ("q_proj", "v_proj")  # adapted layers (reference code)
        num_beams: int = Field(default=4, ge=1)  # hypotheses in generation (reference code)
        popularity_weight: float = Field(default=0.0, ge=0, le=99)  # gamma (paper, sec. 3.3)
        epochs: int = Field(default=3, ge=1)  # ours: CPU; reference code: 50, stopped early
        batch_size: int = Field(default=16, ge=1)  # ours: more steps; reference code: 128
        learning_rate: float = Field(default=1e-3, gt=0)  # ours; reference code: 1e-4
        weight_decay: float = Field(default=0.01, ge=0)  # AdamW's in the reference code
        warmup_steps: int = Field(default=20, ge=0)  # reference code
        decay: Literal["constant", "linear", "cosine"] = "linear"  # reference code
        clip_norm: float = Field(default=1.0, ge=0)  # reference code
        monitor: str | None = None  # ours: a validation writes titles for everybody, so none picks
        validate_every: int = Field(default=100, ge=1)  # ours: for the same reason, at the end

    config: Config
    needs = frozenset({Need.ORDER, Need.TEXT})
    presets = {
        # Chosen on 300 validation items of Amazon Industrial, for a quarter of an hour on a core.
        "amazon-industrial": {
            "words": "products the user has bought",
            "wrapper": "plain",
            "max_title_tokens": 16,
            "train_on_prompt": False,
            "popularity_weight": 0.1,
            "epochs": 2,
            "batch_size": 8,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        # Not a submodule: the language model is neither trained nor stored, only its adapters are.
        self._language = (
            LocalLanguageModel.find(
                config.language_model,
                dtype=_DTYPES[config.precision],
                device=torch.device("cpu"),
            ),
        )
        adapters = inject_adapters(
            self.language.network,
            config.lora_targets,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
        )
        self.adapters = nn.ModuleDict({n.replace(".", "-"): part for n, part in adapters.items()})
        self.titles = self._shown_titles(dataset)
        self.prompts = TitlePrompts.of(_prompt(config), self.titles, self.language.tokenizer)
        self.title_vectors: Tensor
        self.popularity: Tensor
        self.register_buffer("title_vectors", torch.empty(0, 0))
        self.register_buffer("popularity", torch.empty(0))

    @property
    def language(self) -> LocalLanguageModel:
        """The language model, adapters included."""
        return self._language[0]

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> BIGRec:
        """Moves the language model along."""
        self.language.network._apply(change, recurse)
        moved: BIGRec = super()._apply(change, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _shown_titles(self, dataset: Dataset) -> list[str]:
        """The titles as the language model reads and writes them, [N]: cut, without quotes."""
        if dataset.schema.title is None:
            titles = item_texts(dataset)
        else:
            titles = dataset.titles(np.arange(dataset.n_items))
        tokenizer = self.language.tokenizer
        plain = [quoted(title)[1:-1] for title in titles]
        rows = tokenizer(plain, add_special_tokens=False)["input_ids"]
        cut = tokenizer.batch_decode([row[: self.config.max_title_tokens] for row in rows])
        return [bare_title(title) for title in cut]

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Embed the titles with the untuned model, count the items, tune on examples."""
        config = self.config
        prefixes = PrefixBatches.of(data, config.max_length, config.batch_size)
        drawn = np.random.default_rng(config.sample_seed).permutation(len(prefixes.ends))
        batches = AnswerBatches(
            prefixes,
            np.sort(drawn[: config.training_samples]),
            self.prompts,
            config.max_prompt_tokens,
        )
        said = hashlib.sha256("\0".join(self.titles).encode()).hexdigest()
        counts = torch.from_numpy(data.item_counts()).float()
        objective = Objective("next-title", self.loss, batches, config.optimizer())
        return [
            ComputeStage(
                "embed-titles",
                lambda: {"title_vectors": self._embedded(self.titles)},
                self._take,
                key={"model": self.language.identity, "titles": said},
            ),
            ComputeStage("count", lambda: {"popularity": counts}, self._take),
            GradientStage("tune", [objective], **config.schedule()),
        ]

    def loss(self, batch: Batch) -> Loss:
        """Mean cross-entropy of the tokens of the answers, and of the prompts if asked for."""
        tokens, lengths = batch["tokens"], batch["lengths"]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        valid = places < lengths[:, None]  # [B, L]
        learned = valid[:, 1:]
        if not self.config.train_on_prompt:
            learned = learned & (places[1:] >= batch["prompt_lengths"][:, None])
        states = self.language.states(tokens, valid)[:, :-1][learned]  # [T, D]
        head = self.language.network.get_output_embeddings().weight
        value = chunked_softmax(states, head, tokens[:, 1:][learned])
        return Loss(value, learned.sum())

    @torch.inference_mode()
    def write(self, queries: Queries) -> list[str]:
        """The title the tuned model writes for each query, [B] str, without quotes."""
        config = self.config
        recent = queries.histories.items.take(slice(None), last=config.max_length)
        prompts = self.prompts.render(recent, config.max_prompt_tokens)
        writing = Writing(config.max_title_tokens + 4, config.num_beams)  # quotes and end
        return [bare_title(text) for text in self.language.write(prompts, writing)]

    @torch.inference_mode()
    def ground(self, texts: Sequence[str]) -> Tensor:
        """Distances of texts to the titles of the catalog, [B, N] float32; 0 for its own title."""
        unknown = sorted(set(texts) - self._rows.keys())
        table = self.title_vectors
        if unknown:
            table = torch.cat([table, self._embedded(unknown).to(table.device)])
        rows = self._rows | {text: self.n_items + row for row, text in enumerate(unknown)}
        chosen = torch.tensor([rows[text] for text in texts], device=table.device)
        return text_distances(table[chosen], self.title_vectors)

    def fuse(self, distances: Tensor) -> Tensor:
        """Scores of items by the distances of their titles, [B, N] float32."""
        return fused_scores(distances, self.popularity, self.config.popularity_weight)

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Minus the distance of the written title, [B, N] or [B, C] float32, see `fused_scores`."""
        if not len(queries):
            scores = torch.zeros(0, self.n_items, device=self.device)
        else:
            scores = self.fuse(self.ground(self.write(queries)))
        return scores if items is None else scores.gather(1, items.to(scores.device))

    def item_vectors(self) -> Tensor:
        """The untuned model's vectors of the titles, [N, D] float32."""
        return self.title_vectors

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Title -> the first item of that title."""
        return {title: row for row, title in reversed(list(enumerate(self.titles)))}

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts by the untuned model, [n, D] float32."""
        with without_adapters(self.language.network):
            return torch.from_numpy(self.language.embed(texts))

    def _take(self, product: Mapping[str, Tensor]) -> None:
        """Keep the product of a compute stage in the buffer of its name."""
        for name, value in product.items():
            setattr(self, name, value)


def _prompt(config: BIGRec.Config) -> HistoryPrompt:
    """The instruction, after the reference code's."""
    return HistoryPrompt(
        f"Given a list of {config.words}, recommend one more.",
        f"{config.words[:1].upper()}{config.words[1:]}: ",
        f"There are no {config.words} yet.",
        config.wrapper,
    )


@dataclass(frozen=True)
class AnswerBatches:
    """Examples as tokens: the prompt of a history and the title that came next.

    A batch has rows `tokens` [B, L] int64, right padded; `lengths` and `prompt_lengths` [B] int64.

    Attributes:
        prefixes: histories with their next items.
        samples: [S] int64, the prefixes to learn from.
        prompts: makes the tokens.
        budget: tokens of a prompt.
    """

    prefixes: PrefixBatches
    samples: NDArray[np.int64]
    prompts: TitlePrompts
    budget: int

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """[S] int64 tokens of each example."""
        histories = self.prefixes.histories_of(self.samples).items
        targets = self.prefixes.histories.items.values[self.prefixes.ends[self.samples]]
        return (
            self.prompts.render(histories, self.budget).lengths
            + (self.prompts.answers.lengths[targets])
        )

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Shuffled examples; those of like length meet within eight batches."""
        size = self.prefixes.batch_size
        batches: list[NDArray[np.int64]] = []
        for rows in shuffled(len(self.samples), size * _WINDOW, generator):
            alike = rows[np.argsort(self.sizes[rows], kind="stable")]
            batches += [alike[start : start + size] for start in range(0, len(alike), size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """The tokens of these examples; nothing is drawn."""
        del generator
        samples = self.samples[rows]
        histories = self.prefixes.histories_of(samples).items
        targets = self.prefixes.histories.items.values[self.prefixes.ends[samples]]
        prompts = self.prompts.render(histories, self.budget)
        whole = joined(prompts, self.prompts.answers.take(targets))
        batch: dict[str, Any] = {
            "tokens": whole.padded(int(whole.lengths.max()), 0),
            "lengths": whole.lengths,
            "prompt_lengths": prompts.lengths,
        }
        return Batch({name: torch.from_numpy(value) for name, value in batch.items()})
