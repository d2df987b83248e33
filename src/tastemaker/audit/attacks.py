"""Poisoning: fake users that push chosen items, as a data set value beside the clean one.

An attacker adds a few users (1 % of the real ones) whose profiles, as long as real ones, hold
unpopular target items and fillers. Attacks differ in the fillers: uniform items; popular items,
"bandwagon" (Mobasher et al., Toward trustworthy recommender systems, TOIT 2007); or those that a
surrogate model, trained as if the promotion had worked, expects of the fake user ("Data Poisoning
Attacks to Deep Learning Based Recommender Systems", NDSS 2021, arXiv 2101.02644).

What we changed in the learned attack: the surrogate is our BPR-MF, so its attack loss is on scores
and not on log-probabilities; fake users come in a few rounds instead of one by one; every profile
holds all targets.

Cost: a poisoned data set copies the interactions once. Random and bandwagon profiles draw a number
per fake user and item. The learned attack trains its surrogate for `epochs`, and for twice
`round_epochs` in each of its rounds; an epoch costs one of BPR-MF and a product of all users and
items, in blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data import Dataset, Queries, Ragged, Split, TrainingSet, Vocabulary
from tastemaker.data.dataset import one_chunk, take_rows
from tastemaker.errors import ConfigError, DataError
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.training import Batch, GradientStage, Loss, fit
from tastemaker.training.randomness import generator_for
from tastemaker.training.stages import Progressing, Stage

__all__ = [
    "ATTACKS",
    "Attack",
    "BandwagonAttack",
    "Budget",
    "Order",
    "Poisoned",
    "RandomAttack",
    "SurrogateAttack",
    "poison",
]

_BLOCK = 1 << 22  # numbers held at once: 16 MB of float32


@dataclass(frozen=True)
class Budget:
    """What an attacker may spend, and on what.

    Attributes:
        share: fake users per real user with training rows (VAT paper: 1 %).
        profile_length: items of a fake profile; `None` is the mean of real training histories.
        n_targets: promoted items (VAT paper: 5).
        unpopular: targets are drawn from this least popular share of the items with training rows.
    """

    share: float = 0.01
    profile_length: int | None = None
    n_targets: int = 5
    unpopular: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; fake users are above 0 and at most 1 a user")
        if not 0 < self.unpopular <= 1:
            raise ConfigError(f"unpopular is {self.unpopular}; give a share above 0 and at most 1")
        if self.n_targets < 1:
            raise ConfigError(f"n_targets is {self.n_targets}; an attack promotes at least 1 item")

    def order(self, data: TrainingSet, seed: int) -> Order:
        """The budget in numbers for a data set; the targets are a function of data and seed.

        Raises:
            DataError: when there are too few items for the targets or the profiles.
        """
        lengths = np.diff(data.offsets)
        real = lengths[lengths > 0]
        length = round(real.mean()) if self.profile_length is None else self.profile_length
        counts = data.item_counts()
        known = np.flatnonzero(counts)
        ranked = known[np.argsort(counts[known], kind="stable")]
        pool = ranked[: max(self.n_targets, round(self.unpopular * len(known)))]
        if len(pool) < self.n_targets or not self.n_targets <= length <= data.n_items:
            raise DataError(
                f"data set {data.dataset.name!r} has {len(known)} items with training rows, too "
                f"few for profiles of {length} items with {self.n_targets} targets; ask for fewer "
                "targets, or set profile_length between their number and that of the items"
            )
        generator = generator_for(seed, "targets")
        targets = np.sort(generator.choice(pool, self.n_targets, replace=False))
        return Order(targets, max(1, round(self.share * len(real))), int(length))


@dataclass(frozen=True, eq=False)
class Order:
    """What an attack is asked for.

    Attributes:
        targets: [T] int64 item codes to promote, rising.
        n_fakes: fake users to invent.
        length: distinct items of each profile, the targets included.
    """

    targets: NDArray[np.int64]
    n_fakes: int
    length: int

    @property
    def n_fillers(self) -> int:
        """Items of a profile that are not targets."""
        return self.length - len(self.targets)

    def profiles(self, fillers: NDArray[np.int64]) -> Ragged:
        """Targets and fillers [n, n_fillers] together: n rows of `length` items."""
        targets = np.broadcast_to(self.targets, (len(fillers), len(self.targets)))
        whole = np.concatenate([targets, fillers], 1)
        return Ragged.from_lengths(whole.ravel(), np.full(len(whole), self.length))


class Attack(Protocol):
    """A way to fill fake profiles."""

    name: ClassVar[str]

    def profiles(self, data: TrainingSet, order: Order, generator: np.random.Generator) -> Ragged:
        """`order.n_fakes` rows of `order.length` distinct items, all targets among them."""
        ...


@dataclass(frozen=True)
class RandomAttack:
    """Fillers are drawn uniformly from all items."""

    name: ClassVar[str] = "random"

    def profiles(self, data: TrainingSet, order: Order, generator: np.random.Generator) -> Ragged:
        """Targets and uniform fillers."""
        barred = np.zeros(data.n_items, np.bool_)
        barred[order.targets] = True
        return order.profiles(_draw(barred, order.n_fillers, order.n_fakes, generator))


@dataclass(frozen=True)
class BandwagonAttack:
    """Half of the fillers are drawn from the most popular items, the others from all the rest.

    Attributes:
        popular: the share of items that counts as popular (ours).
    """

    popular: float = 0.1
    name: ClassVar[str] = "bandwagon"

    def __post_init__(self) -> None:
        if not 0 < self.popular <= 1:
            raise ConfigError(f"popular is {self.popular}; give a share above 0 and at most 1")

    def profiles(self, data: TrainingSet, order: Order, generator: np.random.Generator) -> Ragged:
        """Targets, popular items and uniform fillers."""
        counts = data.item_counts()
        counts[order.targets] = -1
        ranked = np.argsort(-counts, kind="stable")
        n_others = data.n_items - len(order.targets)
        n_popular = min(n_others, max(order.n_fillers // 2, round(self.popular * data.n_items)))
        barred = np.ones(data.n_items, np.bool_)
        barred[ranked[:n_popular]] = False
        popular = _draw(barred, order.n_fillers // 2, order.n_fakes, generator)
        barred = np.zeros(data.n_items, np.bool_)
        barred[order.targets] = True
        rest = order.n_fillers - popular.shape[1]
        return order.profiles(
            np.concatenate([popular, _draw(barred, rest, order.n_fakes, generator, popular)], 1)
        )


def _draw(
    barred: NDArray[np.bool_],
    n: int,
    n_rows: int,
    generator: np.random.Generator,
    taken: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """[n_rows, n] distinct items a row, uniform among those neither barred nor taken by the row."""
    drawn = np.empty((n_rows, n), np.int64)
    step = max(1, _BLOCK // len(barred))
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        keys = generator.random((rows.stop - rows.start, len(barred)), np.float32)
        keys[:, barred] = 2.0
        if taken is not None:
            np.put_along_axis(keys, taken[rows], 2.0, axis=1)
        drawn[rows] = np.argpartition(keys, n - 1, axis=1)[:, :n] if n else drawn[rows]
    return drawn


@dataclass(frozen=True)
class SurrogateAttack:
    """Fillers are what a surrogate BPR-MF, trained to promote the targets, expects of the fakes.

    Round by round, some fake users take the targets, the surrogate learns of them, then learns on
    with an attack loss that asks for each target above the last item of every real user's list;
    the items it likes most for the fakes, each times a weight, are their fillers. An item's weight
    falls by `decay` when it is chosen, so that profiles differ, and all weights return to 1 when
    none is left at 1.

    Attributes:
        epochs: of the surrogate before the first fake user (ours).
        round_epochs: of the surrogate, in each round, without and with the attack loss (ours).
        rounds: in which the fake users come (ours; paper: as many as there are fake users).
        list_length: of the lists the targets are to enter (VAT paper's K).
        strength: weight of the attack loss (reference code).
        decay: of the weight of a chosen item (reference code).
        learning_rate: of the surrogate (ours).
    """

    epochs: int = 20
    round_epochs: int = 2
    rounds: int = 10
    list_length: int = 50
    strength: float = 1.0
    decay: float = 0.8
    learning_rate: float = 5e-3
    name: ClassVar[str] = "surrogate"

    def profiles(self, data: TrainingSet, order: Order, generator: np.random.Generator) -> Ragged:
        """Targets and the surrogate's fillers."""
        seed = int(generator.integers(1 << 31))
        handicaps = np.zeros(data.n_items, np.float32)  # logarithms of the weights
        handicaps[order.targets] = -np.inf
        fillers = np.empty((0, order.n_fillers), np.int64)
        state = self._surrogate(_with_fakes(data, order, fillers, 0), seed).state()
        rounds = np.array_split(np.arange(order.n_fakes), min(self.rounds, order.n_fakes))
        for number, coming in enumerate(rounds):
            poisoned = _with_fakes(data, order, fillers, len(coming))
            surrogate = self._surrogate(poisoned, seed + 2 * number + 1, state)
            state = surrogate.state()
            surrogate = self._surrogate(poisoned, seed + 2 * number + 2, state, order)
            users = torch.from_numpy(data.n_users + coming)
            scores = surrogate.user_vectors()[users] @ surrogate.item_vectors().T
            chosen = self._choose(scores.detach().numpy(), order.n_fillers, handicaps)
            fillers = np.concatenate([fillers, chosen])
        return order.profiles(fillers)

    def _surrogate(
        self,
        data: TrainingSet,
        seed: int,
        state: Mapping[str, Tensor] | None = None,
        promoted: Order | None = None,
    ) -> _Surrogate:
        """The surrogate after some epochs on `data`, from `state` on, promoting or not."""
        settings = {
            "epochs": self.epochs if state is None else self.round_epochs,
            "learning_rate": self.learning_rate,
            "num_negatives": 1,
            "monitor": None,
        }
        model = _Surrogate.create(settings, data.dataset, seed=seed)
        if state is not None:
            model.load_state(state)
        if promoted is not None:
            model.promote(promoted, self.strength, self.list_length)
        fit(model, data, seed=seed, device="cpu")
        return model

    def _choose(
        self, scores: NDArray[np.float32], n: int, handicaps: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """[F, n] the best items of each row [N] of scores; what is chosen falls behind.

        Scores of both signs would rise by a weight below 1, so their exponentials are weighted:
        the logarithm of the weight is added.
        """
        chosen = np.empty((len(scores), n), np.int64)
        for row, own in enumerate(scores):  # one after the other: each changes the weights
            chosen[row] = np.argsort(-(own + handicaps), kind="stable")[:n]
            handicaps[chosen[row]] += np.log(self.decay)
            if handicaps.max() < 0:
                handicaps[np.isfinite(handicaps)] = 0.0
        return chosen


class _Surrogate(BPRMF):
    """BPR-MF that can be asked to promote items: to want them on every real user's list."""

    frontier: Tensor  # [number of real users] int64, the last item on each one's list
    targets: Tensor  # [T] int64
    strength = 0.0

    def promote(self, order: Order, strength: float, list_length: int) -> None:
        """Add the attack loss, times `strength`, for lists of that length."""
        self.targets = torch.from_numpy(order.targets)
        self.n_real = self.n_users - order.n_fakes
        self.strength, self.list_length = strength, min(list_length, self.n_items)

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Those of BPR-MF; the lists are made anew in each epoch."""
        stages = super().stages(data)
        if not self.strength:
            return stages
        queries = Queries(np.arange(self.n_real), data.histories().take(slice(0, self.n_real)))

        def look(progress: Progressing) -> None:
            del progress
            seen = queries.histories.items
            lists = self.recommend(queries, self.list_length, exclude=seen).items
            last = (lists >= 0).sum(1, keepdim=True).clamp(min=1) - 1
            self.frontier = lists.gather(1, last)[:, 0].clamp(min=0)

        return [
            dataclasses.replace(stage, before_epoch=[look])
            if isinstance(stage, GradientStage)
            else stage
            for stage in stages
        ]

    def loss(self, batch: Batch) -> Loss:
        """The loss of BPR-MF, and how far each target is below the last item of the lists."""
        own = super().loss(batch)
        if not self.strength:
            return own
        real = batch["users"][batch["users"] < self.n_real]
        users, items = self.propagated()
        vectors = users[real]  # [R, D]
        last = (vectors * items[self.frontier[real]]).sum(1)
        below = (last[:, None] - vectors @ items[self.targets].T).relu().mean()
        return Loss(own.value + self.strength * below, own.weight, own.parts)


def _with_fakes(
    data: TrainingSet, order: Order, fillers: NDArray[np.int64], n_coming: int
) -> TrainingSet:
    """The training set with finished profiles, and others of targets alone; users for all."""
    whole = order.profiles(fillers)
    bare = np.tile(order.targets, n_coming)
    rows = (len(whole), n_coming, order.n_fakes - len(whole) - n_coming)
    lengths = np.repeat([order.length, len(order.targets), 0], rows)
    profiles = Ragged.from_lengths(np.concatenate([whole.values, bare]), lengths)
    return _inject(data, profiles, order.targets, np.random.default_rng(0))


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A split whose training part holds fake users; what it asks is what the clean one asks.

    It is trained on with `tastemaker.training.fit`. Real users and interactions keep their codes
    and row numbers, fake ones come after them.

    Attributes:
        split: the poisoned split; its parts are those of the clean one.
        clean: the split that was poisoned.
        attack: name of the attack.
        targets: [T] int64 codes of the promoted items, rising.
        fakes: [F] int64 codes of the fake users, rising.
        seed: of all random choices.
    """

    split: Split
    clean: Split
    attack: str
    targets: NDArray[np.int64]
    fakes: NDArray[np.int64]
    seed: int

    @property
    def dataset(self) -> Dataset:
        """The poisoned data set."""
        return self.split.dataset


def poison(
    split: Split, attack: Attack, *, budget: Budget | None = None, seed: int = 0
) -> Poisoned:
    """Add an attack's fake users to the training part of a split.

    The attacker sees the training part. Whatever columns the interactions have, a fake event takes
    them from a random training row of its item (of any item when it has none), and a target's
    label is the highest there is; fake users take the features of random real ones.

    Args:
        split: the clean split; it stays as it is.
        attack: how profiles are filled.
        budget: how many fake users, profiles and targets; the VAT paper's by default.
        seed: same split, attack, budget and seed, same fakes. Targets are the same for all attacks.

    Raises:
        DataError: when there are too few items for the budget.
    """
    data, dataset = split.train, split.dataset
    order = (budget or Budget()).order(data, seed)
    profiles = attack.profiles(data, order, generator_for(seed, "profiles", attack.name))
    train = _inject(data, profiles, order.targets, generator_for(seed, "columns", attack.name))
    dataset = dataclasses.replace(train.dataset, name=f"{dataset.name}, poisoned: {attack.name}")
    train = TrainingSet(dataset, train.rows)
    trained = dataclasses.replace(
        split.report.train,
        rows=len(train),
        users=split.report.train.users + order.n_fakes,
        items=int(np.count_nonzero(train.item_counts())),
    )
    notes = {**split.report.notes, "fake users in training": order.n_fakes}
    poisoned = dataclasses.replace(
        split,
        name=f"{split.name}, poisoned: {attack.name}",
        train=train,
        report=dataclasses.replace(split.report, train=trained, notes=notes),
    )
    fakes = np.arange(data.n_users, train.n_users)
    return Poisoned(poisoned, split, attack.name, order.targets, fakes, seed)


def _inject(
    data: TrainingSet, profiles: Ragged, targets: NDArray[np.int64], generator: np.random.Generator
) -> TrainingSet:
    """The training set with a new user for each profile, possibly empty, behind the real ones."""
    dataset, table = data.dataset, data.dataset.interactions
    n_real, n_fakes = dataset.n_users, len(profiles)
    donors = data.rows[_donors(data, profiles.values, generator)]
    whole = take_rows(table, np.concatenate([np.arange(dataset.n_interactions), donors]))
    columns = {
        name: one_chunk(whole.column(name))
        for name in whole.column_names
        if name not in ("user", "item")
    }
    if "label" in columns:
        labels = columns["label"].to_numpy().copy()
        pushed = np.isin(profiles.values, targets)
        labels[dataset.n_interactions :][pushed] = data.column("label").max()
        columns["label"] = labels
    users = dataset.users
    if users is not None:
        worn = generator.integers(0, n_real, n_fakes)
        users = take_rows(users, np.concatenate([np.arange(n_real), worn]))
    ids = _fake_ids(dataset.user_ids, n_fakes)
    grown = dataclasses.replace(dataset, user_ids=ids, users=users)
    poisoned = grown.with_interactions(
        np.concatenate([dataset.column("user"), n_real + profiles.row_index()]),
        np.concatenate([dataset.column("item"), profiles.values]),
        columns,
    )
    added = np.arange(dataset.n_interactions, poisoned.n_interactions)
    return TrainingSet(poisoned, np.concatenate([data.rows, added]))


def _donors(
    data: TrainingSet, items: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For each item a random training row (its place among them) with it, else with any item."""
    by_item = np.argsort(data.items, kind="stable")
    counts = data.item_counts()
    starts = np.cumsum(counts) - counts
    drawn = generator.random(len(items))
    places = np.where(
        counts[items] > 0, starts[items] + drawn * counts[items], drawn * len(by_item)
    )
    return by_item[places.astype(np.int64)]


def _fake_ids(known: Vocabulary, n: int) -> Vocabulary:
    """The vocabulary with n more ids: whole numbers after the largest, or names not yet taken."""
    if not known.is_text:
        first = int(known.ids.to_numpy().max()) + 1
        return Vocabulary(pa.concat_arrays([known.ids, pa.array(np.arange(first, first + n))]))
    prefix = "fake"
    while (known.encode(pa.array(_numbered(prefix, n))) >= 0).any():
        prefix += "_"
    fakes = pa.array(_numbered(prefix, n), pa.large_string())
    return Vocabulary(pa.concat_arrays([known.ids, fakes]))


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(n)]


#: name -> attack with its default settings
ATTACKS: Mapping[str, Attack] = {
    attack.name: attack for attack in (RandomAttack(), BandwagonAttack(), SurrogateAttack())
}
