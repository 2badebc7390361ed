"""What can go wrong when a model is fetched. None of these loses a file that was good before.

ModelError
├── InvalidSource       the text is no source that SLED knows
├── UnknownModel        no such name in the catalogue, or not in the cache
├── DownloadFailed      the network, the server or pip said no; what was received is kept for the
next try
├── ChecksumMismatch    the bytes are not the ones that were asked for
├── ConversionFailed    a derived model could not be written
├── NotEnoughSpace      the disk cannot take the file
└── StoreBusy           another process fetches the same model and does not come to an end
"""

from __future__ import annotations

from sled_cli.errors import BadInput, CliError


class ModelError(CliError):
    """Root of what this package raises; the message is one sentence for a person."""


class InvalidSource(ModelError, BadInput):
    """The source is none of `file:///…`, `hf://…`, `s3://bucket/key` and `catalog://NAME`, or it
    cannot be asked for in this way."""


class UnknownModel(ModelError, BadInput):
    """The catalogue has no model of this name, or the cache does not hold it."""


class DownloadFailed(ModelError):
    """A transfer ended early or was refused. `status` is the HTTP status, 0 when there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ChecksumMismatch(ModelError):
    """A file's SHA-256 is `actual`, not `expected`."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        super().__init__(f"{name} has SHA-256 {actual}, expected {expected}")
        self.expected = expected
        self.actual = actual


class ConversionFailed(ModelError):
    """A model could not be converted to another weight type."""


class NotEnoughSpace(ModelError):
    """The file system has less room than the model needs."""


class StoreBusy(ModelError):
    """The lock of a model was not released in time."""
