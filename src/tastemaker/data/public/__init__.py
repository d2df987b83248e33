"""Public data sets, one module a publisher: where they are published, how files are read."""

from __future__ import annotations

from tastemaker.data.public import (
    amazon,
    goodbooks,
    gowalla,
    lastfm,
    movielens,
    retailrocket,
    steam,
    yelp,
)
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["PUBLIC", "Parsed", "PublicDataset", "Sizes", "Source"]

_PUBLISHERS = (movielens, amazon, gowalla, yelp, steam, retailrocket, lastfm, goodbooks)

PUBLIC: dict[str, PublicDataset] = {
    record.name: record for publisher in _PUBLISHERS for record in publisher.DATASETS
}
