"""Commands on finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tastemaker.cli.options import (
    Address,
    Device,
    EngineName,
    Json,
    Length,
    PartOption,
    Quiet,
    RunFolder,
    emit,
)
from tastemaker.console import is_quiet, say, set_quiet
from tastemaker.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tastemaker.experiment.batch import BatchJob

__all__ = ["compare", "evaluate", "recommend", "report", "similar"]


def evaluate(
    run: RunFolder,
    part: PartOption = "test",
    metric: Annotated[
        list[str] | None, typer.Option(help="Such as ndcg@10. Repeatable [all].")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Items of the history may be recommended.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run again and keep the result in it."""
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    opened = open_run(run, device=device)
    found = opened.evaluate(
        part,  # type: ignore[arg-type]  # checked there
        metrics=metric or None,
        exclude_seen=not include_seen,
    )
    if as_json:
        metrics = {part: opened.metrics[part]}
        about = {"run": str(run), "model": opened.record.model, "part": part, "metrics": metrics}
        emit({**about, **found.to_json()})
        return
    from tastemaker.experiment import tables

    tables.show(tables.metrics({part: found}, title=f"{opened.record.model} on {part}"))
    typer.echo(f"{found.n_queries:,} queries; {found.protocol}")


def recommend(
    run: RunFolder,
    user: Annotated[str | None, typer.Option(help="A user id of the run's data.")] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Item ids, oldest first.")
    ] = None,
    k: Length = 10,
    allow: Annotated[
        Path | None, typer.Option(help="File of the only item ids to recommend, one a line.")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="File of item ids not to recommend, one a line.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Items of the history may be recommended.")
    ] = False,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Everybody, into the Parquet file of --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file for --all-users; interrupted, it goes on.")
    ] = None,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recommend for a user, for a history, or for everybody."""
    from tastemaker.experiment import answers
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    if all_users:
        if user is not None or history is not None or allow is not None or exclude is not None:
            raise ConfigError("--all-users takes no --user, --history, --allow or --exclude")
        from tastemaker.experiment.batch import BatchJob

        if out is None:
            raise ConfigError("--all-users writes a file; name it with --out FILE.parquet")
        _everybody(BatchJob(run, out, k, include_seen, device), engine, address, as_json)
        return
    if engine != "local" or address is not None:
        raise ConfigError("--engine and --address are for --all-users")
    if (user is None) == (history is None):
        raise ConfigError(
            "recommend for whom? give --user ID or --history ID,ID,..., or --all-users --out FILE"
        )
    opened = open_run(run, device=device)
    answer = answers.recommend(
        opened.model,
        opened.split.train,
        users=user,
        histories=None if history is None else [ids(history)],
        k=k,
        allow=None if allow is None else ids_of_file(allow),
        exclude=None if exclude is None else ids_of_file(exclude),
        exclude_seen=not include_seen,
    )
    if answer.ignored:
        say(f"ignored, as the run does not know them: {answers.some_of(answer.ignored)}")
    title = f"for user {user}" if user is not None else f"after {history}"
    _show_answer(opened, "recommendations", answer, title, as_json)


def _everybody(job: BatchJob, engine: str, address: str | None, as_json: bool) -> None:
    from tastemaker.experiment.batch import recommend_everybody
    from tastemaker.experiment.cluster import engine_named

    with engine_named(engine, address=address, device=job.device) as found:
        count = recommend_everybody(job, found)
    if as_json:
        emit({"run": str(job.run), "out": str(job.out), "users": count, "k": job.k})
    else:
        typer.echo(f"{job.out}: lists of {count:,} users")


def ids(text: str) -> list[str]:
    """Comma-separated ids; a line break separates, too."""
    return [part.strip() for line in text.splitlines() for part in line.split(",") if part.strip()]


def ids_of_file(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; it holds item ids, one a line")
    found = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; it holds item ids, one a line")
    return found


def _show_answer(run: Any, name: str, answer: Any, title: str, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "run": str(run.folder),
                "model": run.record.model,
                name: answer.frame.to_dicts(),
                "ignored": list(answer.ignored),
            }
        )
        return
    import polars as pl

    from tastemaker.experiment import tables

    shown = answer.frame.drop("query").cast({"item": pl.String})  # an id is no quantity
    tables.show(tables.frame(shown, title=f"{run.record.model}: {title}"))


def similar(
    run: RunFolder,
    item: Annotated[str, typer.Option(help="An item id of the run's data.")],
    k: Length = 10,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The items most like one."""
    from tastemaker.experiment import answers
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    opened = open_run(run, device=device)
    answer = answers.similar(opened.model, opened.dataset, items=item, k=k)
    codes = opened.dataset.item_ids.encode([item])
    title = f"like {item} ({opened.dataset.titles(codes)[0]})"
    _show_answer(opened, "similar", answer, title, as_json)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="The base first.")],
    part: PartOption = "test",
    metric: Annotated[list[str] | None, typer.Option(help="Such as ndcg@10. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs with the first one, query by query."""
    from tastemaker.experiment.compare import compare as compare_runs

    set_quiet(quiet or is_quiet())
    if part not in ("valid", "test"):
        raise ConfigError(f"part {part!r} is neither 'valid' nor 'test'")
    found = compare_runs(*runs, part=part, metrics=metric or None, seed=seed)  # type: ignore[arg-type]
    if as_json:
        emit({"baseline": str(runs[0]), "part": part, "comparisons": found.to_dicts()})
        return
    from tastemaker.experiment import tables

    tables.show(tables.comparison(found, baseline=str(runs[0]), part=part))


def report(
    run: RunFolder,
    to: Annotated[Path | None, typer.Option(help="The file [RUN/report.html].")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's report, one HTML file that needs no network."""
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    path = open_run(run).report(to)
    if as_json:
        emit({"run": str(run), "report": str(path)})
    else:
        say(f"report: {path}")
