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
        task: `"top-n"` (items for a user), `"next-item"` (what comes next in a history) or
            `"click"` (the probability of a label).
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


_TASKS = {
    "sequential": "next-item",
    "generative": "next-item",
    "language": "next-item",
    "ranking": "click",
}


def _own(name: str, class_name: str, family: str, paper: str, *needs: str) -> Entry:
    task = _TASKS.get(family, "top-n")
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
    _own(
        "hstu",
        "HSTU",
        "sequential",
        "Zhai et al., Actions speak louder than words: trillion-parameter sequential transducers "
        "for generative recommendations, ICML 2024, arXiv:2402.17152",
        "order",
    ),
    _own(
        "tim4rec",
        "TiM4Rec",
        "sequential",
        "Fan et al., TiM4Rec: an efficient sequential recommendation model based on time-aware "
        "structured state space duality model, arXiv:2409.16182",
        "time",
    ),
    _own(
        "mclrec",
        "MCLRec",
        "sequential",
        "Qin et al., Meta-optimized contrastive learning for sequential recommendation, SIGIR "
        "2023, arXiv:2304.07763",
        "order",
    ),
    _own(
        "sra-cl",
        "SRACL",
        "sequential",
        "Cui et al., Semantic retrieval augmented contrastive learning for sequential "
        "recommendation, NeurIPS 2025, arXiv:2503.04162",
        "order",
    ),
    _own(
        "tiger",
        "TIGER",
        "generative",
        "Rajput et al., Recommender systems with generative retrieval, NeurIPS 2023, "
        "arXiv:2305.05065; Ju et al., Generative recommendation with semantic IDs: a "
        "practitioner's handbook, CIKM 2025, arXiv:2507.22224",
        "order",
    ),
    _own(
        "deepfm",
        "DeepFM",
        "ranking",
        "Guo et al., DeepFM: a factorization-machine based neural network for CTR prediction, "
        "IJCAI 2017, arXiv:1703.04247",
        "labels",
    ),
    _own(
        "dcnv2",
        "DCNv2",
        "ranking",
        "Wang et al., DCN V2: improved deep and cross network and practical lessons for web-scale "
        "learning to rank systems, WWW 2021, arXiv:2008.13535",
        "labels",
    ),
    _own(
        "din",
        "DIN",
        "ranking",
        "Zhou et al., Deep interest network for click-through rate prediction, KDD 2018, "
        "arXiv:1706.06978",
        "labels",
        "order",
    ),
    _own(
        "tin",
        "TIN",
        "ranking",
        "Zhou et al., Temporal interest network for user response prediction, WWW 2024, "
        "arXiv:2308.08487",
        "labels",
        "order",
    ),
    _own(
        "hstu-ranking",
        "HSTURanking",
        "ranking",
        "Zhai et al., Actions speak louder than words: trillion-parameter sequential transducers "
        "for generative recommendations, ICML 2024, arXiv:2402.17152",
        "labels",
        "order",
    ),
    _own(
        "kgat",
        "KGAT",
        "knowledge",
        "Wang et al., KGAT: knowledge graph attention network for recommendation, KDD 2019, "
        "arXiv:1905.07854",
        "knowledge",
    ),
    _own(
        "freedom",
        "FREEDOM",
        "multimodal",
        "Zhou and Shen, A tale of two graphs: freezing and denoising graph structures for "
        "multimodal recommendation, ACM MM 2023, arXiv:2211.06924",
    ),
    _own(
        "bm3",
        "BM3",
        "multimodal",
        "Zhou et al., Bootstrap latent representations for multi-modal recommendation, WWW 2023, "
        "arXiv:2207.05969",
    ),
    _own(
        "apr",
        "APR",
        "collaborative",
        "He et al., Adversarial personalized ranking for recommendation, SIGIR 2018, "
        "arXiv:1808.03908",
    ),
    _own(
        "vat",
        "VAT",
        "collaborative",
        "Zhang et al., Improving the shortest plank: vulnerability-aware adversarial training for "
        "robust recommender system, RecSys 2024, arXiv:2409.17476",
    ),
    _own(
        "bigrec",
        "BIGRec",
        "language",
        "Bao et al., A bi-step grounding paradigm for large language models in recommendation "
        "systems, TORS 2025, arXiv:2308.08434",
        "order",
        "text",
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
