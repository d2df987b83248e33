"""How our time and memory grow with rows, users, items, length, width and cores.

Random data; every axis changes one number and leaves the others as in `USUAL`: few items, so that
a step is that of the network, not of the loss over all items.

rows: a CSV file of ratings (a user has fifty) to a data set, `seconds`, and its leave-one-out
split with the checks for leaks, `split_seconds`.
users: top-10 lists, NDCG and recall of every user by full ranking of 10,000 items, seen ones
masked; a table of vectors, histories of twenty events.
items: a training step of SASRec on 8 rows of 50 events, over all items and ("sampled") with 512
negatives a row, and the top-10 list of one history.
length: a training step of SASRec, HSTU and TiM4Rec on 8,192 events: rows of 32 events are 256,
rows of 1,024 are 8.
width: a training step of SASRec, two blocks, 64 rows of 50 events.
cores: a training step of SASRec on 256 rows of 50 events, by as many processes of one thread
("processes") and by one process of as many threads ("threads").

`milliseconds` is the median of some steps or lists, the first ones not counted. `megabytes` is the
peak beyond what the process takes after the same work on a few rows, so without the libraries.
Steps compute in the default arithmetic, bfloat16 where the processor multiplies it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import Case, Curve, Numbers, Question, Side, Work, environment
from measuring import created, peak_memory, seconds_of, training_step

if TYPE_CHECKING:
    from tastemaker.data import Dataset, TrainingSet

USUAL = {"items": 1_000, "length": 50, "width": 64, "steps": 6, "settings": {}}
EVENTS = 8_192  # of a batch whose rows grow longer
HISTORY = 21  # events of a user who is ranked for, the last one asked for
RANKED = 10_000  # items that are ranked for each
RATED = 50  # rows of a user in the file
CATALOG = 27_000  # items in the file
LISTS = 100  # of one history each
WARM = 2  # steps or lists that are not counted
QUICK = {"rows": 2, "cores": 2}  # points of these axes, one of the others

AXES = {
    "rows": (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000),
    "users": (5_000, 10_000, 20_000, 40_000, 80_000),
    "items": (10_000, 40_000, 160_000, 640_000),
    "length": (32, 64, 128, 256, 512, 1024),
    "width": (32, 64, 128, 256, 512),
    "cores": tuple(2**power for power in range((os.cpu_count() or 1).bit_length())),
}


def prepare(given: SimpleNamespace) -> None:
    """Write `ratings.csv`, or store the data set `log` with rows of equal length."""
    if hasattr(given, "rows"):
        write_ratings(given)
        return
    if hasattr(given, "users"):
        log = random_log(given.users, HISTORY, RANKED, given.seed)
    else:
        given = completed(given)
        length = given.length + 1
        users = max(4 * given.batch, 1 + given.items // length)
        log = random_log(users, length, given.items, given.seed)
    log.save(Path(given.folder) / "log")


def random_log(users: int, length: int, items: int, seed: int) -> Dataset:
    """Histories of `length` events, a minute apart; every item occurs where there are enough."""
    from tastemaker.data import Dataset

    rows = np.arange(users * length)
    drawn = np.random.default_rng(seed).permutation(rows) % items
    log = {"user": rows // length, "item": drawn, "timestamp": 60 * rows}
    return Dataset.from_frame(log, user="user", item="item", timestamp="timestamp", name="random")


def write_ratings(given: SimpleNamespace) -> None:
    """`ratings.csv` with a long tail of items, and `few.csv`, its beginning."""
    import polars as pl

    rng = np.random.default_rng(given.seed)
    columns = {
        "user": rng.integers(0, given.rows // RATED, given.rows),
        "item": (CATALOG * rng.random(given.rows) ** 3).astype(np.int64),
        "rating": rng.integers(1, 11, given.rows) / 2,
        "timestamp": rng.integers(800_000_000, 1_500_000_000, given.rows),
    }
    frame = pl.DataFrame(columns)
    frame.write_csv(Path(given.folder) / "ratings.csv")
    frame.head(50_000).write_csv(Path(given.folder) / "few.csv")


def completed(given: SimpleNamespace) -> SimpleNamespace:
    """The settings of a case with those that are not its axis's."""
    return SimpleNamespace(**(USUAL | vars(given)))


def stored(given: SimpleNamespace) -> TrainingSet:
    """What `prepare` stored, all of it to train on."""
    from tastemaker.data import Dataset, TrainingSet

    return TrainingSet.whole(Dataset.open(Path(given.folder) / "log"))


def few(given: SimpleNamespace) -> TrainingSet:
    """Eight users: what is loaded when it is first needed is loaded for them."""
    from tastemaker.data import TrainingSet

    return TrainingSet.whole(random_log(8, 9, 16, given.seed))


def imported(given: SimpleNamespace) -> Numbers:
    from tastemaker.data import import_files, split

    def read(name: str) -> Dataset:
        source = Path(given.folder) / name
        return import_files(source, user="user", item="item", label="rating", timestamp="timestamp")

    split(read("few.csv"), "leave-one-out")  # loads what is loaded when it is needed
    base = peak_memory("VmRSS")
    started = time.perf_counter()
    data = read("ratings.csv")
    seconds = time.perf_counter() - started
    split_seconds = seconds_of(lambda: split(data, "leave-one-out").train.histories())
    return {"seconds": seconds, "split_seconds": split_seconds, "megabytes": beyond(base)}


def ranked(given: SimpleNamespace) -> Numbers:
    from tastemaker.data import split
    from tastemaker.evaluation import evaluate

    def seconds_of_ranking(data: Dataset) -> float:
        dealt = split(data, "leave-one-out:valid=0")
        model = created("bpr-mf", dealt.train, {"hidden_size": given.width}, given.seed).eval()
        job = {"metrics": ["ndcg", "recall"], "ks": (10,), "slices": {}}
        return seconds_of(lambda: evaluate(model, dealt.test, **job))

    given = completed(given)
    seconds_of_ranking(few(given).dataset)
    base = peak_memory("VmRSS")
    seconds = seconds_of_ranking(stored(given).dataset)
    return {"seconds": seconds, "megabytes": beyond(base)}


def trained(given: SimpleNamespace) -> Numbers:
    """A training step of the side's model, by this process or as one of several."""
    import torch

    from tastemaker.training.placement import choose_device, joined_world

    def step(data: TrainingSet, steps: int) -> Numbers:
        model = created(given.model, data, settings, given.seed)
        return training_step(model, data, steps=steps, warm=WARM, seed=given.seed, world=world)

    given = completed(given)
    torch.set_num_threads(given.threads)
    sizes = {"hidden_size": given.width, "max_length": given.length, "batch_size": given.batch}
    settings = {**sizes, **given.settings}
    with joined_world(choose_device("auto")) as world:
        step(few(given), 1)
        base = peak_memory("VmRSS")
        return {**step(stored(given), given.steps), "megabytes": beyond(base)}


def answered(given: SimpleNamespace) -> Numbers:
    """The list of one history at a time."""
    from tastemaker.data import Queries

    def milliseconds(data: TrainingSet, lists: int) -> float:
        settings = {"hidden_size": given.width, "max_length": given.length}
        model, taken = created("sasrec", data, settings, given.seed).eval(), []
        users = np.arange(data.n_users)
        queries = Queries(users, data.histories())
        for user in range(lists + WARM):
            query = queries.take(slice(user, user + 1))
            taken.append(seconds_of(lambda query=query: model.recommend(query, 10)))
        return 1e3 * float(np.median(taken[WARM:]))

    given = completed(given)
    milliseconds(few(given), 1)
    base = peak_memory("VmRSS")
    return {"milliseconds": milliseconds(stored(given), LISTS), "megabytes": beyond(base)}


def with_threads(given: SimpleNamespace) -> Numbers:
    return trained(SimpleNamespace(**{**vars(given), "threads": given.cores}))


def with_processes(given: SimpleNamespace) -> Numbers:
    """The same step by processes of one thread each, started by torchrun."""
    if "RANK" in os.environ:
        return trained(SimpleNamespace(**{**vars(given), "threads": 1}))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given.cores}"]
    launcher += ["--local-ranks-filter=0"]  # the first process speaks for all
    work = [__file__, "--work", "processes", json.dumps(vars(given))]
    done = subprocess.run(
        [sys.executable, *launcher, *work],
        env=environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    line = next(line for line in done.stdout.splitlines() if "milliseconds" in line)
    return dict(json.loads(line[line.index("{") :]))


def beyond(base: int) -> float:
    """MiB of the peak so far, less `base` bytes."""
    return (peak_memory() - base) / 2**20


def cases() -> list[Case]:
    """A case for each point of each axis, which sets nothing that another axis changes."""
    found = []
    for axis, values in AXES.items():
        for place, value in enumerate(values):
            batch = {"items": 8, "length": EVENTS // value, "cores": 256}.get(axis, 64)
            settings = {axis: value, "batch": batch}
            found.append(Case(f"{axis} {value:,}", settings, place < QUICK.get(axis, 1)))
    return found


def side(name: str, work: Work, *axes: str, **settings: Any) -> Side:
    """A side of all cases of some axes."""
    names = [f"{axis} {value:,}" for axis in axes for value in AXES[axis]]
    return Side(name, work, settings=settings, cases=names)


SASREC: dict[str, Any] = {"model": "sasrec"}
SAMPLED = {"loss": "sampled", "num_negatives": 512}
UNTIMED = {"targets": "positions", "time_aware": False}  # a row's targets at once, as the others
QUESTION = Question(
    "How time and memory grow with rows, users, items, length, width and cores",
    cases=cases(),
    sides=[
        side("import", imported, "rows"),
        side("ranking", ranked, "users"),
        side("top-10", answered, "items"),
        side("sasrec, sampled", trained, "items", **SASREC, settings=SAMPLED),
        side("sasrec", trained, "items", "length", "width", **SASREC),
        side("hstu", trained, "length", model="hstu"),
        side("tim4rec", trained, "length", model="tim4rec", settings=UNTIMED),
        side("processes", with_processes, "cores", **SASREC),
        side("threads", with_threads, "cores", **SASREC),
    ],
    curves=[
        Curve("seconds", "rows"),
        Curve("split_seconds", "rows"),
        Curve("megabytes", "rows", memory=True),
        Curve("seconds", "users"),
        Curve("megabytes", "users", memory=True),
        *(
            curve
            for axis in ("items", "length", "width")
            for curve in (Curve("milliseconds", axis), Curve("megabytes", axis, memory=True))
        ),
        Curve("milliseconds", "cores"),
    ],
    prepare=prepare,
    rounds=1,
    quick={"steps": 2, "batch": 8},
)

if __name__ == "__main__":
    QUESTION.main()
