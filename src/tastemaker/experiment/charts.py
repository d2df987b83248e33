"""Line charts as inline SVG, drawn here so that a report needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

__all__ = ["interval_bar", "line_chart"]

_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 34
_MOST_POINTS = 500  # of one line; more could not be told apart

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], *, title: str, x_label: str, mark: tuple[float, float] | None
) -> str:
    """Lines over a common x axis.

    Args:
        series: name -> points (x, y), x rising; at most four lines are told apart by colour.
        title: what y is.
        x_label: what x is.
        mark: a point to ring, such as the best epoch.
    """
    points = [point for line in series.values() for point in line]
    x_ticks = _ticks(min(x for x, _ in points), max(x for x, _ in points), whole=True)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    place = _Frame(
        min(x_ticks[0], points[0][0]), max(x_ticks[-1], points[-1][0]), y_ticks[0], y_ticks[-1]
    )
    label = f"{escape(title)} by {escape(x_label)}"
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">',
        f'<text class="chart-title" x="{_LEFT}" y="14">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        y = place.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(
            f'<text class="tick middle" x="{place.x(tick)}" y="{_HEIGHT - _BOTTOM + 16}">'
            f"{tick:g}</text>"
        )
    parts.append(
        f'<text class="tick middle" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}">'
        f"{escape(x_label)}</text>"
    )
    for number, (name, line) in enumerate(series.items()):
        parts.append(_line(place, name, line, number, alone=len(series) == 1))
    if mark is not None:
        x, y = place.x(mark[0]), place.y(mark[1])
        parts.append(
            f'<circle class="mark" cx="{x}" cy="{y}" r="5"><title>best: {mark[1]:.4f} at '
            f"{escape(x_label)} {mark[0]:g}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


class _Frame:
    """From values to places in the picture."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_span = x_low, (x_high - x_low) or 1.0
        self.y_low, self.y_span = y_low, (y_high - y_low) or 1.0

    def x(self, value: float) -> float:
        share = (value - self.x_low) / self.x_span
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / self.y_span
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _line(place: _Frame, name: str, points: Points, number: int, *, alone: bool) -> str:
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = [*points[:-1:step], points[-1]]
    path = " ".join(f"{place.x(x)},{place.y(y)}" for x, y in kept)
    shape = f'<polyline class="line c{number % 4}" points="{path}"/>'
    if len(kept) <= 60:
        shape += "".join(
            f'<circle class="dot c{number % 4}" cx="{place.x(x)}" cy="{place.y(y)}" r="2.2">'
            f"<title>{escape(name)} {y:.4f} at {x:g}</title></circle>"
            for x, y in kept
        )
    if alone:
        return shape
    x = _WIDTH - _RIGHT - 4
    label = f'<text class="legend c{number % 4}" x="{x}" y="{_TOP + 6 + 13 * number}">'
    return f"{shape}{label}{escape(name)}</text>"


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to seven round numbers that enclose `low` and `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    if whole:
        step = max(1.0, float(round(step)))
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step), math.ceil(high / step)
        last = max(last, first + 1)
    return [float(f"{number * step:.10g}") for number in np.arange(first, last + 1)] or [low]


def interval_bar(low: float, value: float, high: float, *, most: float) -> str:
    """A value as a stroke in the band of its interval, on a scale from 0 to `most`."""
    scale = 100.0 / most if most > 0 else 0.0
    left, middle, right = (max(0.0, min(100.0, x * scale)) for x in (low, value, high))
    return (
        '<svg class="interval" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="band" x="{left:.2f}" y="1" width="{max(right - left, 0.4):.2f}" height="8"/>'
        f'<line class="value" x1="{middle:.2f}" x2="{middle:.2f}" y1="0" y2="10"/></svg>'
    )
