"""Splits as values: what to train on, what is asked afterwards, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.leaks import check_leaks
from tastemaker.data.queries import Histories, Queries, Ragged
from tastemaker.data.rows import blocks, codes_at
from tastemaker.data.schema import Kind
from tastemaker.data.specs import parse_spec
from tastemaker.data.split_rules import (
    DROPPED,
    FOLD_IN,
    RULES,
    TEST,
    TRAIN,
    VALID,
    Assignment,
    Column,
    LeaveOneOut,
    Ratio,
    Splitter,
)
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError

if TYPE_CHECKING:
    from tastemaker.data.dataset import Dataset

__all__ = [
    "Part",
    "PartReport",
    "Split",
    "SplitReport",
    "check_leaks",
    "default_split",
    "parse_split",
    "split",
]

_HISTORY_COLUMNS = ("timestamp", "label", "behavior")
_CONTEXT_KINDS = (Kind.CATEGORICAL, Kind.NUMERIC)


@dataclass(frozen=True, eq=False)
class Part:
    """What is asked and what came: B queries, one a user, and their targets.

    Targets whose item has no training row are kept; `SplitReport` counts them.

    Attributes:
        queries: the user's code where the user has training rows, else -1; the history known
            before the targets, with the columns timestamp, label and behavior where the data have
            them; `columns` [B] are the time and the features of the first target's interaction.
        targets: B rows of item codes in stored order, to be found or to be scored.
        users: [B] int64, who it really is, rising.
        rows: interaction row of each target value, [T] int64, rising.
        labels: [T] float32 aligned with `targets.values`, or None when the data have none.
        history_rows: interaction row of each history event, [H] int64, or None for histories
            that are not from the data set.
        contexts: feature column of the interactions -> [T] raw values aligned with
            `targets.values`; each gathered when it is first asked for.
    """

    queries: Queries
    targets: Ragged
    users: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.float32] | None = None
    history_rows: NDArray[np.int64] | None = None
    contexts: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)

    def asked_for(self, places: NDArray[np.int64]) -> Queries:
        """A query for each of these places in `targets.values`, with the contexts of its own."""
        rows = np.searchsorted(self.targets.offsets, places, side="right") - 1
        queries = self.queries.take(rows)
        own = {name: column[places] for name, column in self.contexts.items()}
        return replace(queries, columns={**queries.columns, **own})


@dataclass(frozen=True)
class PartReport:
    """What a part holds: its interaction rows (of targets, for a part that is asked).

    Attributes:
        rows: interactions.
        users: distinct users.
        items: distinct items.
        unknown_users: queries of users without a training row; they are kept.
        empty_histories: queries with no known event; they are kept.
        unknown_items: targets whose item has no training row; they are kept.
    """

    rows: int
    users: int
    items: int
    unknown_users: int = 0
    empty_histories: int = 0
    unknown_items: int = 0


@dataclass(frozen=True)
class SplitReport:
    """What a split did with the interactions.

    Attributes:
        train, valid, test: what each part holds, None for no such part.
        fold_in: interactions that are told at query time only, never trained on.
        dropped: interactions in no part.
        notes: what else a reader should know, in words -> a count.
    """

    train: PartReport
    valid: PartReport | None
    test: PartReport | None
    fold_in: int
    dropped: int
    notes: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report in sentences, one a fact."""
        lines = [
            f"{name}: {part.rows} interactions of {part.users} users with {part.items} items"
            for name, part in (("train", self.train), ("valid", self.valid), ("test", self.test))
            if part is not None
        ]
        for name, part in (("valid", self.valid), ("test", self.test)):
            if part is None:
                continue
            facts = {
                "queries of users without a training row": part.unknown_users,
                "queries with an empty history": part.empty_histories,
                "targets whose item has no training row": part.unknown_items,
            }
            lines += [f"{name}: {count} {fact}" for fact, count in facts.items() if count]
        if self.fold_in:
            lines.append(f"{self.fold_in} interactions are known at query time only")
        if self.dropped:
            lines.append(f"{self.dropped} interactions are in no part")
        return lines + [f"{count} {note}" for note, count in self.notes.items()]


@dataclass(frozen=True, eq=False)
class Split:
    """A data set dealt out to training, validation and test.

    Attributes:
        name: the line that `parse_split` reads back.
        train: what may be learned from.
        valid: what settings are chosen on, None for no such part.
        test: what is reported, None for no such part.
        report: what was kept and dropped, and why.
        order_claim: what holds of time. `"user"`: no known event of a user is later than that
            user's targets. `"global"`: also no training event of anybody is later than any
            target. None: nothing. Events of equal time are in stored order.
        seed: of the random choices; `split(dataset, name, seed)` deals the same again.
        refitted: whether the validation rows were put into training, see `refit`.
    """

    name: str
    train: TrainingSet
    valid: Part | None
    test: Part | None
    report: SplitReport
    order_claim: Literal["user", "global"] | None
    seed: int = 0
    refitted: bool = False

    @property
    def dataset(self) -> Dataset:
        """The data set that was split."""
        return self.train.dataset

    def refit(self) -> Split:
        """Everything known at test time for training: train and valid rows, and no valid part.

        What validation queries were told (the fold-in of held-out users) is training data too.
        """
        if self.valid is None:
            return self
        chosen = np.zeros(self.dataset.n_interactions, np.bool_)
        chosen[self.train.rows] = True
        chosen[self.valid.rows] = True
        if self.valid.history_rows is not None:
            chosen[self.valid.history_rows] = True
        train = TrainingSet(self.dataset, np.flatnonzero(chosen))
        test = None if self.test is None else _addressed(self.test, train)
        report = _report(train, None, test, self.report.dropped, self.report.notes)
        return Split(
            self.name, train, None, test, report, self.order_claim, self.seed, refitted=True
        )


def parse_split(spec: str) -> Splitter:
    """The rule that a line spells: `"leave-one-out"`, `"ratio:valid=0,test=0.2,by=user"`, ...

    Raises:
        ConfigError: unknown name, setting or value; says what is allowed.
    """
    return parse_spec(spec, RULES, "split")


def default_split(dataset: Dataset) -> str:
    """The split to use when none is named: the ready-made one, else by what order there is."""
    if "split" in dataset.interactions.column_names:
        return str(Column())
    return str(LeaveOneOut()) if dataset.is_ordered else str(Ratio(order="random"))


def split(dataset: Dataset, spec: str | Splitter, seed: int = 0) -> Split:
    """Deal out a data set by a rule, check it for leaks and say what was kept.

    Args:
        dataset: what to split; it is not copied.
        spec: a rule such as `Ratio(test=0.1)`, or its line (see `parse_split`).
        seed: of the random choices, where the rule makes any; same seed, same split.

    Raises:
        ConfigError: the line spells no rule.
        DataError: the data lack what the rule needs (an order, clock times, a split column), have
            fewer than two users or items, or a part would be empty.
    """
    rule = parse_split(spec) if isinstance(spec, str) else spec
    _check_size(dataset)
    assignment = rule.assign(dataset, np.random.default_rng(seed))
    _check_parts(dataset, rule, assignment)
    parts, earlier_only = assignment.parts, assignment.earlier_only
    is_valid, is_test = parts == VALID, parts == TEST
    is_train = parts == TRAIN
    train = TrainingSet(dataset, np.flatnonzero(is_train))
    known = is_train | (parts == FOLD_IN)
    valid = test = None
    if is_valid.any():
        valid = _addressed(_part(train, is_valid, known, earlier_only), train)
        known |= is_valid
    if is_test.any():
        test = _addressed(_part(train, is_test, known, earlier_only), train)
    dropped = int(np.count_nonzero(parts == DROPPED))
    report = _report(train, valid, test, dropped, assignment.notes)
    result = Split(str(rule), train, valid, test, report, assignment.order_claim, seed)
    check_leaks(result)
    return result


def _check_size(dataset: Dataset) -> None:
    """At least two users and two items have events; else there is nothing to compare."""
    n_users = int(np.count_nonzero(np.diff(dataset.user_offsets)))
    items = dataset.column("item")
    n_items = int(len(items) > 0) + int(np.any(items != items[:1]))
    for count, what in ((n_users, "user"), (n_items, "item")):
        if count < 2:
            raise DataError(
                f"data set {dataset.name!r} has interactions of {count} {what}{'s'[count:]}; "
                f"a split needs at least 2 {what}s"
            )


def _check_parts(dataset: Dataset, rule: Splitter, assignment: Assignment) -> None:
    """Training, test and, where asked for, validation have rows."""
    wanted = {"training": TRAIN, "validation": VALID, "test": TEST}
    if not assignment.wants_valid:
        del wanted["validation"]
    counts = {
        name: int(np.count_nonzero(assignment.parts == code)) for name, code in wanted.items()
    }
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise DataError(
            f"split '{rule}' leaves no {' and no '.join(empty)} interactions of data set "
            f"{dataset.name!r} ({dataset.n_interactions} interactions of {dataset.n_users} users "
            f"with {dataset.n_items} items): "
            f"{', '.join(f'{name} {count}' for name, count in counts.items())}; "
            "choose other shares or times, another split, or more data"
        )


def _part(
    train: TrainingSet, is_target: NDArray[np.bool_], known: NDArray[np.bool_], earlier_only: bool
) -> Part:
    """One query for each user with a target; gathers only. `is_target`, `known`: [rows] bool."""
    dataset = train.dataset
    offsets, items = dataset.user_offsets, dataset.column("item")
    rows, lengths = _chosen(is_target, offsets)
    users = np.flatnonzero(lengths)
    first = rows[(np.cumsum(lengths) - lengths)[users]]
    # A user's rows are a run that may be told, up to the first target or the end, and a rest.
    told = np.zeros(len(lengths), np.int64)
    told[users] = (first if earlier_only else offsets[users + 1]) - offsets[users]
    runs = np.stack([told, np.diff(offsets) - told], axis=1).ravel()
    may_be_told = np.repeat(np.arange(len(runs)) % 2 == 0, runs)
    history_rows, told = _chosen(np.logical_and(known, may_be_told, out=may_be_told), offsets)
    if np.array_equal(history_rows, train.rows):
        history_rows = train.rows  # see _told
    present = set(dataset.interactions.column_names)
    histories = Histories(
        Ragged.from_lengths(_told(train, "item", history_rows), told[users]),
        _ToldColumns(train, [name for name in _HISTORY_COLUMNS if name in present], history_rows),
    )
    kinds = dataset.schema.interactions
    features = [name for name, kind in kinds.items() if kind in _CONTEXT_KINDS]
    told_of = [*({"timestamp"} & present), *features]
    return Part(
        queries=Queries(users, histories, {name: dataset.column(name)[first] for name in told_of}),
        targets=Ragged.from_lengths(codes_at(items, rows), lengths[users]),
        users=users,
        rows=rows,
        labels=dataset.column("label")[rows] if "label" in present else None,
        history_rows=history_rows,
        contexts=_ToldColumns(train, features, rows),
    )


class _ToldColumns(Mapping[str, NDArray[Any]]):
    """Columns of chosen rows, each gathered when it is first asked for: few methods ask."""

    def __init__(self, train: TrainingSet, names: list[str], rows: NDArray[np.int64]) -> None:
        self._train, self._names, self._rows = train, names, rows
        self._gathered: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._gathered:
            self._gathered[name] = _told(self._train, name, self._rows)
        return self._gathered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _told(train: TrainingSet, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """A column at history rows; what is all of training is gathered once for both."""
    if rows is train.rows:
        return train.items if name == "item" else train.column(name)
    column = train.dataset.column(name)
    return codes_at(column, rows) if name == "item" else column[rows]


def _chosen(
    mask: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows where a mask is true, rising, and how many of them each user has [n_users]."""
    rows = np.flatnonzero(mask)
    return rows, np.diff(np.searchsorted(rows, offsets))


def _addressed(part: Part, train: TrainingSet) -> Part:
    """The part with `queries.users` set: the code of users with a training row, else -1."""
    trained = np.diff(train.offsets)[part.users] > 0
    users = np.where(trained, part.users, -1)
    return replace(part, queries=replace(part.queries, users=users))


def _report(
    train: TrainingSet,
    valid: Part | None,
    test: Part | None,
    dropped: int,
    notes: Mapping[str, int],
) -> SplitReport:
    items = train.dataset.column("item")
    trained = np.zeros(train.n_items, np.bool_)
    for block in blocks(train.rows):
        trained[items[block]] = True
    users = int(np.count_nonzero(np.diff(train.offsets)))

    def of(part: Part) -> PartReport:
        seen = np.zeros(train.n_items, np.bool_)
        seen[part.targets.values] = True
        return PartReport(
            rows=len(part.rows),
            users=len(part.users),
            items=int(np.count_nonzero(seen)),
            unknown_users=int(np.count_nonzero(part.queries.users < 0)),
            empty_histories=int(np.count_nonzero(part.queries.histories.items.lengths == 0)),
            unknown_items=int(np.count_nonzero(~trained[part.targets.values])),
        )

    asked = {"valid": valid, "test": test}
    reports = {name: None if part is None else of(part) for name, part in asked.items()}
    kept = len(train) + sum(len(part.rows) for part in asked.values() if part is not None)
    return SplitReport(
        train=PartReport(len(train), users, int(np.count_nonzero(trained))),
        valid=reports["valid"],
        test=reports["test"],
        fold_in=train.dataset.n_interactions - kept - dropped,
        dropped=dropped,
        notes=dict(notes),
    )
