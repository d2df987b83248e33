"""How fast does the service answer, and what does that cost beside the bare arithmetic?

    python benchmarks/serving.py [--seconds 600] [--rate 200] [--items 100000] [--keep FOLDER]

A run of SASRec (width 64) on a made-up log is served by a process of its own; requests come at a
steady rate, whether earlier ones are answered or not, half of them for known users and half with a
history, an event every tenth. Printed are latencies from the moment a request was due, errors, the
server's memory at the start and at the end, and the ratio of the median to that of a product of one
vector with all items and the selection of ten. With --keep, the run is kept in a folder and taken
from there the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import torch
import uvloop

from tastemaker.data import Dataset, split
from tastemaker.experiment.fitting import fit
from tastemaker.layers.selection import top_k

CONNECTIONS = 64


def make_run(folder: Path, n_items: int) -> Path:
    """A SASRec run on a random log over `n_items` items; what it learned does not matter here."""
    out = folder / f"random-{n_items}"
    if out.exists():
        return out
    generator = np.random.default_rng(0)
    n_users, length = max(n_items // 5, 100), 20
    items = np.concatenate([np.arange(n_items), generator.integers(0, n_items, n_users * length)])
    users = np.arange(len(items)) % n_users
    log = pl.DataFrame({"user": users, "item": items, "time": np.arange(len(items))})
    dataset = Dataset.from_frame(log, user="user", item="item", timestamp="time", name="random")
    settings = {"hidden_size": 64, "max_length": 50, "epochs": 1, "loss": "sampled"}
    settings |= {"num_negatives": 16, "monitor": None}
    fit(split(dataset, "leave-one-out:valid=0"), "sasrec", out=out, evaluate_on=(), **settings)
    return out


class Server:
    """A running `tastemaker serve` of one run, as model "main".

    Args:
        run: its folder.
        folder: where the store is, unless it is elsewhere.
        store: URL of it.
        config: file of settings.
    """

    def __init__(
        self, run: Path, folder: Path, *, store: str | None = None, config: Path | None = None
    ) -> None:
        command = [sys.executable, "-m", "tastemaker", "serve", f"main={run}", "--port", "0"]
        command += ["--store", store or f"sqlite:///{folder / 'events.db'}"]
        command += [] if config is None else ["--config", str(config)]
        told = {**os.environ, "TASTEMAKER_QUIET": "0"}  # the address is read from what it says
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=told)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                # What it says later is read, too: a full pipe would stop it.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise SystemExit("the server did not start")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss


class Connection:
    """One HTTP/1.1 connection that is kept open."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Send a request and read the answer; returns the status."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", answer.lower())[1])  # type: ignore[index]
        await reader.readexactly(length)
        return int(answer[9:12])


def requests(n_items: int, count: int) -> list[tuple[str, bytes]]:
    """Paths and bodies of requests."""
    generator = np.random.default_rng(1)
    made = []
    for number in range(count):
        user = str(generator.integers(max(n_items // 5, 100)))
        items = [str(item) for item in generator.integers(0, n_items, 20)]
        if number % 10 == 0:
            event = {"event_id": f"e{number}", "user": user, "item": items[0]}
            made.append(("/events", json.dumps({"events": [event]}).encode()))
        else:
            whom = {"user": user} if number % 2 else {"history": items}
            made.append(("/recommend", json.dumps({**whom, "k": 10}).encode()))
    return made


async def load(server: Server, asked: list[tuple[str, bytes]], rate: float) -> dict[str, list]:
    """Send requests at a steady rate; path -> (seconds from due to answered, status)."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(Connection(server.host, server.port))
    found: dict[str, list] = {"/recommend": [], "/events": []}

    async def send(path: str, body: bytes, due: float) -> None:
        connection = await free.get()
        status = await connection.post(path, body)
        free.put_nowait(connection)
        found[path].append((time.perf_counter() - due, status))

    began, tasks = time.perf_counter(), set()
    for number, (path, body) in enumerate(asked):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(send(path, body, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found


def bare(n_items: int, repeats: int = 200) -> float:
    """Median seconds of a product of one vector with all items and the selection of ten."""
    table, vector = torch.randn(n_items, 64), torch.randn(1, 64)
    keys, seconds = torch.zeros(1, dtype=torch.int64), []
    with torch.inference_mode():
        for _ in range(repeats):
            began = time.perf_counter()
            top_k(vector @ table.T, 10, keys)
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="folder of the run that is served")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(make_run(given.keep or folder, given.items), folder)
        try:
            warm = requests(given.items, 200)
            uvloop.run(load(server, warm, 50))
            before = server.memory
            asked = requests(given.items, int(given.seconds * given.rate))
            found = uvloop.run(load(server, asked, given.rate))
            after = server.memory
        finally:
            server.process.terminate()
            server.process.wait()
    floor = bare(given.items)
    for path, answers in found.items():
        seconds = np.array([answer[0] for answer in answers]) * 1e3
        wrong = sum(answer[1] != 200 for answer in answers)
        p50, p90, p99 = np.percentile(seconds, [50, 90, 99])
        print(
            f"{path}: {len(seconds):,} requests at {given.rate:g}/s in all, {wrong} errors, "
            f"p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, longest {seconds.max():.0f} ms"
        )
        if path == "/recommend":
            print(f"ratio to product and selection ({floor * 1e3:.1f} ms): {p50 / floor / 1e3:.1f}")
    print(f"memory of the server: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after")


if __name__ == "__main__":
    main()
