"""Gets the model files of a plan through the model store, with its progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sled_cli.errors import CliError
from sled_cli.models import ModelError, ModelStore
from sled_cli.models.commands import progress_bar
from sled_cli.up.fleet_plan import ModelRef


def fetch_models(models: Iterable[ModelRef], cache_dir: Path | None) -> dict[ModelRef, Path]:
    """Path of every model, fetched and verified where it is not in the cache yet.

    Raises:
        CliError: a model cannot be had; the message says which and why.
    """
    store = ModelStore(cache_dir)
    paths: dict[ModelRef, Path] = {}
    for model in models:
        try:
            with progress_bar() as progress:
                paths[model] = store.fetch(model.source, model.sha256, progress)
        except ModelError as error:
            raise CliError(f"model {model.name} ({model.source}): {error}") from error
    return paths
