"""A CSV file to RecTools' data set."""

from pathlib import Path

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset

from common import answer, seconds_of, settings

given = settings()
NAMES = {
    "user": Columns.User,
    "item": Columns.Item,
    "rating": Columns.Weight,
    "timestamp": Columns.Datetime,
}


def construct() -> None:
    frame = pd.read_csv(Path(given.folder) / "ratings.csv").rename(columns=NAMES)
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    Dataset.construct(frame)


seconds = seconds_of(construct)
answer({"rows_per_second": given.rows / seconds, "seconds": seconds}, "rectools", "pandas")
