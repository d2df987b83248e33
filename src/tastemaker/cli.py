"""The command line: one thin function a command; everything is imported where it is used.

Results go to stdout, messages and progress to stderr. With `--json` the last line on stdout is one
JSON value. Exit codes: 0 done, 1 a fault of the program, 2 a fault of the input, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tastemaker import __version__
from tastemaker.console import is_quiet, say, set_quiet
from tastemaker.errors import ConfigError, DataError, TastemakerError

__all__ = ["app", "main"]

app = typer.Typer(
    help="One system for recommendation: a log in, honest recommendations out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Data sets: list, show, get, import.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on the last line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, no progress.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="A data set's name or folder.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A method (see `tastemaker models`).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
SplitSpec = Annotated[
    str | None, typer.Option("--split", help="Such as leave-one-out or ratio:test=0.2,by=user.")
]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split.")]
Filters = Annotated[
    list[str] | None, typer.Option("--filter", help="Such as k-core:users=5,items=5. Repeatable.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting. Repeatable.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings from a TOML or JSON file; --set wins.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random stream.")]
Length = Annotated[int, typer.Option("--k", "-k", min=1, help="Items in a list.")]


def main() -> None:
    """Run the command line and leave with its exit code."""
    debugging = os.environ.get("TASTEMAKER_DEBUG", "") not in ("", "0")
    try:
        code = app(standalone_mode=False)
    except (TastemakerError, FileExistsError, PermissionError, typer.TyperException) as error:
        if debugging:
            raise
        fault = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _leave(2, f"error: {' '.join(fault.split())}")
    except (KeyboardInterrupt, typer.Abort):
        _leave(130, "interrupted; the same command goes on where it stood")
    except BrokenPipeError:  # the reader of a pipe left: nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(0)
    except Exception as error:
        if debugging:
            raise
        _leave(
            1,
            f"internal error: {type(error).__name__}: {error}; set TASTEMAKER_DEBUG=1 for the "
            "traceback, and please report it",
        )
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: int, message: str = "") -> None:
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)


def _emit(value: Any) -> None:
    """One JSON value on the last line; NaN is written as null."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case str() | int() | float() | None:
            return value
    return str(value)


def _settings(assignments: list[str] | None, config: Path | None) -> dict[str, Any]:
    from tastemaker.experiment.settings import parse_assignments, read_settings

    return {**(read_settings(config) if config else {}), **parse_assignments(assignments or [])}


def _leads() -> bool:
    """Whether this is the process that speaks, of those `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@data_app.command("list")
def data_list(as_json: Json = False, quiet: Quiet = False) -> None:
    """The data sets known here, and where they are."""
    from dataclasses import asdict

    from tastemaker.data.catalog import list_datasets

    set_quiet(quiet or is_quiet())
    listings = list_datasets()
    if as_json:
        _emit({"datasets": [asdict(listing) for listing in listings]})
        return
    from tastemaker.experiment import tables

    columns = ("name", "users", "items", "interactions", "licence", "where")
    values = [[getattr(listing, column) for column in columns] for listing in listings]
    tables.show(tables.rows(columns, values))


@data_app.command("show")
def data_show(data: Data, as_json: Json = False, quiet: Quiet = False) -> None:
    """Sizes, time range and columns of a data set."""
    from tastemaker.data import load

    set_quiet(quiet or is_quiet())
    dataset = load(data)
    found = {**dataset.describe(), "fingerprint": dataset.fingerprint}
    if as_json:
        _emit(found)
        return
    from tastemaker.experiment import tables

    shown = {name: value for name, value in found.items() if not isinstance(value, dict)}
    for name, value in found.items():
        if isinstance(value, dict) and value:
            shown[name] = ", ".join(f"{key} {tables.number(inner)}" for key, inner in value.items())
    shown.pop("columns", None)
    tables.show(tables.facts(shown))
    for name, columns in found["columns"].items():
        if columns:
            listing = [[column, kind] for column, kind in columns.items()]
            tables.show(tables.rows((name, "type"), listing))


@data_app.command("get")
def data_get(
    data: Data,
    to: Annotated[Path | None, typer.Option(help="Store a copy in this folder, too.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a data set or download it, check it and store it for use offline."""
    from tastemaker.data import load
    from tastemaker.data.catalog import get

    set_quiet(quiet or is_quiet())
    folder = get(data)
    dataset = load(folder)
    if to is not None:
        dataset.save(to)
    _stored(dataset, to or folder, as_json)


def _stored(dataset: Any, folder: Path, as_json: bool) -> None:
    """Say what was stored where."""
    say(f"{dataset!r} in {folder}")
    for reason, count in dataset.dropped.items():
        say(f"dropped {count:,} rows: {reason}")
    if as_json:
        _emit(
            {
                "name": dataset.name,
                "folder": str(folder),
                "users": dataset.n_users,
                "items": dataset.n_items,
                "interactions": dataset.n_interactions,
                "dropped": dict(dataset.dropped),
                "fingerprint": dataset.fingerprint,
            }
        )


@data_app.command("import")
def data_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSONL, Parquet, Arrow.")],
    user: Annotated[str, typer.Option(help="Column of user ids.")],
    item: Annotated[str, typer.Option(help="Column of item ids.")],
    to: Annotated[Path, typer.Option(help="Folder to store the data set in.")],
    time: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    order: Annotated[str | None, typer.Option(help="Column of positions, if no times.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of ratings or labels.")] = None,
    behavior: Annotated[str | None, typer.Option(help="Column of kinds of event.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of train/valid/test.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of items.")] = None,
    item_id: Annotated[str | None, typer.Option(help="Its id column.")] = None,
    title: Annotated[str | None, typer.Option(help="Its column that names an item.")] = None,
    users: Annotated[Path | None, typer.Option(help="Table of users.")] = None,
    user_id: Annotated[str | None, typer.Option(help="Its id column.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of CSV files.")] = None,
    unmatched: Annotated[
        str, typer.Option(help="fail, or drop: rows whose item or user is not in its table.")
    ] = "fail",
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read your own log and store it as a data set."""
    from tastemaker.data import import_files

    set_quiet(quiet or is_quiet())
    if to.exists():
        raise DataError(f"{to} exists already; choose another folder with --to, or remove it")
    if unmatched not in ("fail", "drop"):
        raise ConfigError(f"--unmatched is 'fail' or 'drop', not {unmatched!r}")
    options: dict[str, Any] = {
        "timestamp": time,
        "order": order,
        "label": label,
        "behavior": behavior,
        "split": split,
        "items": items,
        "item_id": item_id,
        "title": title,
        "users": users,
        "user_id": user_id,
        "separator": separator,
        "name": name or to.name,
        "unmatched": unmatched,
    }
    given = {key: value for key, value in options.items() if value is not None}
    dataset = import_files(file, user=user, item=item, **given)
    dataset.save(to)
    _stored(dataset, to, as_json)


@app.command("models")
def models_command(
    name: Annotated[str | None, typer.Argument(help="Show this method's settings.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The methods, or one method's settings."""
    from tastemaker.models.catalog import entries, find

    set_quiet(quiet or is_quiet())
    if name is not None:
        _one_model(find(name), as_json)
        return
    known = [
        {
            "name": entry.name,
            "family": entry.family,
            "task": entry.task,
            "needs": list(entry.needed()),
            "paper": entry.paper,
        }
        for entry in entries().values()
    ]
    if as_json:
        _emit(known)
        return
    from tastemaker.experiment import tables

    values = [
        [row["name"], row["family"], row["task"], ", ".join(row["needs"]) or "-", row["paper"]]
        for row in known
    ]
    tables.show(tables.rows(("name", "family", "task", "needs", "paper"), values))


def _one_model(entry: Any, as_json: bool) -> None:
    from tastemaker.experiment.settings import documented

    kind = entry.load()
    settings = documented(kind.Config)
    presets = {name: dict(values) for name, values in kind.presets.items()}
    if as_json:
        described = [
            {"name": s.name, "type": s.type, "default": s.default, "meaning": s.meaning}
            for s in settings
        ]
        search = {name: str(space) for name, space in kind.search.items()}
        about = {key: getattr(entry, key) for key in ("name", "family", "task", "paper")}
        needs = list(entry.needed())
        _emit(
            {**about, "needs": needs, "settings": described, "presets": presets, "search": search}
        )
        return
    from tastemaker.experiment import tables

    tables.show(tables.facts({"model": entry.name, "family": entry.family, "paper": entry.paper}))
    values = [[s.name, s.type, str(s.default), s.meaning] for s in settings]
    tables.show(tables.rows(("setting", "type", "default", "meaning"), values))
    if presets:
        spelled = [
            [name, ", ".join(f"{key}={value}" for key, value in preset.items())]
            for name, preset in presets.items()
        ]
        tables.show(tables.rows(("preset", "settings"), spelled))


@app.command()
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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a method, evaluate it, and keep everything in a run folder."""
    from tastemaker.experiment.fitting import fit
    from tastemaker.experiment.trackers import following

    set_quiet(quiet or is_quiet() or not _leads())
    settings = _settings(assignments, config)
    with following(track or [] if _leads() else []) as listeners:
        run = fit(
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
            listeners=listeners,
            **settings,
        )
    if not _leads():
        return
    if not is_quiet():
        _show_metrics(run, run.record.parts)
        say(f"run: {run.folder}  (trained in {run.record.seconds:.1f} s)")
    if as_json:
        _emit(
            {
                "run": str(run.folder),
                "model": run.record.model,
                "metrics": run.metrics,
                "seconds": run.record.seconds,
            }
        )


def _show_metrics(run: Any, parts: Any) -> None:
    from tastemaker.experiment import tables

    found = {part: kept for part in parts if (kept := run.evaluation(part)) is not None}
    title = f"{run.record.model} on {run.record.data}, {run.record.split}"
    tables.show(tables.metrics(found, title=title))


@app.command()
def evaluate(
    run: RunFolder,
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
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
        _emit({"run": str(run), "model": opened.record.model, "part": part, **found.to_json()})
        return
    _show_metrics(opened, [part])
    print(f"{found.n_queries:,} queries; {found.protocol}")


@app.command()
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
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recommend items for a known user, or for a history."""
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    if (user is None) == (history is None):
        raise ConfigError("recommend for whom? give either --user ID or --history ID,ID,...")
    opened = open_run(run, device=device)
    answer = opened.answer(
        user,
        histories=None if history is None else [_ids(history)],
        k=k,
        allow=None if allow is None else _ids_of_file(allow),
        exclude=None if exclude is None else _ids_of_file(exclude),
        exclude_seen=not include_seen,
    )
    if answer.ignored:
        say(f"ignored, as the run does not know them: {', '.join(answer.ignored)}")
    title = f"for user {user}" if user is not None else f"after {history}"
    _show_answer(opened, "recommendations", answer, title, as_json)


def _ids(text: str) -> list[str]:
    """Comma-separated ids; a line break separates, too."""
    return [part for line in text.splitlines() for part in line.split(",") if part.strip()]


def _ids_of_file(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; it holds item ids, one a line")
    found = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; it holds item ids, one a line")
    return found


def _show_answer(run: Any, name: str, answer: Any, title: str, as_json: bool) -> None:
    if as_json:
        _emit(
            {
                "run": str(run.folder),
                "model": run.record.model,
                name: answer.frame.to_dicts(),
                "ignored": list(answer.ignored),
            }
        )
        return
    from tastemaker.experiment import tables

    shown = answer.frame.drop("query")
    tables.show(tables.frame(shown, title=f"{run.record.model}: {title}"))


@app.command()
def similar(
    run: RunFolder,
    item: Annotated[str, typer.Option(help="An item id of the run's data.")],
    k: Length = 10,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The items most like one."""
    from tastemaker.experiment.answers import similar as find_similar
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    opened = open_run(run, device=device)
    answer = find_similar(opened.model, opened.dataset, items=item, k=k)
    codes = opened.dataset.item_ids.encode([item])
    title = f"like {item} ({opened.dataset.titles(codes)[0]})"
    _show_answer(opened, "similar", answer, title, as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="The first is the base.")],
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
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
        _emit({"baseline": str(runs[0]), "part": part, "comparisons": found.to_dicts()})
        return
    from tastemaker.experiment import tables

    tables.show(tables.comparison(found, baseline=str(runs[0]), part=part))


@app.command()
def tune(
    data: Data,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "--folder", "-o", help="Folder of the trials.")],
    trials: Annotated[int, typer.Option(min=1, help="How many, earlier calls included.")] = 20,
    minutes: Annotated[float | None, typer.Option(help="Time, earlier calls included.")] = None,
    metric: Annotated[str, typer.Option(help="Validation metric to maximise.")] = "ndcg@10",
    split: SplitSpec = None,
    filters: Filters = None,
    assignments: Assignments = None,
    config: Config = None,
    device: Device = "auto",
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a method's settings on the validation part; --set fixes some of them."""
    from tastemaker.experiment.tune import tune as search

    set_quiet(quiet or is_quiet())
    tuned = search(
        data,
        model,
        out=out,
        trials=trials,
        minutes=minutes,
        metric=metric,
        seed=seed,
        device=device,
        split=split,
        split_seed=split_seed,
        filters=filters or (),
        **_settings(assignments, config),
    )
    if as_json:
        _emit(tuned.to_json())
    if not (as_json or is_quiet()):
        from tastemaker.experiment import tables

        tables.show(tables.outcome(tuned))


@app.command()
def report(
    run: RunFolder,
    to: Annotated[Path | None, typer.Option(help="The file [RUN/report.html].")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    from tastemaker.experiment.run import open_run

    set_quiet(quiet or is_quiet())
    path = open_run(run).report(to)
    if as_json:
        _emit({"run": str(run), "report": str(path)})
    else:
        say(f"report: {path}")


@app.command()
def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """What is installed, which devices there are, what the caches hold."""
    from tastemaker.experiment.doctor import examine

    set_quiet(quiet or is_quiet())
    found = examine()
    if as_json:
        _emit(found)
        return
    from tastemaker.experiment import tables

    for table in tables.examination(found):
        tables.show(table)
