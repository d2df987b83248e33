"""A log as RecTools holds it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset

__all__ = ["dataset_of"]


def dataset_of(log: Any, part: str = "") -> Dataset:
    """The training rows, or those with `part` "known_", a day apart."""
    users, items = getattr(log, f"{part}users"), getattr(log, f"{part}items")
    frame = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    days = frame.groupby(Columns.User).cumcount()
    frame[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(days, unit="D")
    return Dataset.construct(frame)
