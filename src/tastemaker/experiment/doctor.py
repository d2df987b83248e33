"""What is installed, which devices there are, and what lies in the caches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from tastemaker.experiment.environment import installed, memory_bytes, processor_name
from tastemaker.files import cache_dir

__all__ = ["examine"]

_CORE = ("torch", "numpy", "polars", "pyarrow", "scipy", "pydantic", "safetensors", "typer", "rich")
_EXTRAS = {"tune": ("optuna",), "track": ("tensorboard", "mlflow-skinny"), "ray": ("ray",)}
_THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS")


def examine() -> dict[str, Any]:
    """JSON values: python, packages, extras, devices, threads, caches, data folders, problems."""
    import torch

    from tastemaker import __version__

    extras = {name: _extra(name, packages) for name, packages in _EXTRAS.items()}
    folders = [Path(entry) for entry in os.environ.get("TASTEMAKER_DATA", "").split(os.pathsep)]
    report = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed(name) for name in _CORE},
        "extras": extras,
        "devices": _devices(),
        "threads": {
            "cores": os.cpu_count(),
            "torch": torch.get_num_threads(),
            **{name: os.environ.get(name) for name in _THREADS},
        },
        "cache_folder": str(cache_dir()),
        "caches": {
            path.name: _sizes(path)
            for path in (sorted(cache_dir().iterdir()) if cache_dir().is_dir() else ())
            if path.is_dir()
        },
        "data_folders": [
            {"folder": str(folder), "datasets": _datasets(folder)}
            for folder in folders
            if str(folder) != "."
        ],
    }
    return {**report, "problems": _problems(report)}


def _extra(name: str, packages: tuple[str, ...]) -> dict[str, Any]:
    found = {package: installed(package) for package in packages}
    return {
        "packages": found,
        "installed": all(found.values()),
        "install": f"pip install 'tastemaker[{name}]'",
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": processor_name(), "memory_bytes": memory_bytes()}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_bytes": properties.total_memory,
            }
        )
    return devices


def _sizes(folder: Path) -> dict[str, Any]:
    """How many entries a cache folder has, and their bytes together."""
    if not folder.is_dir():
        return {"entries": 0, "bytes": 0}
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        "entries": sum(1 for _ in folder.iterdir()),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _datasets(folder: Path) -> list[str] | None:
    """Names of the data sets in a folder; `None` when the folder does not exist."""
    if not folder.is_dir():
        return None
    found = (*folder.glob("*/dataset.toml"), *folder.glob("*/dataset.json"))
    return sorted({path.parent.name for path in found})


def _problems(report: dict[str, Any]) -> list[str]:
    """What is wrong, in words, each with its remedy."""
    problems = [
        f"package {name} is not installed; install it with: pip install tastemaker"
        for name, version in report["packages"].items()
        if version is None
    ]
    for place in report["data_folders"]:
        if place["datasets"] is None:
            problems.append(
                f"TASTEMAKER_DATA names {place['folder']}, which does not exist; correct it"
            )
    return problems + _too_old(report["packages"])


def _too_old(packages: dict[str, str | None]) -> list[str]:
    """Installed packages below the versions this one declares."""
    try:
        declared = importlib.metadata.requires("tastemaker") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in declared:
        match = re.match(r"([A-Za-z0-9-]+)>=([0-9.]+)", line)
        version = packages.get(match[1]) if match else None
        if match and version and _numbers(version) < _numbers(match[2]):
            found.append(f"{match[1]} is {version}, but {line} is needed; upgrade it")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
