"""A CSV file to RecBole's data set."""

import logging
import sys

from recbole.config import Config
from recbole.data import create_dataset

from common import answer, seconds_of, settings
from recbole_log import SETTINGS

given = settings()
sys.argv = sys.argv[:1]  # RecBole takes settings from there
logging.disable(logging.WARNING)
columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
config = Config(
    model="BPR",
    dataset="log",
    config_dict={**SETTINGS, "load_col": columns, "field_separator": ","},
)
seconds = seconds_of(lambda: create_dataset(config))
answer({"rows_per_second": given.rows / seconds, "seconds": seconds}, "recbole", "pandas")
