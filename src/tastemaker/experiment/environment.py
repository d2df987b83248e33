"""What a run was made with: versions, machine, threads. No host names, no paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe_environment", "installed", "memory_bytes", "processor_name"]

_RECORDED = ("tastemaker", "torch", "numpy", "polars", "pyarrow", "scipy", "safetensors")


def installed(package: str) -> str | None:
    """The installed version of a distribution, or `None`; imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_environment() -> dict[str, Any]:
    """JSON values: Python, package versions, platform, processor, memory, threads, GPU."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in _RECORDED if (found := installed(name))},
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def processor_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Physical memory, or `None` where the system does not tell it."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
