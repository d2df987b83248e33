"""Claiming a run folder: who may write, what is resumed, what is refused."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.data import Dataset
from tastemaker.errors import DataError, RunError
from tastemaker.experiment.record import RunRecord, TensorShape, path_inside
from tastemaker.files import writing_file
from tastemaker.training.fit import CHECKPOINT

__all__ = [
    "claim",
    "exclusive",
    "open_data",
    "read_weights",
    "refuse_finished",
    "store_data",
    "write_weights",
]

_PARTS = ("run.json", "data", "model.safetensors", "metrics.jsonl", CHECKPOINT, "evaluation")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make the folder and hold it against other processes; the lock dies with the process.

    Raises:
        RunError: when another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; a run is a folder: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(
            f"{folder}: another process is training here; wait for it or choose another folder"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def refuse_finished(folder: Path) -> None:
    """Raise `RunError` when `folder` holds a finished run or something that is no run."""
    if not folder.is_dir():
        return
    if (folder / "run.json").exists():
        if RunRecord.read(folder).status == "finished":
            raise RunError(
                f"{folder} holds a finished run; choose another folder, or replace it with "
                "--overwrite (overwrite=True)"
            )
    elif any(not child.name.startswith(".") for child in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run; choose another folder")


def claim(folder: Path, record: RunRecord, *, overwrite: bool) -> RunRecord:
    """Begin the run that `record` describes, or continue it where it stopped.

    Args:
        folder: held by `exclusive`.
        record: of the run about to start.
        overwrite: whether another run that is there is thrown away; an interrupted run with the
            same settings is resumed all the same.

    Returns:
        The record on disk: the given one, or that of the interrupted run.

    Raises:
        RunError: when the folder holds a finished run, one with other settings, or no run.
    """
    _sweep(folder)
    if not (folder / "run.json").exists():
        refuse_finished(folder)
    elif overwrite:
        found = _readable(folder)
        if found is not None and found.status != "finished" and not found.differences(record):
            return found
        _empty(folder)
    else:
        refuse_finished(folder)
        found = RunRecord.read(folder)
        if different := found.differences(record):
            raise RunError(
                f"{folder} holds an unfinished run with other settings "
                f"({'; '.join(different)}); repeat its command to resume it, choose another "
                "folder, or replace it with --overwrite (overwrite=True)"
            )
        return found
    record.save(folder)
    return record


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for name in _PARTS:
        for left in folder.glob(f".{name}.*"):
            _remove(left)


def _readable(folder: Path) -> RunRecord | None:
    try:
        return RunRecord.read(folder)
    except RunError:
        return None


def _empty(folder: Path) -> None:
    """Throw away a run, `run.json` last: killed half-way, the rest is still known as one."""
    for child in sorted(folder.iterdir(), key=lambda child: child.name == "run.json"):
        _remove(child)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def store_data(dataset: Dataset, folder: Path) -> None:
    """Keep the data set in the run, unless an interrupted run did so already."""
    place = folder / "data"
    if place.exists() and Dataset.open(place).fingerprint == dataset.fingerprint:
        return
    dataset.save(place, replace=True)


def open_data(folder: Path, record: RunRecord) -> Dataset:
    """The data set of a run.

    Raises:
        RunError: when it is missing, damaged, or not the one the run was made with.
    """
    place = path_inside(folder, "data")
    for child in place.iterdir() if place.is_dir() else ():
        path_inside(folder, f"data/{child.name}")
    try:
        dataset = Dataset.open(place)
    except DataError as error:
        raise RunError(f"{folder} cannot be opened: {error}") from None
    if dataset.fingerprint != record.fingerprint:
        raise RunError(
            f"{place} is not the data this run was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, the run's is {record.fingerprint[:12]})"
        )
    return dataset


def write_weights(folder: Path, state: dict[str, Tensor]) -> dict[str, TensorShape]:
    """Write `model.safetensors` and return the shapes to record."""
    tensors = {name: value.contiguous() for name, value in state.items()}
    with writing_file(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    return {
        name: TensorShape(str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in tensors.items()
    }


def read_weights(folder: Path, record: RunRecord) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, on the CPU.

    Raises:
        RunError: when the file is missing, damaged, or its tensors are not the recorded ones.
    """
    path = path_inside(folder, "model.safetensors")
    try:
        with safe_open(path, "pt") as stored:
            names = stored.keys()  # the handle itself is not iterable
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
        expected = {name: tensor.shape for name, tensor in record.tensors.items()}
        for name in sorted({*found, *expected}):
            if found.get(name) != expected.get(name):
                raise RunError(
                    f"{path}: tensor {name!r} has shape {found.get(name)}, but the run recorded "
                    f"{expected.get(name)}; the file is not this run's"
                )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: missing or damaged ({error}); train the run again") from None
