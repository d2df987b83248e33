"""Questions about a finished method: can it be poisoned, and does a defence help."""

from __future__ import annotations

from tastemaker.audit.attacks import (
    ATTACKS,
    Attack,
    BandwagonAttack,
    Budget,
    Poisoned,
    RandomAttack,
    SurrogateAttack,
    poison,
)
from tastemaker.audit.robustness import Outcome, Victim, assess, target_exposure

__all__ = [
    "ATTACKS",
    "Attack",
    "BandwagonAttack",
    "Budget",
    "Outcome",
    "Poisoned",
    "RandomAttack",
    "SurrogateAttack",
    "Victim",
    "assess",
    "poison",
    "target_exposure",
]
