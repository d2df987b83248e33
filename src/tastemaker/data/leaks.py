"""The leak check: what a split promises, proved again from row numbers and times alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged
from tastemaker.data.rows import blocks
from tastemaker.errors import DataError

if TYPE_CHECKING:
    from tastemaker.data.dataset import Dataset
    from tastemaker.data.splits import Part, Split

__all__ = ["check_leaks"]


def check_leaks(split: Split) -> None:
    """Raise unless a split keeps apart what it asks and what it tells.

    Always: no target is a training row or a target of the other part, none is told in a history
    of its own or of an earlier part, and targets and histories are the events of the query's own
    user. With an order claim also:

    - `"user"`: no training row (for test, no validation target either) and no history event of
      the user is stored after the user's first target. Stored order is time order, which is
      checked too; it breaks ties.
    - `"global"`: no training row (for test, no validation target either) and no history event,
      of anybody, has a later timestamp than any target of the part.

    Uses the rows of the parts and the columns user, item, timestamp and order, never the rule
    that made the split. O(rows).

    Raises:
        DataError: names the user, the rows and their times.
    """
    parts = [(name, part) for name, part in (("valid", split.valid), ("test", split.test)) if part]
    for name, part in parts:
        _check_own_events(split, name, part)
    _check_disjoint(split, parts)
    match split.order_claim:
        case "user":
            _check_stored_order(split.dataset)
            _check_users(split, parts)
        case "global":
            _check_global(split, parts)


def _check_own_events(split: Split, name: str, part: Part) -> None:
    """Targets and histories are stored events of the query's user."""
    where = f"split {split.name!r}, {name} part"
    if np.any(part.targets.lengths < 1) or np.any(part.rows[1:] <= part.rows[:-1]):
        raise DataError(f"{where}: every query has targets, in rising rows")
    events = [("target", part.rows, part.targets)]
    if part.history_rows is not None:
        events.append(("history event", part.history_rows, part.queries.histories.items))
    elif split.order_claim:
        raise DataError(f"{where}: histories without rows cannot be checked for leaks")
    dataset = split.dataset
    for what, rows, ragged in events:
        at = _first_difference(dataset.column("item"), rows, ragged.values)
        if at is not None:
            raise DataError(
                f"{where}: {what} {_event(dataset, int(rows[at]))} has item "
                f"{_item(dataset, rows[at])}, not {dataset.item_ids.raw(int(ragged.values[at]))!r}"
            )
        queries, first, last = _extremes(rows, ragged)
        users = part.users[queries]
        early = first < dataset.user_offsets[users]
        wrong = early | (last >= dataset.user_offsets[users + 1])
        if np.any(wrong):
            at = int(np.argmax(wrong))
            row = int(first[at] if early[at] else last[at])
            raise DataError(
                f"{where}: query {queries[at]} is of user "
                f"{dataset.user_ids.raw(int(users[at]))!r}, but its {what} is "
                f"{_event(dataset, row)}"
            )


def _check_disjoint(split: Split, parts: list[tuple[str, Part]]) -> None:
    """No row is in two parts, and none is told before it is asked."""
    taken = np.zeros(split.dataset.n_interactions, np.bool_)
    taken[split.train.rows] = True
    for name, part in parts:
        _refuse(split, part.rows, taken[part.rows], f"is a {name} target and in an earlier part")
        taken[part.rows] = True
    asked = np.zeros(split.dataset.n_interactions, np.bool_)
    for name, part in reversed(parts):
        asked[part.rows] = True
        rows = part.history_rows
        if rows is not None:
            _refuse(split, rows, asked[rows], f"is a target, but told in a {name} history")


def _refuse(split: Split, rows: NDArray[np.int64], wrong: NDArray[np.bool_], why: str) -> None:
    if np.any(wrong):
        event = _event(split.dataset, int(rows[np.argmax(wrong)]))
        raise DataError(f"split {split.name!r} leaks: {event} {why}")


def _check_stored_order(dataset: Dataset) -> None:
    """The rows of each user are stored in time order, so row numbers can be compared."""
    users, times = dataset.column("user"), dataset.column(_order_column(dataset))
    wrong = (users[1:] < users[:-1]) | ((users[1:] == users[:-1]) & (times[1:] < times[:-1]))
    if np.any(wrong):
        at = int(np.argmax(wrong))
        raise DataError(
            f"data set {dataset.name!r}: {_event(dataset, at + 1)} is stored after "
            f"{_event(dataset, at)}; interactions are sorted by user and time"
        )


def _check_users(split: Split, parts: list[tuple[str, Part]]) -> None:
    """Nothing known of a query's user is stored after the query's first target."""
    known = [("training row", split.train.rows)]
    for name, part in parts:
        _, first, _ = _extremes(part.rows, part.targets)
        for source, rows in known:
            ends = np.searchsorted(rows, split.dataset.user_offsets[1:])[part.users]
            _refuse_later(split, rows[ends - 1] * (ends > 0), first, source, name)
        if part.history_rows is not None:
            told, _, last = _extremes(part.history_rows, part.queries.histories.items)
            _refuse_later(split, last, first[told], "history row", name)
        known.append((f"{name} target", part.rows))


def _refuse_later(
    split: Split, last: NDArray[np.int64], first: NDArray[np.int64], source: str, name: str
) -> None:
    wrong = last > first
    if np.any(wrong):
        query = int(np.argmax(wrong))
        _refuse_pair(split, source, int(last[query]), name, int(first[query]))


def _check_global(split: Split, parts: list[tuple[str, Part]]) -> None:
    """Nothing known has a later timestamp than what is asked."""
    times = split.dataset.column("timestamp")
    known = [("training row", _latest(times, split.train.rows))]
    for name, part in parts:
        sources = list(known)
        if part.history_rows is not None and len(part.history_rows):
            sources.append(("history row", _latest(times, part.history_rows)))
        earliest = int(part.rows[np.argmin(times[part.rows])])
        for source, latest in sources:
            if times[latest] > times[earliest]:
                _refuse_pair(split, source, latest, name, earliest)
        known.append((f"{name} target", _latest(times, part.rows)))


def _latest(times: NDArray[Any], rows: NDArray[np.int64]) -> int:
    """The row with the greatest time."""
    latest = [block[np.argmax(times[block])] for block in blocks(rows)]
    return int(latest[np.argmax(times[latest])])


def _first_difference(
    column: NDArray[Any], rows: NDArray[np.int64], values: NDArray[np.int64]
) -> int | None:
    """The first place where `column[rows]` is not `values`, or None when they are equal."""
    start = 0
    for block, expected in zip(blocks(rows), blocks(values), strict=True):
        wrong = column[block] != expected
        if np.any(wrong):
            return start + int(np.argmax(wrong))
        start += len(block)
    return None


def _extremes(
    values: NDArray[Any], ragged: Ragged
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """The rows of `ragged` that are not empty, and the least and greatest value of each.

    `values` are aligned with `ragged.values`.
    """
    filled = np.flatnonzero(ragged.lengths)
    if len(filled) == 0:
        return filled, values[:0], values[:0]
    starts = ragged.offsets[filled]
    return filled, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _refuse_pair(split: Split, source: str, late: int, name: str, early: int) -> None:
    raise DataError(
        f"split {split.name!r} leaks: the {source} {_event(split.dataset, late)} is later than "
        f"the {name} target {_event(split.dataset, early)}"
    )


def _event(dataset: Dataset, row: int) -> str:
    """`"17 (user 'ann', time 2024-05-01T12:00:00)"`."""
    user = dataset.user_ids.raw(int(dataset.column("user")[row]))
    if not dataset.is_ordered:
        return f"{row} (user {user!r})"
    name = _order_column(dataset)
    value = dataset.column(name)[row].item()
    if name == "timestamp" and dataset.has_clock:
        return f"{row} (user {user!r}, time {datetime.fromtimestamp(value, UTC).isoformat()})"
    return f"{row} (user {user!r}, {name} {value})"


def _item(dataset: Dataset, row: int) -> str:
    return repr(dataset.item_ids.raw(int(dataset.column("item")[row])))


def _order_column(dataset: Dataset) -> str:
    return "order" if "order" in dataset.interactions.column_names else "timestamp"
