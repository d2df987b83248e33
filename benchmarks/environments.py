"""The peers' virtual environments, built from the registry once and kept in the user's cache.

    python benchmarks/environments.py        # builds what is missing

`peers/n1.txt` (numpy 1: RecBole, RecTools) and `peers/n2.txt` (numpy 2: implicit, LensKit, Cornac)
hold every version; `peers/n1-alone.txt` what is installed without its dependencies, because it asks
for old versions that it does not need. An environment is built anew when its files change.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tastemaker.files import cache_dir

__all__ = ["NAMES", "python_of"]

NAMES = ("n1", "n2")
PEERS = Path(__file__).resolve().parent / "peers"


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is built if it is missing."""
    lists = [path for path in (PEERS / f"{name}.txt", PEERS / f"{name}-alone.txt") if path.exists()]
    if not lists:
        raise ValueError(f"there is no environment {name!r}; known: {', '.join(NAMES)}")
    content = b"".join(path.read_bytes() for path in lists)
    folder = cache_dir() / "peers" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        build(folder, lists)
        done.touch()
    return python


def build(folder: Path, lists: list[Path]) -> None:
    """Make an environment: the first list with dependencies, others without."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise SystemExit("the peers need Python 3.11 or 3.12: make bench PYTHON=/path/to/python")
    print(f"installing {', '.join(path.name for path in lists)} (several minutes)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    for number, path in enumerate(lists):
        alone = ["--no-deps"] if number else []
        subprocess.run([*install, *alone, "-r", str(path)], check=True)


if __name__ == "__main__":
    for each in NAMES:
        print(python_of(each))
