"""The stored form of a data set: one folder of uncompressed Arrow files and a JSON header.

    dataset.json          format, name, schema, fingerprint, dropped
    interactions.arrow    the log, sorted by (user, time)
    user_ids.arrow        raw ids in code order; item_ids.arrow likewise
    users.arrow, items.arrow                     feature tables, where there are any
    knowledge.arrow, entity_ids.arrow, relation_ids.arrow, item_entities.arrow

Arrow IPC files are mapped, not read: opening costs the same for a thousand rows and a billion.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.data.dataset import Dataset, one_chunk
from tastemaker.data.knowledge import KnowledgeGraph
from tastemaker.data.schema import Schema
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError
from tastemaker.files import read_json, write_json, writing_folder

__all__ = ["HEADER", "content_hash", "open_stored", "save"]

HEADER = "dataset.json"
_FORMAT = 1


def save(dataset: Dataset, folder: Path | str, *, replace: bool = False) -> None:
    """Write `dataset` to `folder`; see `Dataset.save`."""
    with writing_folder(folder, replace=replace) as temporary:
        _write(temporary / "interactions.arrow", dataset.interactions)
        _write(temporary / "user_ids.arrow", pa.table({"id": dataset.user_ids.ids}))
        _write(temporary / "item_ids.arrow", pa.table({"id": dataset.item_ids.ids}))
        if dataset.users is not None:
            _write(temporary / "users.arrow", dataset.users)
        if dataset.items is not None:
            _write(temporary / "items.arrow", dataset.items)
        if dataset.knowledge is not None:
            _write_knowledge(temporary, dataset.knowledge)
        header = {
            "format": _FORMAT,
            "name": dataset.name,
            "schema": dataset.schema.to_json(),
            "fingerprint": dataset.fingerprint,
            "dropped": dict(dataset.dropped),
            "has_users": dataset.users is not None,
            "has_items": dataset.items is not None,
            "has_knowledge": dataset.knowledge is not None,
        }
        write_json(temporary / HEADER, header)


def open_stored(folder: Path | str) -> Dataset:
    """Open the data set that `save` wrote; see `Dataset.open`."""
    folder = Path(folder)
    try:
        header = read_json(folder / HEADER)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder}: no stored data set here ({HEADER} is missing); give a folder that "
            "`tastemaker data import` or `Dataset.save` wrote"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{folder / HEADER}: damaged ({error}); import the data again") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise DataError(
            f"{folder / HEADER}: format {found!r}, this version reads format {_FORMAT}; import "
            "the data again with this version"
        )
    dataset = Dataset(
        name=header["name"],
        schema=Schema.from_json(header["schema"]),
        user_ids=Vocabulary(_ids(folder / "user_ids.arrow")),
        item_ids=Vocabulary(_ids(folder / "item_ids.arrow")),
        interactions=_map(folder / "interactions.arrow"),
        users=_map(folder / "users.arrow") if header["has_users"] else None,
        items=_map(folder / "items.arrow") if header["has_items"] else None,
        knowledge=_read_knowledge(folder) if header["has_knowledge"] else None,
        dropped=header["dropped"],
    )
    dataset.__dict__["fingerprint"] = header["fingerprint"]  # what the cached property would find
    return dataset


def _write(path: Path, table: pa.Table) -> None:
    arrays = [one_chunk(column) for column in table.columns]
    batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(batch)  # also when empty: a batch brings the dictionaries


def _map(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: missing or damaged ({error}); import the data again") from error


def _ids(path: Path) -> pa.Array:
    return one_chunk(_map(path).column("id"))


def _write_knowledge(folder: Path, knowledge: KnowledgeGraph) -> None:
    triples = {
        "head": knowledge.heads,
        "relation": knowledge.relations_,
        "tail": knowledge.tails,
    }
    _write(folder / "knowledge.arrow", pa.table(triples))
    _write(folder / "entity_ids.arrow", pa.table({"id": knowledge.entities.ids}))
    _write(folder / "relation_ids.arrow", pa.table({"id": knowledge.relations.ids}))
    _write(folder / "item_entities.arrow", pa.table({"entity": knowledge.item_entities}))


def _read_knowledge(folder: Path) -> KnowledgeGraph:
    triples = _map(folder / "knowledge.arrow")
    heads, relations, tails = (
        one_chunk(triples.column(name)).to_numpy() for name in ("head", "relation", "tail")
    )
    return KnowledgeGraph(
        Vocabulary(_ids(folder / "entity_ids.arrow")),
        Vocabulary(_ids(folder / "relation_ids.arrow")),
        heads,
        relations,
        tails,
        one_chunk(_map(folder / "item_entities.arrow").column("entity")).to_numpy(),
    )


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def content_hash(dataset: Dataset) -> str:
    """SHA-256 over schema, ids and every column, as hex; equal for a saved and reopened set.

    Columns are hashed where they lie, without a copy of numeric ones.
    """
    digest = hashlib.sha256(
        json.dumps(dataset.schema.to_json(), sort_keys=True, ensure_ascii=False).encode()
    )
    _add(digest, "user_ids", dataset.user_ids.ids)
    _add(digest, "item_ids", dataset.item_ids.ids)
    tables = (
        ("interactions", dataset.interactions),
        ("users", dataset.users),
        ("items", dataset.items),
    )
    for title, table in tables:
        if table is not None:
            for name in table.column_names:
                _add(digest, f"{title}.{name}", one_chunk(table.column(name)))
    if dataset.knowledge is not None:
        graph = dataset.knowledge
        _add(digest, "entities", graph.entities.ids)
        _add(digest, "relations", graph.relations.ids)
        for name in ("heads", "relations_", "tails", "item_entities"):
            _add(digest, name, pa.array(getattr(graph, name)))
    return digest.hexdigest()


def _add(digest: _Hash, name: str, array: pa.Array) -> None:
    """Hash an array by its logical content: name, type, length, nulls and values."""
    digest.update(f"\0{name}\0{array.type}\0{len(array)}\0".encode())
    kind = array.type
    if pa.types.is_dictionary(kind):
        _add(digest, "dictionary", array.dictionary)
        _add(digest, "indices", array.indices)
        return
    if array.null_count:
        digest.update(_bytes(array.is_valid().cast(pa.uint8()).to_numpy()))
        array = array.drop_null()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        digest.update(_bytes(pc.list_value_length(array).to_numpy()))
        _add(digest, "values", array.flatten())
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        digest.update(_bytes(pc.binary_length(array).to_numpy()))
        digest.update(_text_bytes(array))
    else:
        digest.update(_bytes(array.to_numpy(zero_copy_only=False)))


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8)


def _text_bytes(array: pa.Array) -> memoryview | bytes:
    """The bytes of all strings of a large_string or large_binary array, one after the other."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return b""
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[int(bounds[0]) : int(bounds[-1])]
