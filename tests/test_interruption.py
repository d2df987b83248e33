"""Training that is killed, or shared by processes, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "epochs=4",
    "batch_size=8",
    "hidden_size=16",
    "max_length=20",
    "precision=float32",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of 240 users who walk around rings of items."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 24, 240)
    user = np.repeat(np.arange(240), lengths)
    step = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = (user % 5) * 12 + (user + step) % 12
    folder = tmp_path_factory.mktemp("data")
    frame = pl.DataFrame({"user": user, "item": item, "position": step})
    frame.write_parquet(folder / "events.parquet")
    (folder / "dataset.toml").write_text(
        'name = "rings"\n[interactions]\nfile = "events.parquet"\nuser = "user"\n'
        'item = "item"\norder = "position"\n'
    )
    return folder


def command(data, out, *options, launcher=()):
    """The command line, as a person types it."""
    settings = [word for pair in SETTINGS for word in ("--set", pair)]
    head = [sys.executable, *launcher, "-m", "tastemaker", "train", str(data)]
    return [*head, "--model", "sasrec", "--out", str(out), *settings, *options]


def environment():
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
    }


def run(arguments):
    done = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def standing(path):
    """Where inside its stage a checkpoint was taken."""
    with safe_open(path, framework="pt") as checkpoint:
        return json.loads(checkpoint.metadata()["state"])["inside"]


def test_killed_in_the_middle_of_an_epoch_and_repeated_it_ends_with_the_same_weights(
    data, tmp_path
):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run(command(data, straight))

    often = ("--checkpoint-seconds", "0.05")
    process = subprocess.Popen(
        command(data, killed, *often), env=environment(), stderr=subprocess.DEVNULL
    )
    path = killed / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        inside = standing(path) if path.exists() else {}
        if inside.get("epoch", 0) >= 1 and 3 <= inside["turn"] <= 20:
            break
        assert process.poll() is None, "training ended before it could be killed inside an epoch"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    left = standing(path)
    assert left["epoch"] >= 1
    assert left["turn"] > 0, "the checkpoint is not inside an epoch"
    again = run(command(data, killed, *often))
    assert "resuming" in again.stderr
    assert losses(killed) == losses(straight)
    expected = load_file(straight / "model.safetensors")
    found = load_file(killed / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_torchrun_follows_one_process_and_evaluates_once(data, tmp_path):
    """Without dropout, whose draws belong to a process, two processes do what one does."""
    exact = ("--set", "dropout=0.0", "--json")
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(command(data, alone, *exact))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run(command(data, together, *exact, launcher=torchrun))
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1, "more than one process evaluated and answered"
    assert json.loads(answers[0])["metrics"]["test"]["ndcg@10"] > 0
    assert json.loads((together / "run.json").read_text())["environment"]["processes"] == 2
