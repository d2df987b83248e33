"""Stored events as a data set, for training on what happened since."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tastemaker.console import say
from tastemaker.data import Dataset
from tastemaker.data.readers import Options
from tastemaker.errors import DataError
from tastemaker.serving.store import EventStore, StoredEvent

__all__ = ["dataset_of_events"]

_KINDS = {
    "user": pa.large_string(),
    "item": pa.large_string(),
    "timestamp": pa.float64(),
    "behavior": pa.large_string(),
    "label": pa.float64(),
}


def dataset_of_events(store: EventStore, name: str) -> Dataset:
    """All events of a store, in order of time.

    Behaviours come along when any event has one (`"unknown"` stands for none), labels when every
    event has one.

    Raises:
        DataError: when there are no events.
        StoreUnavailableError: when the store is down.
    """
    schema = pa.schema(list(_KINDS.items()))
    batches = [
        pa.record_batch(
            list(
                zip(*[(e.event.user, e.event.item, e.at, *e.event[4:]) for e in kept], strict=True)
            ),
            schema=schema,
        )
        for kept in store.events()
    ]
    if not batches:
        raise DataError("the store has no events yet, so there is nothing to make a data set of")
    table = pa.Table.from_batches(batches, schema)
    options: Options = {"user": "user", "item": "item", "timestamp": "timestamp", "name": name}
    if table["behavior"].null_count < len(table):
        place = table.column_names.index("behavior")
        table = table.set_column(place, "behavior", table["behavior"].fill_null("unknown"))
        options["behavior"] = "behavior"
    unlabelled = table["label"].null_count
    if not unlabelled:
        options["label"] = "label"
    elif unlabelled < len(table):
        say(f"labels are left out: {unlabelled:,} of {len(table):,} events have none")
    return Dataset.from_frame(table, **options)


def _batch(kept: Sequence[StoredEvent], schema: pa.Schema) -> pa.RecordBatch:
    rows = [
        (one.event.user, one.event.item, one.at, one.event.behavior, one.event.label)
        for one in kept
    ]
    return pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=schema)
