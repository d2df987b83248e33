"""From data and a method's name to a finished run, resumable at any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker import __version__
from tastemaker.console import say
from tastemaker.data import Dataset, Split, default_split, split
from tastemaker.data.catalog import load
from tastemaker.data.filters import parse_filter
from tastemaker.errors import ConfigError
from tastemaker.experiment.environment import describe_environment
from tastemaker.experiment.folder import (
    claim,
    exclusive,
    read_weights,
    refuse_finished,
    store_data,
    write_weights,
)
from tastemaker.experiment.measuring import measure, validation
from tastemaker.experiment.record import RunRecord
from tastemaker.experiment.run import PartName, Run, open_run, plain_values
from tastemaker.experiment.stored_evaluation import save_evaluation
from tastemaker.experiment.trackers import following
from tastemaker.models.base import Recommender
from tastemaker.models.catalog import find
from tastemaker.training import fit as train
from tastemaker.training.fit import CHECKPOINT
from tastemaker.training.placement import World, choose_device, joined_world

if TYPE_CHECKING:
    from tastemaker.training.loop import Record

__all__ = ["Dealt", "deal", "fit"]

_BOTH: tuple[PartName, ...] = ("valid", "test")


def fit(
    data: Split | Dataset | Path | str,
    model: str,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    split: str | None = None,
    split_seed: int | None = None,
    filters: Sequence[str] = (),
    refit: bool = False,
    overwrite: bool = False,
    evaluate_on: Sequence[PartName] = _BOTH,
    track: Sequence[str] = (),
    checkpoint_seconds: float = 60.0,
    listeners: Sequence[Callable[[Record], None]] = (),
    **settings: Any,
) -> Run:
    """Train a method, evaluate it, and keep everything in a run folder.

    Interrupted at any moment and called again with the same arguments, it goes on where it stood.

    Args:
        data: a `Split`; or a data set (also by name or path), which is filtered and split here.
        model: a name in the catalog (`tastemaker models`).
        out: the run's folder; `runs/<data>-<model>` by default.
        seed: of every random stream of the training.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        split: split spec such as `"leave-one-out"`; by default what suits the data.
        split_seed: of the split (0 by default), apart from `seed` so that runs with different
            seeds are asked the same.
        filters: filter specs, applied in order before the split.
        refit: whether the validation rows are trained on, too (settings are final then).
        overwrite: whether a run that is in the folder already is replaced.
        evaluate_on: the parts to evaluate at the end.
        track: where to mirror the metrics log: `"tensorboard"` (into the run), `"mlflow"`.
        checkpoint_seconds: time between checkpoints.
        listeners: called with each record of the metrics log; may raise to stop.
        **settings: the method's settings; `preset` names a set of them to start from.

    Raises:
        ConfigError: for an unknown method, preset or setting, or a value out of range.
        DataError: when the data lack something, or the split leaves a part empty.
        RunError: when the folder holds a finished run or one with other settings.
    """
    kind = find(model).load()
    place = choose_device(device)
    if out is not None and not overwrite:
        refuse_finished(Path(out))
    dealt = deal(data, split, split_seed, filters, refit=refit)
    dataset = dealt.split.dataset
    folder = Path("runs") / f"{dataset.name}-{model}" if out is None else Path(out)
    fresh = kind.create(settings, dataset, seed=seed)
    record = _record(fresh, model, dealt, seed, filters, evaluate_on)
    with joined_world(place) as world, ExitStack() as held:
        if world.leads:
            trackers = held.enter_context(following(track, folder))
            listeners = [*listeners, *trackers]
            held.enter_context(exclusive(folder))
            record = claim(folder, record, overwrite=overwrite)
            store_data(dataset, folder)
        world.wait()
        if not world.leads:
            record = RunRecord.read(folder)
        how = {"device": device, "checkpoint_seconds": checkpoint_seconds, "listeners": listeners}
        _complete(folder, record, fresh, dealt.split, world, how)
        world.wait()
    return open_run(folder, device=device)


def _record(
    fresh: Recommender,
    model: str,
    dealt: Dealt,
    seed: int,
    filters: Sequence[str],
    evaluate_on: Sequence[PartName],
) -> RunRecord:
    """What `run.json` says when a run begins."""
    dataset = dealt.split.dataset
    return RunRecord(
        version=__version__,
        status="training",
        model=model,
        settings=fresh.config.to_json(),
        seed=seed,
        data=dataset.name,
        fingerprint=dataset.fingerprint,
        filters=tuple(filters),
        filtered=dealt.filtered,
        split=dealt.split.name,
        split_seed=dealt.split.seed,
        refit=dealt.split.refitted,
        dealt=tuple(dealt.split.report.lines()),
        parts=tuple(evaluate_on),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment(),
    )


@dataclass(frozen=True)
class Dealt:
    """A split, and what the filters before it did, one sentence each."""

    split: Split
    filtered: tuple[str, ...] = ()


def deal(
    data: Split | Dataset | Path | str,
    spec: str | None = None,
    split_seed: int | None = None,
    filters: Sequence[str] = (),
    *,
    refit: bool = False,
) -> Dealt:
    """The split to train on, from whatever was given as data; see `fit` for the arguments."""
    if isinstance(data, Split):
        if spec is not None or filters or split_seed not in (None, data.seed):
            raise ConfigError(
                "the data are split already: give a Split, or data with split, split_seed and "
                "filters"
            )
        return Dealt(data.refit() if refit else data)
    dataset = data if isinstance(data, Dataset) else load(data)
    said: list[str] = []
    for text in filters:
        dataset, report = parse_filter(text).apply(dataset)
        said.append(str(report))
        say(said[-1])
    dealt = split(dataset, spec or default_split(dataset), seed=split_seed or 0)
    return Dealt(dealt.refit() if refit else dealt, tuple(said))


def _complete(
    folder: Path,
    record: RunRecord,
    model: Recommender,
    dealt: Split,
    world: World,
    how: Mapping[str, Any],
) -> None:
    """Whatever is left to do of a run: train (`how` is for the trainer), write, evaluate."""
    if record.status in ("training", "stopped"):
        valid = dealt.valid
        result = train(
            model,
            dealt.train,
            seed=record.seed,
            validate=None if valid is None else validation(model, valid),
            folder=folder,
            **how,
        )
        if world.leads:
            tensors = write_weights(folder, model.state())
            record = record.changed(
                status="evaluating",
                seconds=round(result.seconds, 3),
                best=dict(result.best),
                tensors=tensors,
            )
            record.save(folder)
            (folder / CHECKPOINT).unlink(missing_ok=True)
    elif world.leads:
        model.load_state(read_weights(folder, record))
        model.to(choose_device(how["device"])).eval()
    if world.leads:
        _evaluate(folder, record, model, dealt)


def _evaluate(folder: Path, record: RunRecord, model: Recommender, dealt: Split) -> None:
    """Evaluate the parts asked for and finish the run."""
    parts = {"valid": dealt.valid, "test": dealt.test}
    metrics = {}
    for name in record.parts:
        part = parts[name]
        if part is not None:
            found = measure(model, part, train=dealt.train)
            save_evaluation(folder, name, found, dealt.dataset, part)
            metrics[name] = plain_values(found)
    record.changed(status="finished", metrics=metrics).save(folder)
