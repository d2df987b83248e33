"""What a person sees on the terminal: messages and progress, all on stderr, silent when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Progress", "is_quiet", "say", "set_quiet"]

_quiet = os.environ.get("TASTEMAKER_QUIET", "") not in ("", "0")


def set_quiet(quiet: bool) -> None:
    """Silence (or restore) messages and progress in this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether messages and progress are silenced, by `--quiet` or `TASTEMAKER_QUIET=1`."""
    return _quiet


def say(message: str) -> None:
    """Print one message line to stderr unless quiet."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


class Progress:
    """A one-line progress display with rate and time left.

    It shows nothing for jobs shorter than two seconds, redraws at most five times a second on a
    terminal, and prints a plain line every thirty seconds when stderr is a file.
    """

    def __init__(self, label: str, total: int | None = None, *, unit: str = "it") -> None:
        self.label, self.total, self.unit = label, total, unit
        self._started = self._drawn = time.monotonic()
        self._done = self._first = 0
        self._terminal = sys.stderr.isatty()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown and self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def start_at(self, done: int) -> None:
        """Begin counting at `done` (a resumed job), so that the rate counts new work only."""
        self._done = self._first = done

    def advance(self, by: int = 1, note: Callable[[], str] = str) -> None:
        """Count `by` more units done; `note` (e.g. the loss) is asked only when a line is drawn."""
        self._done += by
        if _quiet:
            return
        now = time.monotonic()
        if now - self._started < 2.0 or now - self._drawn < (0.2 if self._terminal else 30.0):
            return
        self._drawn, self._shown = now, True
        end = "" if self._terminal else "\n"
        print(self._line(now, note()), end=end, file=sys.stderr, flush=True)

    def _line(self, now: float, note: str) -> str:
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        start = "\r\x1b[K" if self._terminal else ""
        if self.total is None:
            count = f"{self._done:,} {self.unit}"
            return f"{start}{self.label} {count} {rate:,.0f} {self.unit}/s {note}"
        left = max(self.total - self._done, 0) / rate if rate > 0 else float("inf")
        clock = f"{left // 60:.0f}:{left % 60:02.0f} left" if left != float("inf") else "? left"
        share = self._done / max(self.total, 1)
        bar = ("#" * int(20 * share)).ljust(20, ".")
        return f"{start}{self.label} [{bar}] {share:4.0%} {rate:,.0f} {self.unit}/s {clock} {note}"
