"""What `tastemaker tune` may vary: a method's `search` maps names of settings to these spaces."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Choice", "Integer", "LogUniform", "Search", "Uniform"]


@dataclass(frozen=True)
class Choice:
    """One of a few listed values.

    Attributes:
        values: the values, tried as they are.
    """

    values: tuple[str | int | float | bool | None, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a Choice without values leaves nothing to choose")


@dataclass(frozen=True)
class Uniform:
    """A real number, every value of `[low, high]` as likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must be smaller")


@dataclass(frozen=True)
class LogUniform:
    """A positive real number, every order of magnitude in `[low, high]` as likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; need 0 < low < high")


@dataclass(frozen=True)
class Integer:
    """A whole number, `low` and `high` included.

    Attributes:
        low: smallest value.
        high: largest value.
        log: whether orders of magnitude, rather than values, are equally likely.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must be smaller")
        if self.log and self.low < 1:
            raise ValueError(f"low is {self.low}; a logarithmic range starts at 1 or above")


Search = Choice | Uniform | LogUniform | Integer
