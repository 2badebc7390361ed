"""Model files: a catalogue, a cache with checksums, and the `sled models` commands. Loads none."""

from __future__ import annotations

from sled_cli.models.catalogue import Catalogue, CatalogueEntry, default_catalogue
from sled_cli.models.errors import (
    ChecksumMismatch,
    ConversionFailed,
    DownloadFailed,
    InvalidSource,
    ModelError,
    NotEnoughSpace,
    StoreBusy,
    UnknownModel,
)
from sled_cli.models.progress import OnProgress, Progress, Stage, ignore_progress
from sled_cli.models.source import parse_source
from sled_cli.models.store import ModelStore, StoredModel, default_cache_dir

__all__ = [
    "Catalogue",
    "CatalogueEntry",
    "ChecksumMismatch",
    "ConversionFailed",
    "DownloadFailed",
    "InvalidSource",
    "ModelError",
    "ModelStore",
    "NotEnoughSpace",
    "OnProgress",
    "Progress",
    "Stage",
    "StoreBusy",
    "StoredModel",
    "UnknownModel",
    "default_cache_dir",
    "default_catalogue",
    "ignore_progress",
    "parse_source",
]
