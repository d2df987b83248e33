"""Events of a server become a data set again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tastemaker.errors import ConfigError, DataError
from tastemaker.serving.export import dataset_of_events
from tastemaker.serving.store import Event, open_store


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path}/events.db")
    yield opened
    opened.close()


def test_events_are_a_log_in_order_of_time(store):
    store.append([Event("e1", "ann", "x", 30.0), Event("e2", "bob", "y", 5.0)], at=0.0)
    store.append([Event("e3", "ann", "y", 20.0)], at=0.0)
    found = dataset_of_events(store, "live")
    assert found.user_ids.decode(found.column("user")).to_pylist() == ["ann", "ann", "bob"]
    assert found.item_ids.decode(found.column("item")).to_pylist() == ["y", "x", "y"]
    assert found.column("timestamp").tolist() == [20, 30, 5]
    assert "label" not in found.interactions.column_names


def test_behaviours_and_labels_come_along(store):
    store.append(
        [Event("e1", "a", "x", 1.0, "click", 4.0), Event("e2", "a", "y", 2.0, None, 2.0)], 0
    )
    found = dataset_of_events(store, "live")
    assert found.interactions.column("behavior").to_pylist() == ["click", "unknown"]
    assert found.column("label").tolist() == [4.0, 2.0]


def test_an_empty_store_is_no_data_set(store):
    with pytest.raises(DataError, match="no events yet"):
        dataset_of_events(store, "live")


def test_the_command_reads_a_store(store, tmp_path):
    store.append([Event(f"e{n}", f"u{n % 3}", f"i{n % 4}", float(n)) for n in range(12)], at=0.0)
    command = [sys.executable, "-m", "tastemaker", "data", "import", "--from-store"]
    command += [f"sqlite:///{tmp_path}/events.db", "--to", str(tmp_path / "live"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["users"], said["items"], said["interactions"]) == (3, 4, 12)


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match="there is no event store"):
        open_store(f"sqlite:///{tmp_path}/typo.db", must_exist=True)
    assert not list(tmp_path.iterdir())
