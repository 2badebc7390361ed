"""The client of a real API server: raw JSON over kubernetes_asyncio's connection.

kubernetes_asyncio brings what is tedious and security-relevant (kubeconfig with exec plugins,
in-cluster tokens that rotate, TLS), and kopf uses the same. Its generated classes and its watch
helper are left out: decoding 5,000 nodes into classes takes seconds and tens of megabytes. So is
its session, which looks for a proxy and a netrc file in a thread before every request: that is a
third of what a request costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode
from urllib.request import getproxies

import aiohttp
import orjson
from kubernetes_asyncio import client, config
from yarl import URL

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Change, ClusterError, Expired, Object, Page, Resource
from sled_operator.names import FIELD_MANAGER

REQUEST_SECONDS = 30.0
WATCH_SECONDS = 300
SILENCE_SECONDS = 330.0
TOKEN_SECONDS = 10.0
"""How long a token is used before it is asked for anew: asking goes through files or a program."""
MAX_PARALLEL = 32
MAX_EVENT_BYTES = 2**21
"""Longest line of a watch: etcd takes no larger objects than 1.5 MiB."""
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_AGENT = "sled-operator"


class HttpCluster:
    """A `Cluster` over HTTPS; at most `MAX_PARALLEL` requests at once, watches not counted."""

    def __init__(self, configuration: client.Configuration) -> None:
        configuration.connection_pool_maxsize = 0
        self._configuration = configuration
        self._api = client.ApiClient(configuration)
        self._session = aiohttp.ClientSession(
            connector=self._api.rest_client.pool_manager.connector,
            connector_owner=False,
            trust_env=bool(getproxies()),
            read_bufsize=MAX_EVENT_BYTES,
        )
        self._free = asyncio.Semaphore(MAX_PARALLEL)
        self._authorization: dict[str, str] = {}
        self._authorized_until = 0.0

    @classmethod
    async def connect(cls) -> HttpCluster:
        """With the pod's service account, else with the kubeconfig of the environment.

        Raises:
            ClusterError: neither is there.
        """
        configuration = client.Configuration()
        try:
            # kubernetes_asyncio ships types but left this one function without
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            try:
                await config.load_kube_config(client_configuration=configuration)
            except config.ConfigException as error:
                raise ClusterError(0, f"no cluster access: {error}") from error
        return cls(configuration)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._api.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """See Reader."""
        try:
            return await self._call("GET", resource.path(namespace, name))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def page(
        self, resource: Resource, namespace: str, selector: str, limit: int, token: str
    ) -> Page:
        """See Reader."""
        query = {"limit": str(limit)}
        if selector:
            query["labelSelector"] = selector
        if token:
            query["continue"] = token
        body = await self._call("GET", resource.path(namespace), query)
        meta = body["metadata"]
        return Page(body["items"], meta["resourceVersion"], meta.get("continue", ""))

    async def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str
    ) -> AsyncIterator[Change]:
        """See Reader."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if selector:
            query["labelSelector"] = selector
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=REQUEST_SECONDS, sock_read=SILENCE_SECONDS
        )
        response = await self._send("GET", resource.path(namespace), query, None, "", timeout)
        try:
            await _raise(response)
            async for line in response.content:
                yield _change(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ClusterError(0, f"the watch broke: {error}") from error
        finally:
            response.close()

    async def apply(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """See Writer."""
        meta = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = resource.path(meta.get("namespace", ""), meta["name"])
        return await self._call("PATCH", path, query, manifest, _APPLY)

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        subresource: str = "",
    ) -> Object:
        """See Writer."""
        query = {"fieldManager": FIELD_MANAGER}
        path = resource.path(namespace, name, subresource)
        return await self._call("PATCH", path, query, patch, _MERGE)

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> Object:
        """See Writer."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("POST", resource.path(namespace), query, body)

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]
    ) -> Object:
        """See Writer."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("PUT", resource.path(namespace, name), query, body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """See Writer."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", resource.path(namespace, name), {}, body)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def evict_now(self, namespace: str, pod: str, uid: str) -> None:
        """See Writer. The eviction of a pod that is to end anyway is a deletion; of any other pod it
        honours the disruption budgets, which is why this asks for no right to delete pods."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}},
        }
        try:
            await self._call("POST", kinds.POD.path(namespace, pod, "eviction"), {}, body)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with self._free:
            response = await self._send(method, path, query, body, content_type, timeout)
            try:
                await _raise(response)
                return dict(orjson.loads(await response.read()))
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise ClusterError(0, f"the answer broke: {error}") from error
            finally:
                response.release()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "User-Agent": _AGENT}
        if content_type:
            headers["Content-Type"] = content_type
        headers |= await self._authorize()
        address = f"{self._configuration.host}{path}?{urlencode(query or {})}"
        try:
            response = await self._session.request(
                method,
                URL(address, encoded=True),
                data=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=limits,
                proxy=self._configuration.proxy,
                server_hostname=self._configuration.tls_server_name,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(0, f"the API server does not answer: {error}") from error
        if response.status == 401:
            self._authorized_until = 0.0
        return response

    async def _authorize(self) -> dict[str, str]:
        now = asyncio.get_running_loop().time()
        if now >= self._authorized_until:
            token = (await self._configuration.auth_settings()).get("BearerToken")
            self._authorization = {"Authorization": token["value"]} if token else {}
            self._authorized_until = now + TOKEN_SECONDS
        return self._authorization


def _change(line: bytes) -> Change:
    event = orjson.loads(line)
    if event["type"] == "ERROR":
        status = event["object"]
        code = int(status.get("code", 0))
        raise (Expired if code == 410 else ClusterError)(code, str(status.get("message", "")))
    return Change(event["type"], event["object"])


async def _raise(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    text = (await response.read()).decode(errors="replace")
    try:
        message = str(orjson.loads(text).get("message", text))
    except ValueError:
        message = text
    raise (Expired if response.status == 410 else ClusterError)(response.status, message[:2000])
