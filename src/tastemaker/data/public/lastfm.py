"""Last.fm listening counts of HetRec 2011, published by GroupLens: artists, tags and friends.

Tab-separated `.dat` files with a header; artist names are UTF-8, tag names partly Latin-1. There
are no times of listening: `weight` is how often a user listened to an artist. An artist's tags are
ordered by how many users gave them. The publisher gives no checksum; the MD5 is the one that
DataRec (github.com/sisinflab/DataRec) records.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_delimited
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_INT, _TEXT = pa.int64(), pa.string()


def _parse(originals: Originals) -> Parsed:
    def table(name: str, columns: dict[str, pa.DataType]) -> pl.DataFrame:
        return read_delimited(originals, name, columns, separator="\t", quoted=False, old=True)

    plays = table("user_artists.dat", {"userID": _INT, "artistID": _INT, "weight": pa.float32()})
    artists = table("artists.dat", {"id": _INT, "name": _TEXT})
    names = table("tags.dat", {"tagID": _INT, "tagValue": _TEXT})
    given = table("user_taggedartists.dat", {"artistID": _INT, "tagID": _INT})
    friends = table("user_friends.dat", {"userID": _INT, "friendID": _INT})
    tags = (
        given.group_by("artistID", "tagID", maintain_order=True)
        .len()
        .join(names, on="tagID", how="inner", maintain_order="left")
        .sort("artistID", "len", descending=[False, True], maintain_order=True)
        .group_by("artistID", maintain_order=True)
        .agg(tags="tagValue")
    )
    return Parsed(
        plays.rename({"userID": "user", "artistID": "item"}),
        users=friends.group_by("userID", maintain_order=True)
        .agg(friends=pl.col("friendID").cast(pl.String))
        .join(plays.select(pl.col("userID").unique(maintain_order=True)), on="userID", how="right")
        .select(user="userID", friends="friends"),
        user_columns={"friends": "categories"},
        items=artists.join(
            tags, left_on="id", right_on="artistID", how="left", maintain_order="left"
        ).select("name", "tags", item="id"),
        item_columns={"name": "text", "tags": "categories"},
        title="name",
    )


DATASETS = (
    PublicDataset(
        "lastfm-hetrec",
        "Last.fm 2K (HetRec 2011)",
        "https://grouplens.org/datasets/hetrec-2011/",
        "non-commercial use with citation, under the terms of Last.fm",
        "Iván Cantador, Peter Brusilovsky and Tsvi Kuflik. 2nd Workshop on Information "
        "Heterogeneity and Fusion in Recommender Systems. RecSys 2011",
        Sizes(1_892, 17_632, 92_834),
        (
            Source(
                (
                    RemoteFile(
                        "hetrec2011-lastfm-2k.zip",
                        "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
                        checksum="md5:296d61afe4e8632b173fc2dd3be20ce2",
                    ),
                ),
                (
                    "user_artists.dat",
                    "artists.dat",
                    "tags.dat",
                    "user_taggedartists.dat",
                    "user_friends.dat",
                ),
                _parse,
            ),
        ),
    ),
)
