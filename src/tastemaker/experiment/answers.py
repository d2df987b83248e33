"""What a run answers: recommendations and similar items, in raw ids and as frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data import Histories, Queries, Ragged, TrainingSet, Vocabulary
from tastemaker.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import polars as pl

    from tastemaker.data import Dataset
    from tastemaker.models.base import Recommender, TopK

__all__ = ["Answer", "RawId", "known_users", "recommend", "similar", "some_of"]

RawId = str | int

_NEAREST_AMONG = 50_000  # ids compared for a "did you mean"; more would keep a person waiting
_CONTEXT = ("timestamp", "label", "behavior")  # columns a history carries, as in a split's parts


@dataclass(frozen=True)
class Answer:
    """A ranked list for each query.

    Attributes:
        frame: one row a recommended item: `query` (the raw user id, the item asked about, or the
            number of the history from 0), `rank` from 1, `item` (raw id), `title`, `score`.
        ignored: raw ids that were given but are not in the run's data.
    """

    frame: pl.DataFrame
    ignored: tuple[str, ...] = ()


def recommend(
    model: Recommender,
    train: TrainingSet,
    *,
    users: RawId | Iterable[RawId] | None = None,
    histories: Iterable[Any] | None = None,
    k: int = 10,
    exclude: Iterable[RawId] | None = None,
    allow: Iterable[RawId] | None = None,
    exclude_seen: bool = True,
) -> Answer:
    """The k best items for each known user, or for each history of a user nobody knows.

    A known user's history is everything the data hold of them. What the model learned about the
    user is used only when it was trained on all of it; if there are later events (validation and
    test rows), the model answers from the whole history instead, as it does for a new user.

    Args:
        model: of the run.
        train: what it was trained on.
        users: raw user ids, or one.
        histories: raw item ids, oldest first: one history, or a list of them. Unknown items are
            left out and reported, unless none is known.
        k: length of a list.
        exclude: raw ids of items nobody may get.
        allow: raw ids of the only items anybody may get.
        exclude_seen: whether items of the history are left out, too.

    Raises:
        ConfigError: for both or neither of users and histories, or k below 1.
        DataError: for an unknown user, or a history, `exclude` or `allow` of unknown items only.
    """
    if (users is None) == (histories is None):
        raise ConfigError("recommend for users, or for histories: give exactly one of the two")
    _check_length(k)
    dataset = train.dataset
    ignored: list[str] = []
    labels: list[RawId]
    if users is not None:
        codes = _codes(_as_list(users), dataset.user_ids, "user")
        labels = dataset.user_ids.decode(codes).to_pylist()
        queries = known_users(train, codes)
    else:
        assert histories is not None
        rows = _as_rows(histories)
        labels = list(range(len(rows)))
        queries = _unknown_users(rows, dataset, ignored)
    seen = queries.histories.items if exclude_seen else None
    banned = None if exclude is None else _some_codes(exclude, dataset, "exclude", ignored)
    allowed = None if allow is None else _some_codes(allow, dataset, "allow", ignored)
    found = model.recommend(queries, k, exclude=_joined(seen, banned, len(queries)), allow=allowed)
    return Answer(_frame(labels, found, dataset), tuple(dict.fromkeys(ignored)))


def similar(
    model: Recommender, dataset: Dataset, *, items: RawId | Iterable[RawId], k: int = 10
) -> Answer:
    """The k items most like each of the given ones (raw ids).

    Raises:
        ConfigError: when the method cannot tell, or k is below 1.
        DataError: for an unknown item.
    """
    _check_length(k)
    codes = _codes(_as_list(items), dataset.item_ids, "item")
    labels = dataset.item_ids.decode(codes).to_pylist()
    return Answer(_frame(labels, model.similar(codes, k), dataset))


def some_of(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more


def _check_length(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least one item")


def _as_list(values: RawId | Iterable[RawId]) -> list[RawId]:
    return [values] if isinstance(values, str | int) else list(values)


def _as_rows(histories: Iterable[Any]) -> list[list[RawId]]:
    """One history or many as a list of them."""
    if isinstance(histories, str | int):
        raise ConfigError(f"a history is a list of item ids, not {histories!r}")
    given = list(histories)
    single = bool(given) and isinstance(given[0], str | int)
    return [_as_list(row) for row in ([given] if single else given)]


def _codes(raw: Sequence[RawId], vocabulary: Vocabulary, what: str) -> NDArray[np.int64]:
    """[B] int64 codes of raw ids, all of which must be known."""
    codes = vocabulary.encode([str(value) for value in raw])
    for value, code in zip(raw, codes.tolist(), strict=True):
        if code < 0:
            raise DataError(_unknown(value, vocabulary, what))
    return codes


def _unknown(value: RawId, vocabulary: Vocabulary, what: str) -> str:
    """The message about one unknown id."""
    n_known = len(vocabulary)
    some = [str(raw) for raw in vocabulary.decode(np.arange(min(n_known, _NEAREST_AMONG))).tolist()]
    examples = ", ".join(repr(raw) for raw in some[:3])
    return (
        f"unknown {what} {str(value)!r}{nearest(str(value), some)}; "
        f"the run knows {n_known:,} {what}s, such as {examples}"
    )


def _some_codes(
    raw: RawId | Iterable[RawId], dataset: Dataset, what: str, ignored: list[str]
) -> NDArray[np.int64]:
    """Codes of the known items among `raw`; the others are added to `ignored`."""
    given = [str(value) for value in _as_list(raw)]
    codes = dataset.item_ids.encode(given)
    if given and np.all(codes < 0):
        raise DataError(f"{what}: {_unknown(given[0], dataset.item_ids, 'item')}")
    ignored += [value for value, code in zip(given, codes.tolist(), strict=True) if code < 0]
    return codes[codes >= 0]


def known_users(train: TrainingSet, codes: NDArray[np.int64]) -> Queries:
    """Everything the data hold of these users, as queries; see `recommend`."""
    dataset = train.dataset
    stored = Ragged(dataset.column("item"), dataset.user_offsets)
    rows, lengths = stored.positions(codes)
    present = [name for name in _CONTEXT if name in dataset.interactions.column_names]
    histories = Histories(
        Ragged.from_lengths(stored.values[rows].astype(np.int64), lengths),
        {name: dataset.column(name)[rows] for name in present},
    )
    trained = np.diff(train.offsets)[codes]
    return Queries(np.where((trained == lengths) & (lengths > 0), codes, -1), histories)


def _unknown_users(
    rows: Sequence[Sequence[RawId]], dataset: Dataset, ignored: list[str]
) -> Queries:
    place = "history" if len(rows) == 1 else "history {}"
    return Queries.from_histories(
        [
            _some_codes(row, dataset, place.format(number), ignored).tolist()
            for number, row in enumerate(rows)
        ]
    )


def _joined(seen: Ragged | None, banned: NDArray[np.int64] | None, n_rows: int) -> Ragged | None:
    """Each query's own excluded items and those excluded for everyone, as one ragged array."""
    if banned is None or not len(banned):
        return seen
    everyone = Ragged.from_lengths(np.tile(banned, n_rows), np.full(n_rows, len(banned), np.int64))
    if seen is None:
        return everyone
    order = np.argsort(np.concatenate([seen.row_index(), everyone.row_index()]), kind="stable")
    values = np.concatenate([seen.values, everyone.values])[order]
    return Ragged.from_lengths(values, seen.lengths + everyone.lengths)


def _frame(labels: Sequence[RawId], found: TopK, dataset: Dataset) -> pl.DataFrame:
    import polars as pl

    items, scores = found.items.cpu().numpy(), found.scores.cpu().numpy()
    kept = items >= 0
    rows, ranks = np.nonzero(kept)
    codes = items[kept]
    return pl.DataFrame(
        {
            "query": pl.Series([labels[row] for row in rows.tolist()], strict=False),
            "rank": ranks + 1,
            "item": pl.Series(dataset.item_ids.decode(codes)),
            "title": pl.Series(dataset.titles(codes), dtype=pl.String),
            "score": scores[kept],
        }
    )
