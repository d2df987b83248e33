"""The generated parts of the documents: `make tables` writes them, a test compares them.

A part stands between `<!-- NAME: written by make tables -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from typer.main import get_command

import performance
import reproduce
from tastemaker.data import Dataset, KnowledgeGraph, split
from tastemaker.experiment.settings import documented
from tastemaker.models.base import GradientConfig, Recommender
from tastemaker.models.catalog import ENTRIES, Entry

__all__ = ["PARTS", "rendered"]

ROOT = Path(__file__).resolve().parent.parent


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def about(entry: Entry) -> tuple[str, str]:
    """The method's own spelling of its name, and what it does: the first line of its module."""
    first = inspect.getdoc(importlib.import_module(entry.module)).split("\n\n")[0]
    name, _, does = " ".join(first.split()).partition(": ")
    return name, does[:1].upper() + does[1:]


def methods_in_short() -> str:
    """The table of README.md."""
    rows = [
        [f"`{entry.name}`", about(entry)[1], ", ".join(entry.needed()) or "-", entry.paper]
        for entry in ENTRIES.values()
    ]
    return table(["name", "what it does", "needs", "paper"], rows)


def methods() -> str:
    """The table of docs/methods.md: stages, sizes and our number beside theirs."""
    dataset = shaped_like_ml_100k()
    train = split(dataset, "leave-one-out").train
    results = reproduce.results_by_model()
    rows = []
    for entry in ENTRIES.values():
        model = built(entry, dataset)
        rows.append(
            [
                f"[`{entry.name}`](#{entry.name})",
                entry.paper,
                ", ".join(entry.needed()) or "-",
                ", ".join(stage.name for stage in model.stages(train)),
                size(model),
                "<br>".join(results.get(entry.name, ["-"])),
                f"`tastemaker train ml-100k --model {entry.name} --out runs/{entry.name}`",
            ]
        )
    header = ["name", "paper", "needs", "stages", "parameters", "ours (published)", "command"]
    return table(header, rows)


def built(entry: Entry, dataset: Dataset) -> Recommender:
    """A method with its defaults, but for pretrained models, which need not be installed."""
    kind = entry.load()
    known = {field.name for field in documented(kind.Config)}
    stand_ins = {"features": "text:hashing", "language_model": "tiny-random"}
    return kind.create({name: stand_ins[name] for name in known & set(stand_ins)}, dataset)


def shaped_like_ml_100k() -> Dataset:
    """A log with as many users and items as MovieLens-100K, for counting parameters."""
    n_users, n_items = 943, 1682
    users = [number % n_users for number in range(4 * n_items)]
    log = pl.DataFrame(
        {"user": users, "item": [number % n_items for number in range(4 * n_items)]}
    ).with_columns(
        time=pl.int_range(pl.len()) * 86_400, liked=(pl.col("user") % 2).cast(pl.Float64)
    )
    ids = list(range(n_items))
    dataset = Dataset.from_frame(
        log,
        user="user",
        item="item",
        timestamp="time",
        label="liked",
        items=pl.DataFrame({"item": ids, "title": [f"title {number}" for number in ids]}),
        item_id="item",
        name="shape",
    )
    names = pa.array([f"item {number}" for number in ids])
    relations, kinds = pa.array(["is"] * n_items), pa.array(["a film"] * n_items)
    knowledge = KnowledgeGraph.build(names, relations, kinds, names)
    return dataclasses.replace(dataset, knowledge=knowledge)


def size(model: Recommender) -> str:
    """Trained parameters, or that there are none."""
    if not isinstance(model.config, GradientConfig):
        return "closed form"
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def settings() -> str:
    """One section a method: what it does, what it changed, its settings."""
    return "\n\n".join(section for entry in ENTRIES.values() for section in method_section(entry))


def method_section(entry: Entry) -> Iterator[str]:
    """Heading, module header and settings of one method."""
    yield f"## {entry.name}"
    yield inspect.getdoc(importlib.import_module(entry.module))
    kind = entry.load()
    shared = {field.name: field for field in documented(GradientConfig)}
    rows = [
        [f"`{field.name}`", f"`{field.default}`", field.meaning]
        for field in documented(kind.Config)
        if shared.get(field.name) != field
    ]
    if rows:
        yield table(["setting", "default", "meaning"], rows)
    for name, values in kind.presets.items():
        listed = ", ".join(f"`{key}={value}`" for key, value in values.items())
        yield f"Preset `{name}`: {listed}."


def shared_settings() -> str:
    """The settings every gradient-trained method has."""
    rows = [[f"`{s.name}`", f"`{s.default}`", s.meaning] for s in documented(GradientConfig)]
    return table(["setting", "default", "meaning"], rows)


def commands() -> str:
    """Every command of the command line, with its arguments and options."""
    from tastemaker.cli import app

    root = get_command(app)
    return "\n\n".join(part for path, found in walk(root, ()) for part in command(path, found))


def walk(found: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, in the order of the help."""
    if not hasattr(found, "commands"):
        yield path, found
        return
    for name, inner in found.commands.items():
        yield from walk(inner, (*path, name))


def command(path: tuple[str, ...], found: Any) -> Iterator[str]:
    """Heading, help, usage and options of one command."""
    name = " ".join(("tastemaker", *path))
    context = found.make_context(name, [], resilient_parsing=True)
    yield f"## {name}"
    yield inspect.cleandoc(found.help)
    yield f"```text\n{' '.join([name, *found.collect_usage_pieces(context)])}\n```"
    rows = []
    for parameter in found.params:
        if parameter.param_type_name == "option":
            spelt = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
        else:
            spelt = f"`{parameter.metavar or parameter.name.upper()}`"
        rows.append([spelt, parameter.help or ""])
    yield table(["option", "meaning"], rows)


def example() -> str:
    """The code of the third-party method."""
    path = ROOT / "examples" / "third_party_method" / "src" / "markov_chain" / "__init__.py"
    return f"```python\n{path.read_text(encoding='utf-8')}```"


def source_of(*places: str) -> Callable[[], str]:
    """The code of functions and classes, each `module:name`, as one block."""

    def write() -> str:
        blocks = []
        for place in places:
            module, _, names = place.partition(":")
            found = importlib.import_module(module)
            for name in names.split("."):
                found = getattr(found, name)
            blocks.append(textwrap.dedent(inspect.getsource(found)).strip())
        return "```python\n" + "\n\n\n".join(blocks) + "\n```"

    return write


def header_of(module: str) -> Callable[[], str]:
    """The docstring of a module as a block."""
    return lambda: f"```text\n{inspect.getdoc(importlib.import_module(module))}\n```"


_BM3 = "tastemaker.models.multimodal.bm3"

PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"methods": methods_in_short},
    "docs/adding-a-method.md": {
        "header": header_of(_BM3),
        "settings": source_of(f"{_BM3}:BM3.Config"),
        "vectors": source_of(f"{_BM3}:BM3.representations", f"{_BM3}:BM3.propagated"),
        "op": source_of("tastemaker.losses.bootstrap:cosine_bootstrap"),
        "loss": source_of(f"{_BM3}:BM3.triple_loss", f"{_BM3}:BM3.loss"),
        "unseen": source_of(f"{_BM3}:BM3.fold_in"),
    },
    "docs/cli.md": {"commands": commands},
    "docs/extending.md": {"example": example},
    "docs/methods.md": {
        "methods": methods,
        "shared settings": shared_settings,
        "settings": settings,
    },
    "docs/performance.md": {
        "targets": performance.targets_table,
        "curves": performance.curves_table,
        "memory": performance.ends_table,
        "machines": performance.machines,
    },
    "docs/reproduction.md": {"results": reproduce.results_table},
}


def rendered(path: str) -> str:
    """A document with its generated parts written again."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, write in PARTS[path].items():
        first, last = f"<!-- {name}: written by make tables -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(first)
        _, closed, after = rest.partition(last)
        if not (found and closed):
            raise SystemExit(f"{path}: there is no part between {first!r} and {last!r}")
        text = f"{before}{first}\n{write()}\n{last}{after}"
    return text


def main() -> None:
    """Write every document whose generated parts have changed."""
    for path in PARTS:
        new = rendered(path)
        if (ROOT / path).read_text(encoding="utf-8") != new:
            (ROOT / path).write_text(new, encoding="utf-8")
            print(f"{path} written")


if __name__ == "__main__":
    main()
