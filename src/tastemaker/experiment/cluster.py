"""Where the work of a command is done: in this process, or by the processes of a Ray cluster.

An `Engine` answers many jobs of one kind (trials of a tuning, shards of users) and trains a model.
Results come back in the order of the jobs and a job is told everything it depends on, so they are
the same wherever they were made. Which process does what, and when, is Ray's affair.

Processes find each other's files: the folder of the results has the same path on every node.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tastemaker.console import is_quiet, set_quiet
from tastemaker.errors import ConfigError, RunError, TastemakerError
from tastemaker.experiment.fitting import fit
from tastemaker.experiment.run import Run, open_run
from tastemaker.extras import require

if TYPE_CHECKING:
    from tastemaker.data import Dataset, Split

__all__ = ["HERE", "Engine", "RayEngine", "engine_named"]

_Shared = TypeVar("_Shared")
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class Engine:
    """The process that asks."""

    def spread(
        self,
        function: Callable[[_Shared, _Job], _Result],
        shared: _Shared,
        jobs: Sequence[_Job],
        *,
        folder: Path,  # noqa: ARG002
    ) -> Iterator[_Result]:
        """`function(shared, job)` of each job, in order.

        Args:
            function: of a module.
            shared: what all jobs are told.
            jobs: as texts, they say what failed.
            folder: where results are written.
        """
        return (function(shared, job) for job in jobs)

    def fit(self, data: Split | Dataset | Path | str, model: str, **asked: Any) -> Run:
        """As `fitting.fit`."""
        return fit(data, model, **asked)


HERE = Engine()


@contextmanager
def engine_named(
    name: str, *, address: str | None = None, device: str = "auto", workers: int = 1
) -> Iterator[Engine]:
    """The engine of that name, for as long as it is used.

    Args:
        name: `"local"` or `"ray"`.
        address: of a Ray cluster; by default that of `RAY_ADDRESS`, else one on this machine, which
            ends with its use. A cluster this process is connected to already is used as it is.
        device: where jobs compute; a job on a GPU has one to itself.
        workers: processes that train a model together.

    Raises:
        ConfigError: when there is no such engine, or no cluster at the address.
        MissingExtraError: when Ray is not installed.
    """
    match name:
        case "ray":
            with _connected(address, workers) as ray:
                yield RayEngine(ray, device, workers)
        case "local":
            if address is not None or workers > 1:
                raise ConfigError("--address and --workers are for --engine ray; add it")
            yield HERE
        case _:
            raise ConfigError(f"engine {name!r} is neither 'local' nor 'ray'")


@contextmanager
def _connected(address: str | None, workers: int) -> Iterator[Any]:
    """The `ray` module, connected to a cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nobody is told what is done here
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # it says everything twice
    ray = require("ray", extra="ray", purpose="--engine ray")
    if ray.is_initialized():
        yield ray
        return
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    how: dict[str, Any] = {}
    if place == "local":
        how = {"include_dashboard": False, "num_cpus": max(workers, os.cpu_count() or 1)}
    try:
        _knock(place)
        ray.init(place, log_to_driver=not is_quiet(), logging_level="ERROR", **how)
    except (OSError, ValueError, RuntimeError, SystemExit, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"there is no Ray cluster to be used at {place!r} ({error}); start one with `ray start "
            "--head` and give its address as --address HOST:6379 (with RAY_AUTH_MODE=token if it "
            "wants a token), or leave --address and RAY_ADDRESS out to use this machine"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` when nobody listens there: Ray takes minutes to notice."""
    if found := re.fullmatch(r"(?:ray://)?(?P<host>[^:/]+):(?P<port>\d{1,5})", address):
        socket.create_connection((found["host"], int(found["port"])), timeout=5).close()


@dataclass(frozen=True)
class _Place:
    """What a process elsewhere must take over to stand where this one stands."""

    current: Path
    marker: Path
    quiet: bool
    variables: Mapping[str, str]

    def enter(self) -> None:
        """Take it over.

        Raises:
            RunError: when the folder of the results is not here.
        """
        os.environ.update(self.variables)
        set_quiet(self.quiet or os.environ.get("RANK", "0") != "0")
        if not self.marker.exists():
            raise RunError(
                f"{self.marker.parent} is not the same folder on {socket.gethostname()} as where "
                "the command was given; name a folder that all nodes share under one path"
            )
        if self.current.is_dir():
            os.chdir(self.current)


@contextmanager
def _shared_place(folder: Path) -> Iterator[_Place]:
    """Where this process stands; a file in `folder` shows others whether they share it."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {key: value for key, value in os.environ.items() if key.startswith("TASTEMAKER_")}
    with tempfile.NamedTemporaryFile(prefix=".shared-", dir=folder.resolve()) as marker:
        yield _Place(Path.cwd(), Path(marker.name), is_quiet(), variables)


class RayEngine(Engine):
    """The processes of the Ray cluster that this process is connected to.

    Args:
        ray: the module.
        device, workers: as `engine_named` takes them.

    Raises:
        ConfigError: when the device is a GPU and the cluster has none.
    """

    def __init__(self, ray: Any, device: str = "auto", workers: int = 1) -> None:
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if device.startswith("cuda") and not has_gpus:
            raise ConfigError(f"device {device!r}: the cluster has no GPU; use 'cpu' or 'auto'")
        self.ray, self.workers = ray, workers
        self.uses_gpus = has_gpus and device != "cpu"

    def spread(
        self,
        function: Callable[[_Shared, _Job], _Result],
        shared: _Shared,
        jobs: Sequence[_Job],
        *,
        folder: Path,
    ) -> Iterator[_Result]:
        """As `Engine.spread`; each job is a Ray task with a core, and a GPU where there are some.

        Left early, jobs that did not begin are not done: their folder is not shared any more.

        Raises:
            RunError: when the process of a job died.
        """
        task = self.ray.remote(num_cpus=1, num_gpus=int(self.uses_gpus))(_at_work)
        with _shared_place(folder) as place:
            common = self.ray.put(shared)
            tasks = [task.remote(place, function, common, job) for job in jobs]
            for job, asked in zip(jobs, tasks, strict=True):
                yield self._result(job, asked)

    def _result(self, job: object, asked: Any) -> Any:
        try:
            return self.ray.get(asked)
        except self.ray.exceptions.RayTaskError as error:
            raise _meant([error.cause], str(job)) from error
        except self.ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            raise RunError(
                f"{job} was lost with its process ({lines[0]}); the same command goes on"
            ) from None

    def fit(self, data: Split | Dataset | Path | str, model: str, **asked: Any) -> Run:
        """As `fitting.fit`, by Ray Train's workers together; data by name are loaded by each.

        Raises:
            RunError: when a worker died.
        """
        train = require("ray.train", extra="ray", purpose="--engine ray")
        torch = require("ray.train.torch", extra="ray", purpose="--engine ray")
        folder = Path("runs") if asked.get("out") is None else Path(asked["out"]).parent
        with _shared_place(folder) as place, tempfile.TemporaryDirectory() as notes:
            trainer = torch.TorchTrainer(
                _train_together,
                train_loop_config={
                    "place": place,
                    "asked": {"data": data, "model": model, **asked},
                },
                scaling_config=train.ScalingConfig(
                    num_workers=self.workers, use_gpu=self.uses_gpus
                ),
                run_config=train.RunConfig(
                    storage_path=notes, logging_config=train.LoggingConfig(log_level="ERROR")
                ),
            )
            try:
                made = trainer.fit().return_value
            except SystemExit:  # so Ray Train leaves when it is interrupted
                raise KeyboardInterrupt from None
            except train.WorkerGroupError as error:
                failures = list(error.worker_failures.values())
                raise _meant(failures, f"training {model}") from error
        return open_run(made, device=asked.get("device", "auto"))


def _meant(failures: Sequence[BaseException], what: str) -> Exception:
    """The error to raise for what failed elsewhere: the one meant for a person, if there is one."""
    for failure in failures:
        if isinstance(failure, TastemakerError):
            return failure
    return RuntimeError(f"{what}: {type(failures[0]).__name__}: {failures[0]}")


def _at_work(
    place: _Place,
    function: Callable[[_Shared, _Job], _Result],
    shared: _Shared,
    job: _Job,
) -> _Result:
    """A job, in a process of the cluster."""
    place.enter()
    return function(shared, job)


def _train_together(told: Mapping[str, Any]) -> str:
    """A worker's part of a training; returns the run's folder."""
    told["place"].enter()
    return str(fit(**told["asked"]).folder)
