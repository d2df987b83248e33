"""HSTU for ranking: candidates look at a history of items and what came of them.

A history is a row of tokens, an item and its label each, that see those before them. A candidate
is a token without a label that sees the history and itself, never another candidate, so any number
of candidates share one pass over the history (M-FALCON). One pass trains all events of a user, too:
each is asked about as a candidate that sees what was known before it.

Paper: "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, arXiv 2402.17152, sections 3 and 4; code
meta-recsys/generative-recommenders (the DLRM-v3 ranker).

What we changed: items and labels are one token each (the reference code's layout; the paper
interleaves them, which doubles the length) and layers are those of retrieval, with their relative
bias, where the reference code adds absolute positions and times to the tokens: what is known of a
history then does not depend on when it is asked, and can be kept. Gaps are those to the moment of
the event itself for a history token, and to the moment of asking for a candidate. The label has a
vector for yes, for no, and for not known. Features of users and contexts are added to the candidate
instead of standing before the history, as each event of a row has its own context. As in our other
rankers, events of the same moment do not know of each other.

Cost of an epoch over R rows and sequences of length L: O(R D (D + L)), against O(R L D (D + L))
for one row a sample; memory O(B L D) and four bytes a pair. Scoring C candidates costs
O(L D (D + L)) once and O(C D (D + L)), in memory of one microbatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, Histories, TrainingSet
from tastemaker.data.features import Coded, learn_features
from tastemaker.data.queries import Queries
from tastemaker.errors import DataError
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.hstu import HSTUEncoder, KeyValues
from tastemaker.layers.pointwise_attention import TimeGaps
from tastemaker.models.base import Need, settings
from tastemaker.models.ranking.ranker import Asked, Ranker, RankerConfig
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.models.sequential.encoder import refuse_uneven_heads
from tastemaker.training.batches import SequenceBatches
from tastemaker.training.ranking_batches import binary_labels
from tastemaker.training.stages import Batch, GradientStage, Loss, Objective

__all__ = ["HSTURanking", "LabelledSequences"]

_UNKNOWN = 2  # the label of a candidate
_TOKENS = 1 << 15  # history tokens encoded at once when scoring


class HSTURanking(Ranker):
    """Target-aware hierarchical sequential transduction units."""

    @settings
    class Config(RankerConfig):
        """Settings of HSTURanking."""

        hidden_size: int = Field(default=32, ge=1)  # width of a field's vector (ours)
        token_size: int = Field(default=64, ge=1)  # width of a token (ours; reference code: 512)
        num_layers: int = Field(default=2, ge=1)  # layers (ours; reference code: 5)
        num_heads: int = Field(default=1, ge=1)  # attention heads (ours; reference code: 4)
        time_bias: bool = True  # weights for gaps in time, where there are timestamps (paper)
        max_length: int = Field(default=200, ge=1)  # most recent events looked at (ours)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # of tokens and layers (reference code)
        head_size: int = Field(default=128, ge=1)  # hidden layer of the head (reference: 512)
        microbatch: int = Field(default=256, ge=1)  # candidates scored at once (paper, M-FALCON)
        init_std: float = Field(default=0.02, gt=0)  # of embedding tables (reference code)
        regularization: float = Field(default=0.0, ge=0)  # L2 of all embeddings (reference code)
        batch_size: int = Field(default=32, ge=1)  # sequences

    config: Config
    needs = frozenset({Need.LABELS, Need.ORDER})
    only_liked = False
    search = {
        "token_size": Choice((32, 64, 128)),
        "num_layers": Choice((1, 2, 4)),
        "dropout": Uniform(0.0, 0.5),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        width = config.token_size
        refuse_uneven_heads(width, config.num_heads)
        super().__init__(config, dataset, max_length=config.max_length)
        known = dataset.interactions.column_names
        self.timed = config.time_bias and "timestamp" in known
        self.moment = "order" if "order" in known else "timestamp"
        self.columns = ("label", "timestamp") if self.timed else ("label",)
        self.content = _Perceptron(self.n_fields("item") * config.hidden_size, width, width)
        self.labels = nn.Embedding(3, width)
        nn.init.normal_(self.labels.weight, std=0.02)
        n_others = self.n_fields("user", "context") * config.hidden_size
        self.others = nn.Linear(n_others, width, bias=False) if n_others else None
        self.dropout = Dropout(config.dropout)
        self.encoder = HSTUEncoder(
            width,
            config.num_layers,
            config.num_heads,
            query_size=width // config.num_heads,
            value_size=width // config.num_heads,
            max_length=config.max_length + 1,  # the history and a candidate
            timed=self.timed,
            dropout=config.dropout,
        )
        self.head = _Perceptron(width, config.head_size, 1)

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """Learns the fields, then one gradient stage over all events of one sequence per user."""
        config = self.config
        columns = learn_features(data, self.fields, config.min_count)
        self._keep(columns.users, columns.items, columns.learned)
        batches = LabelledSequences.of(
            data,
            columns.contexts,
            config.max_length,
            config.batch_size,
            columns=(*self.columns, self.moment),
        )
        objective = Objective("label", self.loss, batches, config.optimizer())
        penalty = [self.penalise] if config.regularization else []
        return [GradientStage("fit", [objective], after_backward=penalty, **config.schedule())]

    def loss(self, batch: Batch) -> Loss:
        """Mean binary cross-entropy of the labels of all events of a batch."""
        valid = _every_event(batch, "items") != self.n_items  # [B, 1 + L]
        logits = self.sequence_logits(batch)[valid].float()
        labels = _every_event(batch, "label")[valid]
        return Loss(F.binary_cross_entropy_with_logits(logits, labels), valid.sum())

    def sequence_logits(self, batch: Batch) -> Tensor:
        """Logits of all events of a batch of `LabelledSequences`, [B, 1 + L] float.

        Each is asked about at its own moment, given what happened before it.
        """
        content = self.item_tokens(_every_event(batch, "items"))  # [B, 1 + L, D]
        times = _every_event(batch, "timestamp") if self.timed else None
        told = None if times is None else times[:, :-1]
        known = self.remember(content[:, :-1], batch["label"].long(), told)
        n_rows, n_events = content.shape[:2]
        asked = Asked(
            users=batch["users"].repeat_interleave(n_events),
            contexts=batch["contexts"].flatten(0, 1),
            context_numbers=batch["context_numbers"].flatten(0, 1),
            items=batch["items"].new_zeros((n_rows * n_events, 0)),
            lengths=batch["items"].new_zeros(n_rows * n_events),
        )
        others = self.other_tokens(asked)
        if others is not None:
            others = others.view(n_rows, n_events, -1)
        gaps = None if times is None or told is None else TimeGaps(times, told)
        places = _places(_every_event(batch, self.moment))
        return self.answer(content, others, known, places, gaps)

    def item_tokens(self, items: Tensor) -> Tensor:
        """What items are, [..., D] float of [...] int64 codes."""
        tokens: Tensor = self.content(self.embed_items(items).flatten(-2))
        return tokens

    def other_tokens(self, asked: Asked) -> Tensor | None:
        """What is known of users and contexts, [B, D] float, or `None` without such fields."""
        return None if self.others is None else self.others(self.embed_asked(asked).flatten(1))

    def remember(self, content: Tensor, labels: Tensor, times: Tensor | None) -> list[KeyValues]:
        """What the layers keep of histories, whoever asks and whenever.

        Args:
            content: [B, L, D] float tokens of the items.
            labels: [B, L] int64 of 0 and 1.
            times: [B, L] seconds, or `None` without time weights.
        """
        gaps = None if times is None else TimeGaps(times, times)
        tokens = self.dropout(content + self.labels(labels))
        known: list[KeyValues] = self.encoder.remember(tokens, gaps)
        return known

    def answer(
        self,
        content: Tensor,
        others: Tensor | None,
        known: Sequence[KeyValues],
        places: Tensor,
        gaps: TimeGaps | None,
    ) -> Tensor:
        """Logits of candidates, [B, C] float.

        Args:
            content: [B, C, D] float tokens of the candidates.
            others: [B, C or 1, D] float tokens of their users and contexts.
            known: what the layers keep of the histories.
            places: [B, C or 1] int64, how many events of the history each candidate sees.
            gaps: times of asking, [B, C or 1], and of the history.
        """
        tokens = content + self.labels.weight[_UNKNOWN]
        if others is not None:
            tokens = tokens + others
        states = self.encoder.candidates(self.dropout(tokens), known, places, gaps)
        logits: Tensor = self.head(states * content)
        return logits.squeeze(-1)

    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """Logits of candidates [B, C]: one pass over each history, then microbatches."""
        others = self.other_tokens(asked)
        step = max(1, _TOKENS // max(asked.items.shape[1], 1))
        blocks = []
        for start in range(0, len(asked), step):
            rows = slice(start, start + step)
            labels = (asked.columns["label"][rows] > 0).long()
            times = asked.columns["timestamp"][rows] if self.timed else None
            known = self.remember(self.item_tokens(asked.items[rows]), labels, times)
            gaps = None
            if times is not None:
                gaps = TimeGaps(asked.columns["next_timestamp"][rows, None], times)
            parts = [
                self.answer(
                    self.item_tokens(some),
                    None if others is None else others[rows, None],
                    known,
                    asked.lengths[rows, None],
                    gaps,
                )
                for some in torch.split(candidates[rows], self.config.microbatch, 1)
            ]
            blocks.append(torch.cat(parts, 1))
        return torch.cat(blocks)

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Logits of the label, [B, N] or [B, C]; events of a history without labels are liked."""
        histories = queries.histories
        if "label" not in histories.columns:
            liked = np.ones(len(histories.items.values), np.float32)
            histories = Histories(histories.items, {**histories.columns, "label": liked})
        return super().score(Queries(queries.users, histories, queries.columns), items)


class _Perceptron(nn.Module):
    """Linear, gate by its own norm (x sigmoid(norm(x)), reference code), linear."""

    def __init__(self, width: int, hidden_size: int, output: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, output)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] to [..., output]."""
        hidden = self.hidden(values)
        result: Tensor = self.output(hidden * torch.sigmoid(self.norm(hidden)))
        return result


@dataclass(frozen=True)
class LabelledSequences:
    """Windows of users' labelled events, each of which is a target and known to later ones.

    A batch is one of `SequenceBatches` with the named columns, and with `contexts`
    [B, 1 + L, T] int64 and `context_numbers` [B, 1 + L, M] float32 of all its events. Windows of
    one user share an event, so the first event of a window has no history.

    Attributes:
        sequences: the windows, with a column `row`: the number of the training row.
        contexts: of the training rows, in codes and numbers.
    """

    sequences: SequenceBatches
    contexts: Coded

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        contexts: Coded,
        max_length: int,
        batch_size: int,
        *,
        columns: Sequence[str],
    ) -> LabelledSequences:
        """All training rows of users with two or more.

        Raises:
            DataError: when labels are not 0 and 1, or nobody has two rows.
        """
        binary_labels(data)
        columns = tuple(dict.fromkeys(columns))
        told = data.histories(columns=columns)
        row = np.arange(len(data), dtype=np.int64)
        told = Histories(told.items, {**told.columns, "row": row})
        windows, users = told.windows(max_length + 1, max_length)
        if not len(windows):
            raise DataError(
                "no user has two or more training interactions, so there are no histories to "
                "learn from; use a method without order, such as deepfm, or more data"
            )
        carried = (*columns, "row")
        sequences = SequenceBatches(windows, users, max_length, batch_size, data.n_items, carried)
        return cls(sequences, contexts)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As the sequences plan."""
        return self.sequences.plan(generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Windows with the contexts of their events; nothing is drawn."""
        batch = self.sequences.gather(rows, generator)
        events = _every_event(batch, "row").numpy()
        found = {
            "contexts": torch.from_numpy(self.contexts.codes[events]),
            "context_numbers": torch.from_numpy(self.contexts.numbers[events]),
        }
        return Batch({**batch.rows, **found})


def _every_event(batch: Batch, name: str) -> Tensor:
    """Items or a column of all events of a batch of sequences, [B, 1 + L]."""
    following = "targets" if name == "items" else f"next_{name}"
    return torch.cat([batch[name][:, :1], batch[following]], 1)


def _places(moments: Tensor) -> Tensor:
    """How many events came before the moment of each, [B, L] int64 of [B, L] moments."""
    first = torch.arange(moments.shape[1], device=moments.device).expand(moments.shape).clone()
    first[:, 1:].masked_fill_(moments[:, 1:] == moments[:, :-1], 0)
    return first.cummax(1).values
