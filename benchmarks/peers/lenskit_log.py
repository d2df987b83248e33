"""A log as LensKit holds it. Import it before LensKit: it says how many threads there are."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["dataset_of", "use_threads"]


def use_threads(given: SimpleNamespace) -> None:
    """What LensKit reads when it starts."""
    os.environ["LK_NUM_THREADS"] = str(given.threads)


def dataset_of(log: Any) -> Any:
    """The training rows, with all users and items."""
    import pandas as pd
    from lenskit.data import from_interactions_df

    return from_interactions_df(
        pd.DataFrame({"user_id": log.users, "item_id": log.items}),
        users=np.arange(log.n_users),
        items=np.arange(log.n_items),
    )
