"""How OpenMP's threads wait for one another, which must be said before torch is imported.

A thread that sleeps at the end of a parallel region takes longer to wake than most of our regions
take to compute; one that spins keeps the core from whoever else wants it, the thread it waits for
among them. On two free cores a millisecond of spinning makes SASRec train 1.4 times and BPR-MF
twice as fast as sleeping; on two cores that others use too, BPR-MF takes five times as long.
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["choose_waiting", "sleep_at_once"]

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = "20000"  # about a millisecond; GNU's own default is fifteen times as long
_LOOKS = 3  # at who runs, the least of which counts
_PAUSE = 0.002  # seconds from one look to the next: the kernel's own threads are done by then
_LOADED = 0.25  # threads of others that run, a core, from which on waiting threads sleep


def choose_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads spin for a millisecond where nobody else computes, else sleep.

    Leaves what the user has set. Where Linux does not say who runs, threads sleep.
    """
    if any(name in environment for name in _CHOICES):
        return
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if _others_running() < _LOADED * (os.cpu_count() or 1):
        environment["GOMP_SPINCOUNT"] = _SPINS  # goes before the policy


def sleep_at_once(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take back the choice to spin, for processes that answer rather than compute."""
    if environment.get("GOMP_SPINCOUNT") == _SPINS:
        del environment["GOMP_SPINCOUNT"]


def _others_running(proc: Path = Path("/proc")) -> float:
    """How many threads of other processes run or could; the first look at none is the last."""
    fewest = float("inf")
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        try:
            fewest = min(fewest, max(_running(proc) - _own_running(proc), 0))
        except (OSError, IndexError, ValueError):
            return float("inf")
        if not fewest:
            break
    return fewest


def _running(proc: Path) -> int:
    return int((proc / "loadavg").read_text().split()[3].split("/")[0])


def _own_running(proc: Path) -> int:
    """Threads of this process that run; those of a matrix library do for a while after import."""
    states = [task.read_text() for task in (proc / "self" / "task").glob("*/stat")]
    return sum(state.rpartition(")")[2].split()[0] == "R" for state in states)
