"""Puts the device's parts together from its configuration. Must not know signals, sockets or exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from sled_edge.config import EdgeConfig, OfflinePolicy, split_address
from sled_edge.draft_worker import DraftWorker
from sled_edge.drafter.base import DrafterInfo
from sled_edge.drafter.factory import DrafterUnusable, build_drafter
from sled_edge.link_backoff import LinkTiming
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_grpc import Credentials, GrpcDialer
from sled_edge.link_resilient import ResilientLink
from sled_edge.log import fields
from sled_edge.loop import LoopSettings, SpeculationLoop
from sled_edge.metrics import EdgeMetrics
from sled_edge.offline import OfflineTiming
from sled_edge.tokenizer_source import (
    DeferredTokenizer,
    TokenizerFetcher,
    TokenizerUnusable,
    load_tokenizer,
    local_vocabulary,
    tokenizer_from_bytes,
)

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class StartFailed(RuntimeError):
    """The service cannot start; the message is a sentence for a person."""


@dataclass(slots=True)
class EdgeService:
    """Everything of one device but the HTTP server: build with `start`, end with `close`."""

    config: EdgeConfig
    loop: SpeculationLoop
    tokenizer: DeferredTokenizer
    metrics: EdgeMetrics
    drafter: DrafterInfo
    _fetching: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EdgeConfig, timing: LinkTiming | None = None) -> EdgeService:
        """Load the drafter and the vocabulary, begin connecting; the verifier need not be there.

        Raises:
            StartFailed: the drafter or the vocabulary cannot be loaded, or they do not fit each other.
        """
        timing = timing or LinkTiming()
        worker = DraftWorker(lambda: build_drafter(config))
        try:
            return await cls._start(config, worker, timing)
        except (DrafterUnusable, TokenizerUnusable) as error:
            await worker.close()
            raise StartFailed(str(error)) from error
        except BaseException:
            await worker.close()
            raise

    @classmethod
    async def _start(
        cls, config: EdgeConfig, worker: DraftWorker, timing: LinkTiming
    ) -> EdgeService:
        info = await worker.start()
        tokenizer = await _local_tokenizer(config, info)
        metrics = EdgeMetrics()
        dialer = GrpcDialer(Credentials(config.tls, config.token_file))
        facts = _facts(config, info, tokenizer)
        link = ResilientLink(dialer, config.verifiers, facts, timing, metrics)
        loop = SpeculationLoop(
            link, worker, _loop_settings(config, tokenizer), may_serve=lambda: tokenizer.resolved
        )
        _warn(config, info)
        await link.start()
        fetching = None
        if not tokenizer.resolved:
            fetcher = TokenizerFetcher(
                link, dialer, tokenizer, tokenizer_from_bytes, timing, random.random
            )
            fetching = asyncio.create_task(fetcher.run(), name="sled-tokenizer")
        return cls(config, loop, tokenizer, metrics, info, fetching)

    def app(self) -> ASGIApp:
        """The local HTTP API; it refuses typed while there is no vocabulary."""
        from sled_edge.api import LOOPBACK_HOSTS, build_app

        local = split_address(self.config.listen)[0] in LOOPBACK
        app = build_app(
            self.loop,
            self.tokenizer,
            metrics=self.metrics,
            allowed_hosts=LOOPBACK_HOSTS if local else ("*",),
        )
        return VocabularyGate(app, self.tokenizer, self.metrics)

    async def close(self) -> None:
        """Break off what still runs, end the stream, free the drafter."""
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching
        await self.loop.close()


class VocabularyGate:
    """ASGI middleware: only probes and metrics pass before there is a vocabulary; the rest gets a typed 503."""

    def __init__(self, app: ASGIApp, tokenizer: DeferredTokenizer, metrics: EdgeMetrics) -> None:
        self._app = app
        self._tokenizer = tokenizer
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass or refuse."""
        from sled_edge.api.door import OPEN_PATHS, route_label
        from sled_edge.api.error_reply import error_reply, record_refusal
        from sled_edge.api.refusal import Reason, Refusal

        path = scope.get("path", "")
        if scope["type"] != "http" or self._tokenizer.resolved or path in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        message = "This device has not reached a verifier yet and has no vocabulary of its own."
        refusal = Refusal(Reason.UNAVAILABLE, message)
        record_refusal(refusal, route_label(path), self._metrics)
        await error_reply(refusal, path)(scope, receive, send)


async def _local_tokenizer(config: EdgeConfig, drafter: DrafterInfo) -> DeferredTokenizer:
    deferred = DeferredTokenizer()
    path = local_vocabulary(config)
    if path is None:
        return deferred
    tokenizer = await asyncio.to_thread(load_tokenizer, path)
    drafts_in = drafter.tokenizer_fingerprint
    if drafts_in and drafts_in != tokenizer.fingerprint:
        raise TokenizerUnusable(
            f"tokenizer.path: the vocabulary of {path} is not that of the draft model"
        )
    deferred.resolve(tokenizer, tokenizer.fingerprint)
    return deferred


def _facts(
    config: EdgeConfig, drafter: DrafterInfo, tokenizer: DeferredTokenizer
) -> Callable[[], DeviceFacts]:
    return lambda: DeviceFacts(
        device_id=config.device_id,
        device_class=config.device_class,
        draft_model=drafter.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        revision=config.revision,
    )


def _loop_settings(config: EdgeConfig, tokenizer: DeferredTokenizer) -> LoopSettings:
    return LoopSettings(
        max_draft_tokens=config.drafting.max_tokens,
        min_confidence=config.drafting.min_confidence,
        mode=config.drafting.mode,
        policy=config.offline.policy,
        offline=OfflineTiming(running_patience_seconds=config.offline.patience_seconds),
        draft_ahead=not _verifier_hosts(config) <= LOOPBACK,
        sequences=config.sequences,
        context_tokens=config.drafter.context_tokens,
        end_tokens=tokenizer.end_tokens,
    )


def _verifier_hosts(config: EdgeConfig) -> set[str]:
    return {split_address(address)[0] for address in config.verifiers}


def _warn(config: EdgeConfig, drafter: DrafterInfo) -> None:
    if config.offline.policy is OfflinePolicy.DRAFT_ONLY and not drafter.generates:
        log.warning(
            "offline.policy is DraftOnly, but this drafter cannot write alone: as with Refuse",
            extra=fields(drafter=drafter.kind),
        )
    away = not _verifier_hosts(config) <= LOOPBACK
    if config.tls is None and config.token_file is not None and away:
        log.warning("tokenFile without tls: the token crosses the network in the clear")
