"""Starting costs: the package and its help come up fast, without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "polars", "pyarrow", "scipy", "pandas", "numpy", "pydantic", "rich")


def seconds_of(code: str) -> float:
    """Processor seconds of `code` in a fresh interpreter, best of five, after its own start.

    Processor time, because the wall clock of a busy machine says little about this package.
    """
    timed = f"import time; began = time.process_time()\n{code}\nprint(time.process_time() - began)"
    found = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", timed], capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout.split()[-1]))
    return min(found)


HELP = """
import contextlib, io, sys
sys.argv = ["tastemaker", "--help"]
from tastemaker.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


def test_importing_the_package_takes_at_most_a_fifth_of_a_second():
    assert seconds_of("import tastemaker") <= 0.2


def test_help_takes_at_most_two_fifths_of_a_second():
    assert seconds_of(HELP) <= 0.4


@pytest.mark.parametrize("code", ["import tastemaker", HELP], ids=["import", "help"])
def test_nothing_heavy_is_imported(code):
    listing = f"{code}\nimport sys; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.partition("loaded:")[2].split())
    assert loaded.isdisjoint(HEAVY)


def test_listing_models_imports_no_model():
    code = (
        "from tastemaker.models.catalog import ENTRIES, entries; entries()\n"
        "import sys; print(len(ENTRIES), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" not in loaded
    assert not any(name.startswith("tastemaker.models.collaborative") for name in loaded)
