"""The device's local HTTP API: OpenAI's and TGI's, over one speculation loop."""

from __future__ import annotations

from sled_edge.api.app import build_app
from sled_edge.api.settings import LOOPBACK_HOSTS, InvalidSettings

__all__ = ["LOOPBACK_HOSTS", "InvalidSettings", "build_app"]
