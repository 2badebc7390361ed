"""Structured logs: one JSON object per line on stderr. Must never be given token text, prompts or secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO

_FIELDS = "sled_fields"


class JsonFormatter(logging.Formatter):
    """Renders a record as one JSON object: time, level, logger, message, then the fields of `log_fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, never more, whatever the message holds."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def fields(**values: object) -> dict[str, object]:
    """Named values of one log line: `log.info("connected", extra=fields(replica=name))`."""
    return {_FIELDS: values}


def configure_logging(level: str, stream: IO[str] | None = None) -> None:
    """Send all logging of the process to `stream` (stderr) as JSON lines from `level` on."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # What it tells about starting and stopping, the process itself tells.
        logger.setLevel(max(logging.WARNING, root.level))
