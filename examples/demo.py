"""The demonstration: MovieLens-100K in, three methods compared, recommendations out.

Run by `make demo`. Everything it does is also a `tastemaker` command; see README.md.
"""

from __future__ import annotations

import sys

import polars as pl
from rich.console import Console
from rich.table import Table

import tastemaker as tm
from tastemaker.errors import TastemakerError

MODELS = ("popularity", "ease", "sasrec")
METRICS = ("ndcg@10", "hr@10", "coverage@10")
USER = 196
HISTORY = (50, 172, 181, 183, 89)
SEED = 0

console = Console(width=110, highlight=False)


def main() -> None:
    """Train, compare, recommend, report."""
    dataset = tm.load("ml-100k")
    split = tm.split(dataset, "leave-one-out", seed=SEED)
    runs = {}
    for name in MODELS:
        console.print(f"Training {name}")
        runs[name] = tm.fit(split, name, out=f"runs/demo/{name}", seed=SEED, overwrite=True)
    print_metrics(runs)
    run = runs["sasrec"]
    liked = ", ".join(dataset.titles(dataset.item_ids.encode(HISTORY)))
    print_answer(f"For user {USER}", run.recommend([USER], k=10))
    print_answer(f"For somebody new who liked {liked}", run.recommend(histories=[HISTORY], k=10))
    console.print(f"\nRun     {run.folder}\nReport  {run.report()}")


def print_metrics(runs: dict[str, tm.Run]) -> None:
    """The test metrics of the runs with their 95 % intervals."""
    title = "The last event of each user, all items ranked; 95 % intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    table.add_column("seconds", justify="right")
    for name, run in runs.items():
        evaluation = run.evaluation("test")
        assert evaluation is not None
        cells = [str(evaluation.values[metric]) for metric in METRICS]
        table.add_row(name, *cells, f"{run.record.seconds:.1f}")
    console.print(table, markup=False)


def print_answer(title: str, answer: pl.DataFrame) -> None:
    """One list of recommendations."""
    console.print(f"\n{title}:", markup=False)
    for rank, item, name in answer.select("rank", "item", "title").iter_rows():
        console.print(f"{rank:>4}  {name}  (item {item})", markup=False)


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
