"""A small Kubernetes client for tests: plain JSON over HTTPS, and waiting by watch.

Why: tests read and write many objects quickly and wait for the cluster to do something; starting
kubectl for each would cost more than the test. Waiting is a real watch with a deadline, never a
sleep. Must not be used by product code, and must not hide a refusal: every unexpected answer raises
ApiError with the server's sentence.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml

Object = dict[str, Any]
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_PAGE = 500
_TRIES = 10
"""A definition that was established just now answers 429 for a moment."""


class ApiError(RuntimeError):
    """The server refused; `code` is the HTTP status and the message its own sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class WaitFailed(AssertionError):
    """A condition did not come true in time; the message carries what was last seen."""


class Api:
    """Calls by resource path, such as `/apis/sled.dev/v1alpha1/namespaces/x/drafters`."""

    def __init__(self, kubeconfig: Path) -> None:
        context = yaml.safe_load(kubeconfig.read_text())
        cluster = context["clusters"][0]["cluster"]
        user = context["users"][0]["user"]
        trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        headers = {}
        if "token" in user:
            headers["Authorization"] = f"Bearer {user['token']}"
        else:
            trust.load_cert_chain(user["client-certificate"], user["client-key"])
        self._http = httpx.Client(
            base_url=cluster["server"],
            verify=trust,
            headers=headers,
            timeout=30.0,
            trust_env=False,
            limits=httpx.Limits(max_connections=16),
        )

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the API server answers `/readyz` with ok now."""
        try:
            return self._http.get("/readyz", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def get(self, path: str) -> Object:
        """One object (or a whole collection answer); ApiError 404 when it is not there."""
        return self._call("GET", path)

    def find(self, path: str) -> Object | None:
        """One object, or None when it is not there."""
        try:
            return self.get(path)
        except ApiError as refused:
            if refused.code == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Object]:
        """Every object of a collection, page by page."""
        found: list[Object] = []
        token = ""
        while True:
            answer = self._call("GET", path, {**query, "limit": str(_PAGE), "continue": token})
            found += answer["items"]
            token = answer["metadata"].get("continue", "")
            if not token:
                return found

    def create(self, path: str, body: Object, **query: str) -> Object:
        """POST into a collection."""
        return self._call("POST", path, query, body)

    def patch(self, path: str, body: Object, **query: str) -> Object:
        """JSON merge patch."""
        return self._call("PATCH", path, query, body, _MERGE)

    def apply(self, path: str, body: Object, *, manager: str = "sled-test") -> Object:
        """Server-side apply of one object at its own path, taking over conflicts."""
        query = {"fieldManager": manager, "force": "true"}
        return self._call("PATCH", path, query, body, _APPLY)

    def delete(self, path: str, **query: str) -> None:
        """Delete one object or a collection; quiet when it is not there."""
        try:
            self._call("DELETE", path, query)
        except ApiError as refused:
            if refused.code != 404:
                raise

    def create_all(self, path: str, bodies: Iterable[Object], *, parallel: int = 8) -> None:
        """POST many objects into one collection, a few at a time."""
        with ThreadPoolExecutor(parallel) as pool:
            for _ in pool.map(lambda body: self.create(path, body), bodies):
                pass

    def wait(
        self,
        path: str,
        name: str,
        done: Callable[[Object | None], bool],
        *,
        timeout_seconds: float = 30.0,
    ) -> Object | None:
        """Wait until `done(object)` holds for one object (None: it does not exist)."""

        def holds(found: dict[str, Object]) -> bool:
            return done(found.get(name))

        found = self.wait_all(
            path, holds, timeout_seconds=timeout_seconds, fieldSelector=f"metadata.name={name}"
        )
        return found.get(name)

    def wait_all(
        self,
        path: str,
        done: Callable[[dict[str, Object]], bool],
        *,
        timeout_seconds: float = 30.0,
        **query: str,
    ) -> dict[str, Object]:
        """Wait until `done(objects by name)` holds for a collection in one namespace."""
        deadline = time.monotonic() + timeout_seconds
        found: dict[str, Object] = {}
        while True:
            answer = self._call("GET", path, query)
            found = {item["metadata"]["name"]: item for item in answer["items"]}
            if done(found):
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self._watch(path, query, answer, found, done, left):
                break
        if done(found):
            return found
        raise WaitFailed(_unmet(path, found, timeout_seconds))

    def _watch(
        self,
        path: str,
        query: dict[str, str],
        answer: Object,
        found: dict[str, Object],
        done: Callable[[dict[str, Object]], bool],
        left_seconds: float,
    ) -> bool:
        """Follow events into `found`; True when done or out of time, False to list again."""
        parameters = {
            **query,
            "watch": "1",
            "resourceVersion": answer["metadata"]["resourceVersion"],
            "timeoutSeconds": str(max(1, int(left_seconds) + 1)),
        }
        try:
            with self._http.stream(
                "GET", path, params=parameters, timeout=httpx.Timeout(30, read=left_seconds)
            ) as stream:
                deadline = time.monotonic() + left_seconds
                for line in stream.iter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return False
                    name = event["object"]["metadata"]["name"]
                    if event["type"] == "DELETED":
                        found.pop(name, None)
                    else:
                        found[name] = event["object"]
                    if done(found) or time.monotonic() > deadline:
                        return True
        except httpx.ReadTimeout:
            return True
        except httpx.TransportError:
            return False
        return False

    def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        for _ in range(_TRIES):
            response = self._http.request(
                method,
                path,
                params={key: value for key, value in (query or {}).items() if value},
                content=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type},
            )
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            time.sleep(float(response.headers.get("Retry-After", "1")))  # as the server asks
        if response.is_success:
            answer: Object = response.json()
            return answer
        try:
            message = str(response.json().get("message", response.text))
        except ValueError:
            message = response.text
        raise ApiError(response.status_code, message)


def _unmet(path: str, found: dict[str, Object], timeout_seconds: float) -> str:
    shown = {name: item.get("status", {}) for name, item in list(found.items())[:5]}
    seen = json.dumps(shown, indent=1, default=str)[:4000]
    return f"{path}: not reached in {timeout_seconds:.0f} s; {len(found)} objects, status: {seen}"
