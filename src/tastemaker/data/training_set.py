"""What a method learns from: the chosen interaction rows of a data set, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Histories, Ragged
from tastemaker.data.rows import codes_at
from tastemaker.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from tastemaker.data.dataset import Dataset

__all__ = ["TrainingSet"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Interaction rows to learn from; the table stays where it is, arrays are gathered when asked.

    Codes are those of the data set: users and items without a training row keep theirs.

    Attributes:
        dataset: the whole data set, vocabularies and feature tables included. Only `rows` of its
            interactions may be learned from.
        rows: [R] int64, rising row numbers of `dataset.interactions`.
    """

    dataset: Dataset
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = self.rows
        if len(rows) == 0:
            raise DataError(f"data set {self.dataset.name!r}: no interactions to learn from")
        if rows[0] < 0 or rows[-1] >= self.dataset.n_interactions or np.any(rows[1:] <= rows[:-1]):
            raise ValueError(
                f"training rows rise from 0 to at most {self.dataset.n_interactions - 1}, "
                "each at most once"
            )

    @classmethod
    def whole(cls, dataset: Dataset) -> Self:
        """Every interaction of a data set."""
        return cls(dataset, np.arange(dataset.n_interactions, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_users(self) -> int:
        """Users of the data set, those without a training row included."""
        return self.dataset.n_users

    @property
    def n_items(self) -> int:
        """Items of the catalog, those without a training row included."""
        return self.dataset.n_items

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[n_users + 1] int64: the training rows of user u are `offsets[u]:offsets[u + 1]`."""
        return np.searchsorted(self.rows, self.dataset.user_offsets).astype(np.int64)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """User code of each training row, [R] int64, rising."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """Item code of each training row, [R] int64, in time order within each user."""
        return codes_at(self.dataset.column("item"), self.rows)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the interactions at the training rows, [R]; gathered once."""
        if name not in self._gathered:
            self._gathered[name] = self._gather(name)
        return self._gathered[name]

    def histories(self, columns: Iterable[str] = ()) -> Histories:
        """The training histories of all `n_users` users: row u is user u, possibly empty.

        Args:
            columns: interaction columns to carry along, such as `"timestamp"`.
        """
        return Histories(
            Ragged(self.items, self.offsets), {name: self.column(name) for name in columns}
        )

    def matrix(self) -> csr_array:
        """[n_users, n_items] sparse float32, 1.0 at each distinct pair, columns sorted.

        Takes 8 bytes a row (16 above 2**31 rows); built anew at each call.
        """
        from scipy.sparse import csr_array

        index = np.int32 if len(self) < np.iinfo(np.int32).max else np.int64
        matrix = csr_array(
            (
                np.ones(len(self), np.float32),
                np.array(self._gather("item"), index),
                self.offsets.astype(index),
            ),
            shape=(self.n_users, self.n_items),
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def item_counts(self) -> NDArray[np.int64]:
        """Training rows of each item, [n_items] int64."""
        return np.bincount(self._gather("item"), minlength=self.n_items).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the data set's content and the chosen rows."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.rows, "<i8").data)
        return digest.hexdigest()

    @cached_property
    def _gathered(self) -> dict[str, NDArray[Any]]:
        return {}

    def _gather(self, name: str) -> NDArray[Any]:
        column = self.dataset.column(name)
        return column if len(self) == len(column) else column[self.rows]
