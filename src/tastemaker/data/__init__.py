"""The ground floor: logs in, an integer-coded columnar `Dataset` out."""

from __future__ import annotations

from tastemaker.data.catalog import load
from tastemaker.data.dataset import Dataset
from tastemaker.data.filters import (
    BinaryLabel,
    DateRange,
    Deduplicate,
    Filter,
    FilterReport,
    KCore,
    MinLabel,
    WithNegatives,
    parse_filter,
)
from tastemaker.data.folder import read_folder
from tastemaker.data.knowledge import KnowledgeGraph
from tastemaker.data.queries import Histories, Queries, Ragged
from tastemaker.data.readers import import_files, read_sql
from tastemaker.data.schema import Feature, Kind, Role, Schema
from tastemaker.data.splits import Part, Split, default_split, parse_split, split
from tastemaker.data.training_set import TrainingSet
from tastemaker.data.vocabulary import Vocabulary

__all__ = [
    "BinaryLabel",
    "Dataset",
    "DateRange",
    "Deduplicate",
    "Feature",
    "Filter",
    "FilterReport",
    "Histories",
    "KCore",
    "Kind",
    "KnowledgeGraph",
    "MinLabel",
    "Part",
    "Queries",
    "Ragged",
    "Role",
    "Schema",
    "Split",
    "TrainingSet",
    "Vocabulary",
    "WithNegatives",
    "default_split",
    "import_files",
    "load",
    "parse_filter",
    "parse_split",
    "read_folder",
    "read_sql",
    "split",
]
