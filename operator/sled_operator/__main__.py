"""`sled-operator`: reads its settings from the environment and works until it is told to stop.

Exit status: 0 told to stop, 1 no access to a cluster or something unexpected, 2 bad settings.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import signal
import sys

from sled_operator import http_server, log
from sled_operator.cluster.base import ClusterError
from sled_operator.cluster.http import HttpCluster
from sled_operator.handlers import WatchEnded
from sled_operator.lease import Lease, LeaseLost
from sled_operator.metrics import Metrics
from sled_operator.runtime import Operator, Stopped, lead
from sled_operator.settings import InvalidSettings, Settings, from_environment

logger = logging.getLogger("sled_operator")
PAUSE_SECONDS = 1.0


def main() -> None:
    """Entry point."""
    _parser().parse_args()
    try:
        settings = from_environment()
    except InvalidSettings as error:
        print(f"sled-operator: {error}", file=sys.stderr)
        sys.exit(2)
    log.configure(settings.log_level)
    sys.exit(asyncio.run(run(settings)))


def _parser() -> argparse.ArgumentParser:
    """There are no options: the chart sets the environment."""
    known = [
        f"  SLED_{field.name.upper():22} {field.default}" for field in dataclasses.fields(Settings)
    ]
    return argparse.ArgumentParser(
        prog="sled-operator",
        description="Reconciles SLEDServers and EdgeDrafters. Settings come from the environment:",
        epilog="\n".join(["variables and their defaults:", *known]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


async def run(settings: Settings) -> int:
    """Serve health and metrics; become leader and work, again and again until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        cluster = await HttpCluster.connect()
        # a client of its own: renewing must never queue behind thousands of node labels
        lease_client = await HttpCluster.connect()
    except ClusterError as error:
        logger.error("%s", error)
        return 1
    metrics = Metrics()
    term = [Operator(cluster, settings, metrics)]
    web = await http_server.start(
        settings.http_port, metrics, lambda: term[0].refresh_metrics(), lambda: True
    )
    lease = Lease(lease_client, settings.lease_namespace, settings.lease_name, settings.identity)
    try:
        while not await _lead(term[0], lease, stop):
            await asyncio.sleep(PAUSE_SECONDS)
            term[0] = Operator(cluster, settings, metrics)
        return 0
    finally:
        await web.cleanup()
        await cluster.close()
        await lease_client.close()


async def _lead(operator: Operator, lease: Lease, stop: asyncio.Event) -> bool:
    """One term as leader; True when it ended because we were told to stop.

    A lost lease, or an API server that is away, ends the term and all its tasks, and another one is
    sought from scratch: nothing that was known before is trusted.
    """
    acquiring = asyncio.create_task(lease.acquire())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not acquiring.done():
        acquiring.cancel()
        return True
    stopped = False
    try:
        await lead(operator, lease, stop)
    except* Stopped:
        stopped = True
    except* (LeaseLost, WatchEnded, ClusterError) as ended:
        for error in ended.exceptions:
            logger.error("starting over: %s", error, extra={"reason": type(error).__name__})
    if stopped:
        await lease.release()
    return stopped


if __name__ == "__main__":
    main()
