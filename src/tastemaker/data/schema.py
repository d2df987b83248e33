"""What the columns of a data set mean: roles of the interaction log, kinds of the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from tastemaker.errors import DataError, nearest

__all__ = ["Feature", "Kind", "Role", "Schema", "features"]


class Role(StrEnum):
    """What a column of the interaction log is; the value is also its name in `Dataset`."""

    USER = "user"
    ITEM = "item"
    TIMESTAMP = "timestamp"
    ORDER = "order"
    LABEL = "label"
    BEHAVIOR = "behavior"
    WEIGHT = "weight"
    PROPENSITY = "propensity"
    SPLIT = "split"
    SESSION = "session"


class Kind(StrEnum):
    """What a feature column holds, and how it is stored.

    CATEGORICAL: one value of a set; Arrow dictionary (int32 indices) of strings or int64.
    CATEGORIES: several values of a set; Arrow list of strings.
    NUMERIC: float64, NaN where missing.
    TEXT: string, null where missing.
    IMAGE: encoded bytes (PNG, JPEG), or a string with the path of an image file.
    EMBEDDING: fixed-size list of float32.
    ENTITY: the raw id of an entity of the knowledge graph, string or int64.
    """

    CATEGORICAL = "categorical"
    CATEGORIES = "categories"
    NUMERIC = "numeric"
    TEXT = "text"
    IMAGE = "image"
    EMBEDDING = "embedding"
    ENTITY = "entity"


@dataclass(frozen=True)
class Feature:
    """How to read a feature column: its kind, and what separates the values inside a string.

    `separator` matters for `categories` and `embedding` columns that arrive as text.
    """

    kind: Kind
    separator: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", _member(Kind, self.kind, "feature"))


_Member = TypeVar("_Member", Role, Kind)


def _member(choices: type[_Member], word: str, where: str) -> _Member:
    """The enum member called `word`, or a `DataError` that lists the members."""
    known = [choice.value for choice in choices]
    if word not in known:
        raise DataError(
            f"{where}: {word!r} is no {choices.__name__.lower()}{nearest(str(word), known)}; "
            f"known: {', '.join(known)}"
        )
    return choices(word)


def features(
    columns: Mapping[str, Feature | Kind | str], *, where: str = "columns"
) -> dict[str, Feature]:
    """Column name -> `Feature`, from features, kinds or the names of kinds.

    Raises:
        DataError: for an unknown kind; `where` says where it was written.
    """
    return {
        name: value
        if isinstance(value, Feature)
        else Feature(_member(Kind, value, f"{where}, column {name!r}"))
        for name, value in columns.items()
    }


@dataclass(frozen=True)
class Schema:
    """The meaning of every column of a `Dataset`.

    Attributes:
        roles: role -> the column's name in the source. Inside `Dataset.interactions` the column
            is called by its role (`"user"`, `"timestamp"`, ...). Without `Role.USER` every row
            is a user of its own.
        interactions: feature columns of the interactions, by name.
        users: feature columns of the users table.
        items: feature columns of the items table.
        title: the items column that names an item to a person.
    """

    roles: Mapping[Role, str]
    interactions: Mapping[str, Kind] = field(default_factory=dict)
    users: Mapping[str, Kind] = field(default_factory=dict)
    items: Mapping[str, Kind] = field(default_factory=dict)
    title: str | None = None

    def __post_init__(self) -> None:
        roles = {_member(Role, role, "schema, roles"): name for role, name in self.roles.items()}
        object.__setattr__(self, "roles", roles)
        for table in ("interactions", "users", "items"):
            kinds = {
                name: _member(Kind, kind, f"schema, {table}, column {name!r}")
                for name, kind in getattr(self, table).items()
            }
            object.__setattr__(self, table, kinds)
        known_roles = {role.value for role in Role}
        if taken := known_roles & set(self.interactions):
            name = min(taken)
            raise DataError(
                f"schema, interactions: a feature column cannot be called {name!r}, the name of "
                "a role; give the column that role, or rename it"
            )
        if self.title is not None and self.title not in self.items:
            raise DataError(
                f"schema: the title column {self.title!r} is not among the items' columns"
                f"{nearest(self.title, self.items)}; known: {', '.join(self.items) or 'none'}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` reads them back."""
        return {
            "roles": {role.value: name for role, name in self.roles.items()},
            "interactions": {name: kind.value for name, kind in self.interactions.items()},
            "users": {name: kind.value for name, kind in self.users.items()},
            "items": {name: kind.value for name, kind in self.items.items()},
            "title": self.title,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        """The schema written by `to_json`; an unknown key, role or kind is a `DataError`."""
        known = ("roles", "interactions", "users", "items", "title")
        for key in value:
            if key not in known:
                raise DataError(
                    f"schema: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}"
                )
        return cls(**value)
