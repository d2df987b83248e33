"""Gowalla check-ins in the split of LightGCN (SIGIR 2020), as its authors' repository publishes it.

`train.txt` and `test.txt` have one user a line followed by that user's items, as whole numbers.
There are no times. Files are verified by their git blob ids.
"""

from __future__ import annotations

import polars as pl

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_adjacency
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS", "lightgcn_source"]

_URL = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data"


def _parse(originals: Originals) -> Parsed:
    parts = [
        read_adjacency(originals, f"{part}.txt").with_columns(split=pl.lit(part))
        for part in ("train", "test")
    ]
    return Parsed(pl.concat(parts))


def lightgcn_source(name: str, train: str, test: str) -> Source:
    """The split of data set `name`; `train` and `test` are the git blob ids of its files."""
    blobs = {"train.txt": train, "test.txt": test}
    files = tuple(
        RemoteFile(file, f"{_URL}/{name}/{file}", checksum=f"git:{blob}")
        for file, blob in blobs.items()
    )
    return Source(files, tuple(blobs), _parse)


DATASETS = (
    PublicDataset(
        "gowalla",
        "Gowalla check-ins (LightGCN split)",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        "research use with citation; no licence is stated",
        "Eunjoon Cho, Seth A. Myers and Jure Leskovec. Friendship and Mobility: User Movement in "
        "Location-Based Social Networks. KDD 2011; split: Xiangnan He et al. LightGCN. SIGIR 2020. "
        "arXiv:2002.02126",
        Sizes(29_858, 40_981, 1_027_370),
        (
            lightgcn_source(
                "gowalla",
                train="a27782bd7a1d4d0744148dc0460ea94da74763f2",
                test="9ed5af4b5d21511f33740b4e22e3852f45671800",
            ),
        ),
    ),
)
