"""What the catalog knows of a public data set, and what its parser hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tastemaker.data.fetch import Originals, RemoteFile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Parsed", "PublicDataset", "Sizes", "Source"]


@dataclass(frozen=True)
class Sizes:
    """Counts as published; where the publisher rounds them, so are these. None where unknown."""

    users: int | None = None
    items: int | None = None
    interactions: int | None = None


@dataclass(frozen=True)
class Parsed:
    """The tables of a data set as its parser read them.

    Attributes:
        interactions: columns named by their roles (`user`, `item`, `timestamp` in seconds,
            `order`, `label`, `weight`, `behavior`, `split`), then features.
        columns: kinds of the interactions' feature columns.
        users: a `user` column and features, or None.
        user_columns: kinds of the users' features.
        items: an `item` column and features, or None.
        item_columns: kinds of the items' features.
        title: the items column that names an item to a person.
        knowledge: `head`, `relation` and `tail` columns, or None.
        item_entity: the items column with the entity that stands for an item in `knowledge`.
    """

    interactions: pl.DataFrame
    columns: Mapping[str, str] = field(default_factory=dict)
    users: pl.DataFrame | None = None
    user_columns: Mapping[str, str] = field(default_factory=dict)
    items: pl.DataFrame | None = None
    item_columns: Mapping[str, str] = field(default_factory=dict)
    title: str | None = None
    knowledge: pl.DataFrame | None = None
    item_entity: str | None = None


@dataclass(frozen=True)
class Source:
    """One place that publishes the data set, and how to read what is published there.

    Attributes:
        files: all the files that must be fetched.
        needs: the original files inside them without which the parser cannot work; files that
            lie in a folder are recognised as this source by these names.
        parse: reads them.
    """

    files: tuple[RemoteFile, ...]
    needs: tuple[str, ...]
    parse: Callable[[Originals], Parsed]

    @property
    def by_hand(self) -> bool:
        """Whether a person must fetch a file, because its terms are to be accepted first."""
        return any(file.url is None and file.wheel is None for file in self.files)


@dataclass(frozen=True)
class PublicDataset:
    """One public data set: where it is published, on what terms, and how its files are read.

    Attributes:
        name: what `load` takes.
        title: what a person calls it.
        page: the publisher's page.
        licence: the terms in a few words; the page has them in full.
        citation: the work to cite.
        sizes: counts as published.
        sources: in the order in which they are tried.
        version: raised when the parser changes what it returns; part of the stored folder's name.
    """

    name: str
    title: str
    page: str
    licence: str
    citation: str
    sizes: Sizes
    sources: tuple[Source, ...]
    version: int = 1
