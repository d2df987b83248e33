"""The one table of methods, by name. Reading it imports no method.

A package of somebody else adds a method by an entry point of the group `tastemaker.models` that
names its class:

    [project.entry-points."tastemaker.models"]
    my-method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from tastemaker.console import say
from tastemaker.errors import ConfigError, nearest

if TYPE_CHECKING:
    from tastemaker.models.base import Recommender

__all__ = ["ENTRIES", "Entry", "entries", "find"]

GROUP = "tastemaker.models"


@dataclass(frozen=True)
class Entry:
    """One method: where its class is, and what a table of methods says of it.

    Attributes:
        name: what people type.
        module: dotted name of its module.
        class_name: the `Recommender` in it.
        family: folder under `models/`, or `"third-party"`.
        task: `"top-n"` (items for a user) or `"next-item"` (what comes next in a history).
        paper: authors, title, venue, arXiv id.
        needs: data it cannot do without (values of `models.base.Need`); `None` when only its
            class knows.
    """

    name: str
    module: str
    class_name: str
    family: str
    task: str
    paper: str
    needs: tuple[str, ...] | None = ()

    def load(self) -> type[Recommender]:
        """Import the class.

        Raises:
            ConfigError: when an entry of another package cannot be imported or is no method.
        """
        from tastemaker.models.base import Recommender

        try:
            found = getattr(importlib.import_module(self.module), self.class_name)
        except (ImportError, AttributeError) as error:
            if self.family != "third-party":
                raise
            raise ConfigError(
                f"model {self.name!r}: {self.module}:{self.class_name} cannot be imported "
                f"({error}); repair or remove the package that registers it"
            ) from error
        if not (isinstance(found, type) and issubclass(found, Recommender)):
            raise ConfigError(
                f"model {self.name!r}: {self.module}:{self.class_name} is not a subclass of "
                "tastemaker.models.base.Recommender"
            )
        return found

    def needed(self) -> tuple[str, ...]:
        """The needs; asks the class where the table does not know."""
        if self.needs is not None:
            return self.needs
        return tuple(sorted(need.value for need in self.load().needs))


def _own(name: str, class_name: str, family: str, paper: str, *needs: str) -> Entry:
    task = "next-item" if family == "sequential" else "top-n"
    module = f"tastemaker.models.{family}.{name.replace('-', '_')}"
    return Entry(name, module, class_name, family, task, paper, needs)


_TABLE = (
    _own(
        "popularity",
        "Popularity",
        "collaborative",
        "the baseline without a paper: items by how often they were chosen",
    ),
    _own(
        "item-knn",
        "ItemKNN",
        "collaborative",
        "Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001",
    ),
    _own(
        "ease",
        "EASE",
        "collaborative",
        "Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, arXiv:1905.03375",
    ),
    _own(
        "ials",
        "IALS",
        "collaborative",
        "Hu et al., Collaborative filtering for implicit feedback datasets, ICDM 2008; "
        "Rendle et al., Revisiting the performance of iALS, RecSys 2022, arXiv:2110.14037",
    ),
    _own(
        "bpr-mf",
        "BPRMF",
        "collaborative",
        "Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009, "
        "arXiv:1205.2618",
    ),
    _own(
        "lightgcn",
        "LightGCN",
        "collaborative",
        "He et al., LightGCN: simplifying and powering graph convolution network for "
        "recommendation, SIGIR 2020, arXiv:2002.02126",
    ),
    _own(
        "gru4rec",
        "GRU4Rec",
        "sequential",
        "Hidasi et al., Session-based recommendations with recurrent neural networks, ICLR 2016, "
        "arXiv:1511.06939",
        "order",
    ),
    _own(
        "sasrec",
        "SASRec",
        "sequential",
        "Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018, arXiv:1808.09781",
        "order",
    ),
    _own(
        "bert4rec",
        "BERT4Rec",
        "sequential",
        "Sun et al., BERT4Rec: sequential recommendation with bidirectional encoder "
        "representations from Transformer, CIKM 2019, arXiv:1904.06690",
        "order",
    ),
)

ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _TABLE}


@cache
def entries() -> Mapping[str, Entry]:
    """Every method there is, ours first, then those of other installed packages by name."""
    found = dict(ENTRIES)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = "an unnamed package" if point.dist is None else point.dist.name
        if point.name in found:
            say(f"model {point.name!r} of {package} is ignored: the name is taken")
            continue
        paper = f"see the package {package}"
        found[point.name] = Entry(
            point.name, point.module, point.attr, "third-party", "top-n", paper, needs=None
        )
    return found


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ConfigError: naming the nearest known name.
    """
    known = entries()
    if name not in known:
        raise ConfigError(
            f"unknown model {name!r}{nearest(name, known)}; known models: {', '.join(known)}"
        )
    return known[name]
