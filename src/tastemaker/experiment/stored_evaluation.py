"""Evaluations on disk: `evaluation/<part>.json` beside the values per query in Parquet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tastemaker.errors import RunError
from tastemaker.evaluation import Evaluation
from tastemaker.experiment.record import path_inside
from tastemaker.files import read_json, write_json, writing_file

if TYPE_CHECKING:
    from tastemaker.data import Dataset, Part

__all__ = ["load_evaluation", "questions_of", "save_evaluation"]


def questions_of(dataset: Dataset, part: Part) -> str:
    """Hex SHA-256 of what a part asks: the users, their targets, and the catalog to rank.

    Two evaluations can be compared query by query when these agree.
    """
    digest = hashlib.sha256()
    for vocabulary in (dataset.user_ids, dataset.item_ids):
        ids = vocabulary.ids.cast(pa.large_string())
        digest.update(pa.record_batch([ids], names=["id"]).serialize())
    for codes in (part.users, part.targets.offsets, part.targets.values):
        digest.update(np.ascontiguousarray(codes, "<i8").data)
    return digest.hexdigest()


def save_evaluation(
    folder: Path, name: str, evaluation: Evaluation, dataset: Dataset, part: Part
) -> None:
    """Keep the evaluation of part `name` in the run `folder`, replacing an earlier one."""
    import polars as pl

    place = path_inside(folder, "evaluation")
    place.mkdir(exist_ok=True)
    (place / f"{name}.json").unlink(missing_ok=True)  # the values per query come first
    frame = pl.DataFrame(
        {"user": pl.Series(dataset.user_ids.decode(evaluation.users)), **evaluation.per_query}
    )
    with writing_file(place / f"{name}.parquet") as temporary:
        frame.write_parquet(temporary)
    questions = {"part": name, "questions": questions_of(dataset, part)}
    write_json(place / f"{name}.json", {**questions, **evaluation.to_json()})


def load_evaluation(folder: Path, name: str, dataset: Dataset) -> tuple[Evaluation, str] | None:
    """The kept evaluation of a part and its questions' hash; `None` when there is none.

    Raises:
        RunError: when it is damaged.
    """
    import polars as pl

    header = path_inside(folder, f"evaluation/{name}.json")
    table = path_inside(folder, f"evaluation/{name}.parquet")
    if not header.is_file():
        return None
    try:
        values: dict[str, Any] = read_json(header)
        frame = pl.read_parquet(table)
        users = dataset.user_ids.encode(frame["user"].to_arrow())
        per_query = {
            metric: frame[metric].to_numpy() for metric in frame.columns if metric != "user"
        }
        return Evaluation.from_json(values, per_query, users), str(values["questions"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{header}: damaged ({type(error).__name__}: {error}); "
            f"repeat it with: tastemaker evaluate {folder}"
        ) from error
