"""The rules by which interactions are dealt out to training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.data.shares import draw, exact_share, floor_share, shuffled_within, smallest
from tastemaker.data.specs import epoch_seconds, format_spec
from tastemaker.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from tastemaker.data.dataset import Dataset

__all__ = [
    "DROPPED",
    "FOLD_IN",
    "RULES",
    "TEST",
    "TRAIN",
    "VALID",
    "Assignment",
    "Column",
    "ColdItems",
    "GlobalTime",
    "HeldOutUsers",
    "LeaveOneOut",
    "Ratio",
    "Splitter",
]

TRAIN, VALID, TEST, FOLD_IN, DROPPED = (np.int8(code) for code in range(5))

OrderClaim = Literal["user", "global"] | None


@dataclass(frozen=True)
class Assignment:
    """Where each interaction goes.

    Attributes:
        parts: [n_interactions] int8 of `TRAIN`, `VALID`, `TEST`, `FOLD_IN` (known at query time,
            never trained on) or `DROPPED`.
        order_claim: what the rule promises about time, see `Split`.
        earlier_only: a history holds only the events stored before the query's first target,
            not all known events of the user.
        wants_valid: whether a validation part was asked for, so that an empty one is an error.
        notes: what a reader should know, in words -> a count.
    """

    parts: NDArray[np.int8]
    order_claim: OrderClaim
    earlier_only: bool
    wants_valid: bool = False
    notes: Mapping[str, int] = field(default_factory=dict)


class Splitter(Protocol):
    """A rule: a frozen value that deals out the rows of any data set.

    `str(rule)` is the line that `parse_split` turns back into it.
    """

    def __str__(self) -> str: ...

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:
        """Deal out every row of `dataset.interactions`."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """The last event of each user is the test target, the one before it the validation target.

    Users with too few events to leave one for training (fewer than 3, or fewer than 2 without
    validation) are in training whole.

    Attributes:
        valid: 1, or 0 for no validation part (the event before the last is then for training).
        rows: interactions that are one event, such as 2 for a positive and its sampled negative.
    """

    valid: float = 1
    rows: float = 1

    def __post_init__(self) -> None:
        if self.valid not in (0, 1):
            raise ConfigError(f"split 'leave-one-out': valid is 0 or 1, not {self.valid!r}")
        if not (_is_number(self.rows) and self.rows >= 1 and float(self.rows).is_integer()):
            raise ConfigError(
                f"split 'leave-one-out': rows is a whole number from 1, not {self.rows!r}"
            )

    def __str__(self) -> str:
        return format_spec(
            "leave-one-out",
            valid=None if self.valid else self.valid,
            rows=None if self.rows == 1 else self.rows,
        )

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:  # noqa: ARG002
        """Deal out the rows; `rng` is not used."""
        _need_order(dataset, str(self))
        parts = np.full(dataset.n_interactions, TRAIN)
        counts, rows = np.diff(dataset.user_offsets), int(self.rows)
        least = 3 if self.valid else 2
        ends = dataset.user_offsets[1:][counts >= least * rows]
        for back in range(1, rows + 1):
            parts[ends - back] = TEST
            if self.valid:
                parts[ends - back - rows] = VALID
        short = int(np.count_nonzero((counts > 0) & (counts < least * rows)))
        note = f"users with fewer than {least} events, wholly in training"
        return Assignment(parts, "user", True, bool(self.valid), _noted(note, short))


@dataclass(frozen=True)
class Ratio:
    """Shares of the events: first for training, then validation, then test.

    With n events (of a user, or of the whole log), the first `floor((1 - valid - test) * n)` are
    for training, those up to `floor((1 - test) * n)` for validation and the rest for test; the
    products are exact, so 0.8 of 5 is 4. The test part therefore does not depend on `valid`. By
    user, at least one event of each user is for training.

    In time order within users, histories end before the first target; in random order they are
    all training (for test also validation) events of the user, and nothing is claimed of time.

    Attributes:
        valid: share of the events for validation, 0 for no such part.
        test: share of the events for test.
        by: `"user"` cuts every user's events, `"overall"` the log as a whole.
        order: `"time"` or `"random"`; overall in time needs clock times.
    """

    valid: float = 0.1
    test: float = 0.2
    by: Literal["user", "overall"] = "user"
    order: Literal["time", "random"] = "time"

    def __post_init__(self) -> None:
        _check_shares("ratio", self.valid, self.test)
        _check_choice("ratio", "by", self.by, ("user", "overall"))
        _check_choice("ratio", "order", self.order, ("time", "random"))

    def __str__(self) -> str:
        return format_spec("ratio", valid=self.valid, test=self.test, by=self.by, order=self.order)

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:
        """Deal out the rows; `rng` is used by random order only."""
        if self.by == "overall":
            return self._assign_overall(dataset, rng)
        if self.order == "time":
            _need_order(dataset, str(self))
        offsets = dataset.user_offsets
        counts = np.diff(offsets)
        first = np.maximum(
            floor_share(counts, 1 - exact_share(self.valid) - exact_share(self.test)), 1
        )
        second = np.maximum(floor_share(counts, 1 - exact_share(self.test)), first)
        first, second = np.minimum(first, counts), np.minimum(second, counts)
        lengths = np.stack([first, second - first, counts - second], axis=1)
        parts = np.repeat(np.tile([TRAIN, VALID, TEST], len(counts)), lengths.ravel())
        if self.order == "random":
            parts[shuffled_within(offsets, rng)] = parts.copy()
        whole = int(np.count_nonzero((counts > 0) & (first == counts)))
        note = "users with too few events to leave a target, wholly in training"
        claim: OrderClaim = "user" if self.order == "time" else None
        return Assignment(parts, claim, claim == "user", self.valid > 0, _noted(note, whole))

    def _assign_overall(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:
        n = dataset.n_interactions
        if self.order == "time":
            _need_clock(dataset, str(self))
            keys = dataset.column("timestamp")
        else:
            keys = rng.integers(0, 1 << 32, n, np.uint32)
        first = floor_share(n, 1 - exact_share(self.valid) - exact_share(self.test))
        second = floor_share(n, 1 - exact_share(self.test))
        parts = np.full(n, TEST)
        parts[smallest(keys, int(second))] = VALID
        parts[smallest(keys, int(first))] = TRAIN
        claim: OrderClaim = "global" if self.order == "time" else None
        return Assignment(parts, claim, claim == "global", self.valid > 0)


@dataclass(frozen=True)
class GlobalTime:
    """One moment for everybody: earlier events are for training, later ones are targets.

    Given as shares, the test part starts at the time of event `floor((1 - test) * n)` in time
    order, the validation part at event `floor((1 - valid - test) * n)`; events of one moment
    stay together, so a part can be larger than its share. Given as times, a part holds the events
    from its time on.

    Attributes:
        valid: share of the events for validation, 0 for no such part.
        test: share of the events for test.
        valid_from: ISO 8601 date or time (UTC), or seconds since 1970, instead of `valid`; None
            together with `test_from` for no validation part.
        test_from: the same instead of `test`.
    """

    valid: float | None = None
    test: float | None = None
    valid_from: float | str | None = None
    test_from: float | str | None = None

    def __post_init__(self) -> None:
        if self.valid_from is None and self.test_from is None:
            object.__setattr__(self, "valid", 0.1 if self.valid is None else self.valid)
            object.__setattr__(self, "test", 0.1 if self.test is None else self.test)
            _check_shares("global-time", self.valid, self.test)
            return
        if self.valid is not None or self.test is not None or self.test_from is None:
            raise ConfigError(
                "split 'global-time': give shares (valid, test) or times (test_from and, if "
                "wanted, valid_from), not a mixture"
            )
        if self.valid_from is not None and self._seconds("valid_from") >= self._seconds(
            "test_from"
        ):
            raise ConfigError(
                f"split 'global-time': valid_from={self.valid_from} is not before "
                f"test_from={self.test_from}"
            )
        self._seconds("test_from")

    def __str__(self) -> str:
        return format_spec(
            "global-time",
            valid=self.valid,
            test=self.test,
            valid_from=self.valid_from,
            test_from=self.test_from,
        )

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:  # noqa: ARG002
        """Deal out the rows; `rng` is not used."""
        _need_clock(dataset, str(self))
        times = dataset.column("timestamp")
        if self.test_from is None:
            test = exact_share(self.test)
            cuts = [1 - test - exact_share(self.valid), 1 - test]
            ranks = [int(floor_share(len(times), cut)) for cut in cuts]
            valid_from, test_from = np.partition(times, ranks)[ranks]
        else:
            test_from = self._seconds("test_from")
            valid_from = test_from if self.valid_from is None else self._seconds("valid_from")
        parts = np.full(len(times), TRAIN)
        parts[times >= valid_from] = VALID
        parts[times >= test_from] = TEST
        wants_valid = bool(self.valid) or self.valid_from is not None
        return Assignment(parts, "global", True, wants_valid)

    def _seconds(self, setting: str) -> float:
        value = getattr(self, setting)
        return epoch_seconds(value, f"split 'global-time': {setting}")


@dataclass(frozen=True)
class HeldOutUsers:
    """Some users are never trained on; the first of their events are told, the others asked.

    Of the users with at least two events, `floor(share * n)` drawn at random are held out. Of
    a held-out user's n events, `floor(fold_in * n)` (at least 1, at most n - 1) are the history
    and the rest the targets: the earliest are the history where the data are ordered, random ones
    where they are not. Queries have user -1.

    Attributes:
        valid: share of the users for validation, 0 for no such part.
        test: share of the users for test.
        fold_in: share of a held-out user's events that is the history.
    """

    valid: float = 0.1
    test: float = 0.1
    fold_in: float = 0.8

    def __post_init__(self) -> None:
        _check_shares("held-out-users", self.valid, self.test)
        if not (_is_number(self.fold_in) and 0 < self.fold_in < 1):
            raise ConfigError(
                f"split 'held-out-users': fold_in lies between 0 and 1, not {self.fold_in!r}"
            )

    def __str__(self) -> str:
        return format_spec("held-out-users", valid=self.valid, test=self.test, fold_in=self.fold_in)

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:
        """Deal out the rows."""
        offsets = dataset.user_offsets
        counts = np.diff(offsets)
        role = np.full(len(counts), TRAIN)
        shares = (self.test, self.valid)
        for code, users in zip(
            (TEST, VALID), draw(np.flatnonzero(counts >= 2), shares, rng), strict=True
        ):
            role[users] = code
        told = np.clip(floor_share(counts, exact_share(self.fold_in)), 1, np.maximum(counts - 1, 1))
        told = np.where(role == TRAIN, 0, told)
        lengths = np.stack([told, counts - told], axis=1)
        codes = np.stack([np.full(len(counts), FOLD_IN), role], axis=1)
        parts = np.repeat(codes.ravel(), lengths.ravel())
        if not dataset.is_ordered:
            parts[shuffled_within(offsets, rng)] = parts.copy()
        single = int(np.count_nonzero(counts == 1))
        note = "users with 1 event, never held out"
        claim: OrderClaim = "user" if dataset.is_ordered else None
        return Assignment(parts, claim, dataset.is_ordered, self.valid > 0, _noted(note, single))


@dataclass(frozen=True)
class ColdItems:
    """Some items are never trained on; who took them is the question.

    `floor(share * n)` of the items with events are drawn at random; all their events are targets.
    A history holds the user's events with other items, before the first target where the data are
    ordered (training may then use later ones, so nothing is claimed of time).

    Attributes:
        valid: share of the items for validation, 0 for no such part.
        test: share of the items for test.
    """

    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        _check_shares("cold-items", self.valid, self.test)

    def __str__(self) -> str:
        return format_spec("cold-items", valid=self.valid, test=self.test)

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:
        """Deal out the rows."""
        items = dataset.column("item")
        seen = np.zeros(dataset.n_items, np.bool_)
        seen[items] = True
        role = np.full(dataset.n_items, TRAIN)
        shares = (self.test, self.valid)
        for code, drawn in zip((TEST, VALID), draw(np.flatnonzero(seen), shares, rng), strict=True):
            role[drawn] = code
        return Assignment(role[items], None, dataset.is_ordered, self.valid > 0)


@dataclass(frozen=True)
class Column:
    """The ready-made split of the data: the column with the role `split` says where rows go.

    Its values are train, valid (or validation, val, dev) and test, in any case; a validation part
    may be missing. Histories are all training (for test also validation) events of the user, and
    nothing is claimed of time.
    """

    def __str__(self) -> str:
        return "column"

    def assign(self, dataset: Dataset, rng: np.random.Generator) -> Assignment:  # noqa: ARG002
        """Deal out the rows; `rng` is not used."""
        if "split" not in dataset.interactions.column_names:
            raise DataError(
                f"data set {dataset.name!r} has no column with the role 'split'; name one, or "
                "use another split such as leave-one-out or ratio"
            )
        encoded = dataset.interactions.column("split").combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        codes = encoded.indices.to_numpy()
        parts = np.full(len(encoded.dictionary), DROPPED)
        for code, value in enumerate(encoded.dictionary.to_pylist()):
            parts[code] = _COLUMN_VALUES.get(str(value).strip().lower(), DROPPED)
            if parts[code] == DROPPED and np.any(codes == code):
                raise DataError(
                    f"data set {dataset.name!r}, split column, interaction row "
                    f"{int(np.argmax(codes == code))}: {value!r} is not a part"
                    f"{nearest(str(value), _COLUMN_VALUES)}; expected train, valid or test"
                )
        return Assignment(parts[codes], None, False)


_COLUMN_VALUES = {
    "train": TRAIN,
    "training": TRAIN,
    "valid": VALID,
    "validation": VALID,
    "val": VALID,
    "dev": VALID,
    "test": TEST,
}

RULES: Mapping[str, type[Splitter]] = {
    "leave-one-out": LeaveOneOut,
    "ratio": Ratio,
    "global-time": GlobalTime,
    "held-out-users": HeldOutUsers,
    "cold-items": ColdItems,
    "column": Column,
}


def _need_order(dataset: Dataset, spec: str) -> None:
    if not dataset.is_ordered:
        raise DataError(
            f"split {spec!r} needs the order of events, but data set {dataset.name!r} has "
            "neither a timestamp nor an order column; use ratio:order=random or held-out-users"
        )


def _need_clock(dataset: Dataset, spec: str) -> None:
    if not dataset.has_clock:
        instead = (
            "leave-one-out or ratio:by=user (it has an order within users)"
            if dataset.is_ordered
            else "ratio:order=random or held-out-users"
        )
        raise DataError(
            f"split {spec!r} compares times of different users, but data set {dataset.name!r} "
            f"has no clock timestamps; use {instead}"
        )


def _noted(note: str, count: int) -> dict[str, int]:
    return {note: count} if count else {}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_shares(name: str, valid: object, test: object) -> None:
    for key, value in (("valid", valid), ("test", test)):
        if not (_is_number(value) and 0 <= value < 1):  # type: ignore[operator]
            raise ConfigError(f"split {name!r}: {key} is a share from 0 to below 1, not {value!r}")
    if test == 0:
        raise ConfigError(f"split {name!r}: test is a share above 0, not {test!r}")
    if exact_share(valid) + exact_share(test) >= 1:  # type: ignore[arg-type]
        raise ConfigError(
            f"split {name!r}: valid={valid} and test={test} leave nothing for training"
        )


def _check_choice(name: str, key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"split {name!r}: unknown {key} {value!r}{nearest(str(value), allowed)}; "
            f"it is {' or '.join(allowed)}"
        )
