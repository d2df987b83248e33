"""The report of a run: one HTML file with everything inside, for a desk, a phone or a printer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tastemaker.data import Ragged
from tastemaker.experiment.charts import interval_bar, line_chart
from tastemaker.experiment.tables import number, size
from tastemaker.files import write_text

if TYPE_CHECKING:
    from tastemaker.data import Part
    from tastemaker.evaluation import Estimate, Evaluation
    from tastemaker.experiment.run import PartName, Run

__all__ = ["rendered_report", "write_report"]

_HEADLINES = ("ndcg@10", "recall@10", "hr@10", "mrr@10", "auc", "gauc", "log_loss")
_SLICED = ("ndcg@10", "recall@10")
_EXAMPLES = 5  # users shown
_LATEST = 10  # events of a history shown
_LISTED = 10  # recommendations shown


def write_report(run: Run, path: Path) -> Path:
    """Write the report of `run` to `path`; it appears whole. Returns the path."""
    write_text(path, rendered_report(run))
    return path


def rendered_report(run: Run) -> str:
    """The report of `run` as one HTML document."""
    record = run.record
    parts: tuple[PartName, ...] = ("test", "valid")
    kept = {part: found for part in parts if (found := run.evaluation(part)) is not None}
    shown = next(iter(kept), None)
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = f"{record.model} on {record.data}"
    sections = [
        _header(run),
        _tiles(kept[shown], shown) if shown else "",
        _curves(run.history, record.best),
        _metrics(kept),
        _slices(kept[shown], shown) if shown else "",
        _examples(run, shown) if shown else "",
        _made_with(run),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f'\n<footer class="soft">Made by tastemaker {escape(record.version)}.</footer>\n'
        "</main>\n</body>\n</html>\n"
    )


def _header(run: Run) -> str:
    record = run.record
    users, items, events = run.dataset.n_users, run.dataset.n_items, run.dataset.n_interactions
    facts = [
        f"{users:,} users, {items:,} items, {events:,} interactions",
        f"split {record.split}" + (", refitted on the validation rows" if record.refit else ""),
        f"trained in {_duration(record.seconds)}, {record.started[:10]}, seed {record.seed}",
    ]
    lines = "".join(f'<p class="soft">{escape(fact)}</p>' for fact in facts)
    return f"<h1>{escape(record.model)} on {escape(record.data)}</h1>{lines}"


def _tiles(found: Evaluation, part: str) -> str:
    chosen = {name: found.values[name] for name in _HEADLINES if name in found.values}
    if chosen.get("hr@10") == chosen.get("recall@10"):  # one target a query: the same number
        chosen.pop("hr@10", None)
    tiles = [
        f'<div class="card tile"><div class="name">{part} {_metric_name(name)}</div>'
        f'<div class="value">{number(estimate.value)}</div>'
        f'<div class="soft">{_interval(estimate)}</div></div>'
        for name, estimate in chosen.items()
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _curves(history: Sequence[Mapping[str, Any]], best: Mapping[str, int]) -> str:
    """Loss and validation metrics over the epochs of each gradient stage."""
    charts = []
    for stage in dict.fromkeys(record["stage"] for record in history):
        epochs = [r for r in history if r["stage"] == stage and "epoch" in r]
        losses = {
            name: [(r["epoch"] + 1, r[name]) for r in epochs if name in r]
            for name in dict.fromkeys(name for r in epochs for name in r if name.endswith("loss"))
        }
        if len(epochs) > 1 and losses:
            title = f"{stage}: training loss"
            charts.append(line_chart(losses, title=title, x_label="epoch", mark=None))
        validated = [r for r in epochs if "valid" in r]
        if len(validated) > 1:
            charts.append(_validation_chart(stage, validated, best.get(stage)))
    if not charts:
        return ""
    cards = "".join(f'<div class="card">{chart}</div>' for chart in charts)
    return f'<h2>Curves</h2><div class="pair">{cards}</div>'


def _validation_chart(stage: str, records: Sequence[Mapping[str, Any]], best: int | None) -> str:
    names = list(records[0]["valid"])
    series = {
        _metric_name(name): [(r["epoch"] + 1, r["valid"][name]) for r in records] for name in names
    }
    kept = {r["epoch"]: r["valid"][names[0]] for r in records}
    mark, title = None, f"{stage}: validation"
    if best is not None and best in kept:
        mark, title = (best + 1, kept[best]), f"{title}, best at epoch {best + 1}"
    return line_chart(series, title=title, x_label="epoch", mark=mark)


def _metrics(kept: Mapping[PartName, Evaluation]) -> str:
    if not kept:
        return ""
    names = list(dict.fromkeys(name for found in kept.values() for name in found.values))
    head = "".join(
        f'<th class="number">{part} <span class="spread">95 % interval</span></th>' for part in kept
    )
    body = []
    for name in names:
        cells = [f"<td>{_metric_name(name)}</td>"]
        for found in kept.values():
            estimate = found.values.get(name)
            value = "-" if estimate is None else number(estimate.value)
            spread = "" if estimate is None else _interval(estimate)
            cells.append(f'<td class="number">{value} <span class="spread">{spread}</span></td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(
        f'<p class="soft">{part}: {found.n_queries:,} queries; {escape(found.protocol)}</p>'
        for part, found in kept.items()
    )
    table = _table(f"<th>metric</th>{head}", body)
    return f'<h2>Metrics</h2><div class="card">{table}{notes}</div>'


def _slices(found: Evaluation, part: str) -> str:
    """Whom the model serves: the same metric for parts of the queries."""
    if not found.slices:
        return ""
    cards = []
    for name in _SLICED:
        rows = {"all": found.values, **found.slices}
        chosen = {row: values[name] for row, values in rows.items() if name in values}
        chosen = {row: value for row, value in chosen.items() if not math.isnan(value.value)}
        ends = [e.value if math.isnan(e.high) else e.high for e in chosen.values()]
        most = max(ends, default=0.0)
        body = [
            f'<tr><td>{escape(row)}</td><td class="number">{e.n:,}</td>'
            f'<td class="number">{number(e.value)}</td><td class="bar">{_bar(e, most)}</td></tr>'
            for row, e in chosen.items()
        ]
        head = '<th>slice</th><th class="number">queries</th><th class="number">value</th><th></th>'
        cards.append(
            f'<div class="card"><h3>{part} {_metric_name(name)}</h3>{_table(head, body)}</div>'
        )
    return f'<h2>Slices</h2><div class="pair">{"".join(cards)}</div>'


def _bar(estimate: Estimate, most: float) -> str:
    low = estimate.value if math.isnan(estimate.low) else estimate.low
    high = estimate.value if math.isnan(estimate.high) else estimate.high
    return interval_bar(low, estimate.value, high, most=most)


def _examples(run: Run, name: PartName) -> str:
    """What a few users did, got, and chose next; spread evenly over the part."""
    part = run.part(name)
    rows = np.unique(np.linspace(0, len(part) - 1, _EXAMPLES).astype(np.int64))
    queries = part.queries.take(rows)
    found = run.model.recommend(queries, _LISTED, exclude=queries.histories.items)
    items, scores = found.items.cpu().numpy(), found.scores.cpu().numpy()
    cards = [
        _example(run, part, int(row), items[place], scores[place]) for place, row in enumerate(rows)
    ]
    note = (
        '<p class="soft">The latest events of users of the '
        f"{name} part, and what the model recommends next; what the user really chose is marked."
        "</p>"
    )
    return f"<h2>Example recommendations</h2>{note}{''.join(cards)}"


def _example(run: Run, part: Part, row: int, items: np.ndarray, scores: np.ndarray) -> str:
    dataset = run.dataset
    user = escape(str(dataset.user_ids.raw(int(part.users[row]))))
    history: Ragged = part.queries.histories.items
    known = history.row(row)
    targets = part.targets.row(row)
    latest = _titled(dataset.titles(known[-_LATEST:]), start=max(0, len(known) - _LATEST) + 1)
    kept = items >= 0
    listed = "".join(
        f'<li{_hit(item in targets)}>{escape(title)}<span class="score">{score:.3g}</span></li>'
        for item, title, score in zip(
            items[kept], dataset.titles(items[kept]), scores[kept], strict=True
        )
    )
    hits = int(np.isin(targets, items).sum())
    chose = ", ".join(dataset.titles(targets[:3])) + (" ..." if len(targets) > 3 else "")
    return (
        f'<div class="card example"><h3>User {user}</h3><div class="pair">'
        f'<div><p class="soft">history, {len(known):,} events</p>{latest}</div>'
        f'<div><p class="soft">recommended</p><ol>{listed}</ol></div></div>'
        f'<p class="soft">chose next: {escape(chose)} &middot; '
        f"{hits} of {len(targets)} in the list</p></div>"
    )


def _titled(titles: Iterable[str], *, start: int) -> str:
    listed = "".join(f"<li>{escape(title)}</li>" for title in titles)
    return f'<ol start="{start}">{listed}</ol>'


def _hit(is_hit: bool) -> str:
    return ' class="hit"' if is_hit else ""


def _made_with(run: Run) -> str:
    """Settings, data and environment."""
    record = run.record
    environment = dict(record.environment)
    packages = environment.pop("packages", {})
    memory = environment.pop("memory_bytes", None)
    environment |= {"memory": size(memory), **packages}
    data = {
        "data set": record.data,
        "fingerprint": record.fingerprint[:16],
        "filters": "; ".join(record.filtered) or "none",
        "split": f"{record.split}, seed {record.split_seed}",
        "dealt": "; ".join(record.dealt),
        "weights": f"{sum(math.prod(t.shape) for t in record.tensors.values()):,} numbers",
    }
    cards = "".join(
        f'<div class="card"><h3>{title}</h3>{_facts(values)}</div>'
        for title, values in (
            ("Settings", {**record.settings, "seed": record.seed}),
            ("Data", data),
            ("Environment", environment),
        )
    )
    return f'<h2>Made with</h2><div class="pair">{cards}</div>'


def _facts(values: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(name)}</td><td>{escape(_setting(value))}</td></tr>"
        for name, value in values.items()
    ]
    return f'<table class="facts">{"".join(rows)}</table>'


def _table(head: str, body: Sequence[str]) -> str:
    rows = "".join(body)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def _setting(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
    return str(value)


def _metric_name(name: str) -> str:
    """`"ndcg@10"` as people write it."""
    kind, at, cut = name.partition("@")
    shown = (
        kind.upper()
        if kind in ("ndcg", "hr", "mrr", "map", "auc", "gauc")
        else kind.replace("_", " ")
    )
    return escape(f"{shown}{at}{cut}")


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return ""
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
