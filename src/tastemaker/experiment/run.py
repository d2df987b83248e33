"""A run: what training left in a folder, ready to be evaluated, asked and reported on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tastemaker.console import say
from tastemaker.data import split
from tastemaker.errors import ConfigError, DataError, RunError
from tastemaker.evaluation import Evaluation
from tastemaker.experiment.answers import RawId, recommend, similar, some_of
from tastemaker.experiment.folder import open_data, read_weights
from tastemaker.experiment.measuring import measure
from tastemaker.experiment.record import RunRecord, path_inside
from tastemaker.experiment.stored_evaluation import (
    load_evaluation,
    save_evaluation,
)
from tastemaker.models.base import ModelConfig, Recommender, parse_config
from tastemaker.models.catalog import find
from tastemaker.training.placement import choose_device

if TYPE_CHECKING:
    import polars as pl

    from tastemaker.data import Dataset, Part, Split

__all__ = ["PartName", "Run", "open_run"]

PartName = Literal["valid", "test"]


def open_run(folder: Path | str, *, device: str = "auto") -> Run:
    """The finished run in a folder; data and weights are read when they are first needed.

    Raises:
        RunError: when there is none, it is unfinished or damaged, or of another format version.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    if record.status != "finished":
        raise RunError(
            f"{folder} is not finished (its status is {record.status!r}); repeat the command that "
            "trains it to resume"
        )
    return Run(folder, record, device)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: everything the run needs is inside.
        record: what `run.json` says.
        device: where the model answers.
    """

    folder: Path
    record: RunRecord
    device: str = "auto"

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.record.model} on {self.record.data})"

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Part -> metric -> value, as last evaluated."""
        return self.record.metrics

    @cached_property
    def dataset(self) -> Dataset:
        """The data the run was made from, after filters; memory-mapped."""
        return open_data(self.folder, self.record)

    @cached_property
    def split(self) -> Split:
        """The split, dealt again: a function of the stored data, the spec and the seed."""
        dealt = split(self.dataset, self.record.split, seed=self.record.split_seed)
        return dealt.refit() if self.record.refit else dealt

    @cached_property
    def model(self) -> Recommender:
        """The trained model, in eval mode on `device`.

        Raises:
            RunError: when weights and settings do not fit together.
        """
        kind = find(self.record.model).load()
        state = read_weights(self.folder, self.record)
        try:
            config = parse_config(kind.Config, self.record.settings)
            _refuse_other_sizes(kind, config, self.dataset, state)
            model = kind(config, self.dataset)
            model.load_state(state)
        except ConfigError as error:
            raise RunError(f"{self.folder} cannot be opened: {error}") from None
        return model.to(choose_device(self.device)).eval()

    @property
    def history(self) -> list[dict[str, Any]]:
        """The metrics log: one record an epoch or compute stage."""
        path = path_inside(self.folder, "metrics.jsonl")
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def part(self, name: PartName) -> Part:
        """What the split asks in one part.

        Raises:
            DataError: when the split has no such part.
        """
        if name not in ("valid", "test"):
            raise ConfigError(f"part {name!r} is neither 'valid' nor 'test'")
        found = self.split.valid if name == "valid" else self.split.test
        if found is None:
            what = ", and the run was refitted on its rows" if self.record.refit else ""
            raise DataError(f"the split {self.record.split!r} has no {name} part{what}")
        return found

    def evaluate(
        self,
        part: PartName = "test",
        *,
        metrics: Sequence[str] | None = None,
        ks: Sequence[int] = (10, 20),
        exclude_seen: bool = True,
    ) -> Evaluation:
        """Evaluate on a part, and keep the result in the run in place of the one there.

        Args:
            part: `"test"` or `"valid"`.
            metrics: names such as `"ndcg@10"`, or `"ndcg"` for each of `ks`; all by default.
                A method that predicts labels has pointwise metrics such as `"auc"`.
            ks: list lengths for names without one.
            exclude_seen: whether items of a query's history are masked.
        """
        asked = self.part(part)
        found = measure(
            self.model,
            asked,
            train=self.split.train,
            metrics=metrics,
            ks=ks,
            exclude_seen=exclude_seen,
        )
        save_evaluation(self.folder, part, found, self.dataset, asked)
        self.record.metrics[part] = plain_values(found)
        self.record.save(self.folder)
        return found

    def evaluation(self, part: PartName = "test") -> Evaluation | None:
        """The kept evaluation of a part; `None` when there is none."""
        found = load_evaluation(self.folder, part, self.dataset)
        return None if found is None else found[0]

    def recommend(
        self,
        users: RawId | Iterable[RawId] | None = None,
        *,
        histories: Iterable[Any] | None = None,
        k: int = 10,
        exclude: Iterable[RawId] | None = None,
        allow: Iterable[RawId] | None = None,
        exclude_seen: bool = True,
    ) -> pl.DataFrame:
        """The k best items for known users or made-up histories, as a Polars frame.

        Takes and gives raw ids; see `tastemaker.experiment.answers.recommend`.

        Returns:
            One row a recommended item: query, rank, item, title, score.
        """
        answer = recommend(
            self.model,
            self.split.train,
            users=users,
            histories=histories,
            k=k,
            exclude=exclude,
            allow=allow,
            exclude_seen=exclude_seen,
        )
        if answer.ignored:
            say(f"ignored, as the run does not know them: {some_of(answer.ignored)}")
        return answer.frame

    def similar(self, items: RawId | Iterable[RawId], k: int = 10) -> pl.DataFrame:
        """The k items most like each of the given ones (raw ids): query, rank, item, title, score.

        Raises:
            ConfigError: when the method has no notion of similar items.
        """
        return similar(self.model, self.dataset, items=items, k=k).frame

    def report(self, path: Path | str | None = None) -> Path:
        """Write the report, one HTML file (`report.html` in the run by default); returns where."""
        from tastemaker.experiment.report import write_report

        return write_report(self, self.folder / "report.html" if path is None else Path(path))


def _refuse_other_sizes(
    kind: type[Recommender], config: ModelConfig, dataset: Dataset, state: Mapping[str, Tensor]
) -> None:
    """Raise `ConfigError` when settings ask for other tensors than are stored.

    The model is first made without memory, so that settings of a stranger cannot ask for more of
    it than the weights take that lie in the folder.
    """
    try:
        with torch.device("meta"):
            kind(config, dataset).load_state(state)
    except NotImplementedError:
        return  # it brings a pretrained model, whose weights are not of the run
    except (RuntimeError, OverflowError) as error:
        raise ConfigError(f"the settings make no model: {error}") from None


def plain_values(evaluation: Evaluation) -> dict[str, float | None]:
    """Metric -> value, `None` where it is not defined."""
    found = {name: estimate.to_json()["value"] for name, estimate in evaluation.values.items()}
    return {name: None if value is None else float(value) for name, value in found.items()}
