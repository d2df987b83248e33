from __future__ import annotations

import pytest

from tastemaker import waiting
from tastemaker.waiting import choose_waiting, sleep_at_once


@pytest.fixture
def running(monkeypatch, tmp_path):
    """Say how many threads run on a machine of four cores, two of them ours."""
    look = waiting._others_running
    monkeypatch.setattr(waiting, "_others_running", lambda: look(tmp_path))
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 4)
    for number, state in enumerate("RSR"):
        task = tmp_path / "self" / "task" / str(number)
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{number} (a (b) c) {state} 1 2 3\n")
    loads = "1.00 0.50 0.25 {}/345 6789\n"
    return lambda count: (tmp_path / "loadavg").write_text(loads.format(count))


def test_threads_spin_on_free_cores(running):
    running(2)
    environment = {}
    choose_waiting(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
    sleep_at_once(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_threads_sleep_beside_others(running):
    running(3)
    environment = {}
    choose_waiting(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_who_runs_for_a_moment_only_does_not_count(running, monkeypatch):
    running(3)
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: running(2))
    environment = {}
    choose_waiting(environment)
    assert "GOMP_SPINCOUNT" in environment


def test_threads_sleep_where_nobody_says_who_runs(running):
    environment = {}
    choose_waiting(environment)  # there is no such file
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_set_stays(running, given):
    running(2)
    environment = dict(given)
    choose_waiting(environment)
    sleep_at_once(environment)
    assert environment == given
