"""Files that appear whole or not at all: written beside their place, flushed, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["cache_dir", "read_json", "write_json", "write_text", "writing_file", "writing_folder"]


def cache_dir() -> Path:
    """Where downloads and artifacts are kept: `TASTEMAKER_CACHE`, else the user's cache."""
    if chosen := os.environ.get("TASTEMAKER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tastemaker"


@contextmanager
def writing_file(path: Path | str) -> Iterator[Path]:
    """Yield a path beside `path`; on a clean exit it replaces `path`, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder beside `path`; on a clean exit it becomes `path`, else it is removed.

    Raises:
        FileExistsError: when `path` exists and `replace` is false (checked before and after).
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists already; choose another folder or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if replace and path.exists():
            outgoing = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.replace(outgoing / path.name)
            temporary.replace(path)
            shutil.rmtree(outgoing)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8; the file appears whole."""
    with writing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; the file appears whole. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file.

    Raises:
        json.JSONDecodeError: when it is none, or nested too deeply to be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None
