"""`run.json`: what a run folder says of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from tastemaker.errors import RunError
from tastemaker.files import read_json, write_json

__all__ = ["FORMAT", "RunRecord", "TensorShape", "path_inside"]

FORMAT = 1  # version of the run folder; a reader refuses any other


@dataclass(frozen=True)
class TensorShape:
    """What a stored tensor must look like, so that another file is not taken for it."""

    dtype: str
    shape: tuple[int, ...]


@validated(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RunRecord:
    """The record of a run, as in `run.json`.

    Attributes:
        format: version of the folder's layout.
        version: of the package that made the run.
        status: `"training"` until the weights are written, `"evaluating"` until the metrics are,
            then `"finished"`; `"stopped"` for a tuning trial that was given up.
        model: name in the catalog.
        settings: every setting of the method's Config.
        seed: of every random stream.
        data: name of the data set.
        fingerprint: of the stored data set, after filters.
        filters: filter specs in the order applied.
        filtered: what the filters dropped, one sentence each.
        split: the split's spec.
        split_seed: of the split.
        refit: whether the validation rows were trained on, too.
        dealt: what the split kept and dropped, one sentence each.
        parts: which parts were to be evaluated at the end.
        started: UTC, ISO 8601.
        seconds: of training and validating, resumed parts added up.
        best: stage -> epoch (from 0) whose weights were kept.
        tensors: dtype and shape of each stored tensor.
        metrics: part -> metric -> value.
        environment: see `describe_environment`.
    """

    format: int = FORMAT
    version: str
    status: Literal["training", "evaluating", "finished", "stopped"]
    model: str
    settings: dict[str, Any]
    seed: int
    data: str
    fingerprint: str
    filters: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()
    split: str
    split_seed: int
    refit: bool = False
    dealt: tuple[str, ...] = ()
    parts: tuple[Literal["valid", "test"], ...] = ("valid", "test")
    started: str
    seconds: float = 0.0
    best: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, TensorShape] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `run.json`; it appears whole."""
        write_json(folder / "run.json", TypeAdapter(RunRecord).dump_python(self, mode="json"))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a run folder.

        Raises:
            RunError: when there is none, it is damaged, or its format is not this one's.
        """
        path = path_inside(folder, "run.json")
        if not path.is_file():
            what = "has no run.json, so it is not a run" if folder.is_dir() else "does not exist"
            raise RunError(f"{folder} {what}; give the folder that `tastemaker train` wrote")
        try:
            values = read_json(path)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(f"{path} is damaged ({error}); train the run again") from None
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            raise RunError(
                f"{path}: run format {found!r} is not {FORMAT}, the one this version reads; "
                "open it with the version that wrote it, or train the run again"
            )
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            raise RunError(f"{path}, field {where!r}: {first['msg']}") from None

    def changed(self, **values: Any) -> RunRecord:
        """The record with some fields replaced."""
        return dataclasses.replace(self, **values)

    def differences(self, other: RunRecord) -> list[str]:
        """In which settings of the training two records differ, in words; empty for the same."""
        found = [
            f"{name} {_short(getattr(self, name))} against {_short(getattr(other, name))}"
            for name in _IDENTITY
            if getattr(self, name) != getattr(other, name)
        ]
        names = sorted({*self.settings, *other.settings}) if self.model == other.model else []
        return found + [
            f"{name} {_short(self.settings.get(name))} against {_short(other.settings.get(name))}"
            for name in names
            if self.settings.get(name) != other.settings.get(name)
        ]


_IDENTITY = ("model", "seed", "fingerprint", "split", "split_seed", "refit")


def path_inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused when a link leads out of the folder.

    Raises:
        RunError: a run is self-contained, so nothing in it may point elsewhere.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            f"{path} leads out of the run folder to {path.resolve()}; a run holds copies"
        )
    return path


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, Mapping) else "..."
    return text if len(text) <= 24 else f'{text[:20]}..."'
