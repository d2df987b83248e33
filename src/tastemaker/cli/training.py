"""Commands that train: one run, or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.options import (
    Address,
    Assignments,
    Config,
    Data,
    Device,
    EngineName,
    Filters,
    Json,
    Model,
    Quiet,
    Seed,
    SplitSeed,
    SplitSpec,
    emit,
    leads,
    settings,
)
from tastemaker.console import is_quiet, say, set_quiet

__all__ = ["train", "tune"]


def train(
    data: Data,
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--folder", "-o", help="The run's folder [runs/DATA-MODEL]."),
    ] = None,
    split: SplitSpec = None,
    filters: Filters = None,
    assignments: Assignments = None,
    config: Config = None,
    device: Device = "auto",
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    refit: Annotated[bool, typer.Option(help="Train on the validation rows, too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run.")] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="Mirror the log: tensorboard, mlflow. Repeatable.")
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Time between checkpoints, for resuming.")
    ] = 60.0,
    engine: EngineName = "local",
    address: Address = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of the cluster that train together.")
    ] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a method and evaluate it; a run folder keeps it all."""
    from tastemaker.experiment.cluster import engine_named

    set_quiet(quiet or is_quiet() or not leads())
    with engine_named(engine, address=address, device=device, workers=workers) as found:
        run = found.fit(
            data,
            model,
            out=out,
            seed=seed,
            device=device,
            split=split,
            split_seed=split_seed,
            filters=filters or (),
            refit=refit,
            overwrite=overwrite,
            track=track or (),
            checkpoint_seconds=checkpoint_seconds,
            **settings(assignments, config),
        )
    if not leads():
        return
    if not (as_json or is_quiet()):
        from tastemaker.experiment import tables

        tables.show(tables.of_run(run, run.record.parts, k=10))
        say(f"run: {run.folder}  (trained in {run.record.seconds:.1f} s)")
    if as_json:
        emit(
            {
                "run": str(run.folder),
                "model": run.record.model,
                "metrics": run.metrics,
                "seconds": run.record.seconds,
            }
        )


def tune(
    data: Data,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "--folder", "-o", help="Folder of the trials.")],
    trials: Annotated[int, typer.Option(min=1, help="How many, earlier calls included.")] = 20,
    minutes: Annotated[float | None, typer.Option(help="Time, earlier calls included.")] = None,
    at_once: Annotated[
        int, typer.Option(min=1, help="Trials of a round; a cluster runs them together.")
    ] = 1,
    metric: Annotated[str, typer.Option(help="Validation metric that chooses.")] = "ndcg@10",
    split: SplitSpec = None,
    filters: Filters = None,
    assignments: Assignments = None,
    config: Config = None,
    device: Device = "auto",
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    engine: EngineName = "local",
    address: Address = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search settings on the validation part; --set fixes some."""
    from tastemaker.experiment.cluster import engine_named
    from tastemaker.experiment.tune import tune as search

    set_quiet(quiet or is_quiet())
    with engine_named(engine, address=address, device=device) as found:
        tuned = search(
            data,
            model,
            out=out,
            trials=trials,
            minutes=minutes,
            at_once=at_once,
            metric=metric,
            seed=seed,
            device=device,
            split=split,
            split_seed=split_seed,
            filters=filters or (),
            engine=found,
            **settings(assignments, config),
        )
    if as_json:
        emit(tuned.to_json())
    if not (as_json or is_quiet()):
        from tastemaker.experiment import tables

        tables.show(tables.outcome(tuned))
