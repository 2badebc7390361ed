"""The custom metrics API that Prometheus' adapter serves in a real cluster: one metric of pods.

Why: the HorizontalPodAutoscaler's controller asks this API, through the API server's aggregation.
The API server may not call loopback addresses of a Service, so it listens on this machine's own
address; nothing leaves the machine. Must not be used for anything but tests.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sled_testkit.cluster import Cluster
from sled_testkit.cluster_api import Object
from sled_testkit.verifier_certificates import Authority

GROUP, VERSION = "custom.metrics.k8s.io", "v1beta2"
HOME = "kube-system"


class MetricsApi:
    """Serves `values()` (by pod name) of one metric in the namespace `default`."""

    def __init__(
        self, metric: str, values: Callable[[], Mapping[str, int]], address: str, folder: Path
    ) -> None:
        self.metric = metric
        self.values = values
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer((address, 0), handler)
        identity = Authority("metrics").issue("metrics.kube-system.svc")
        key, certificate = folder / "metrics.key", folder / "metrics.crt"
        key.write_bytes(identity.key)
        certificate.write_bytes(identity.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def register(self, cluster: Cluster) -> None:
        """Make the API server lead to it, and wait until it says that it does."""
        address, port = str(self._server.server_address[0]), int(self._server.server_port)
        named = {"name": "custom-metrics", "namespace": HOME}
        ports = [{"name": "https", "port": port, "protocol": "TCP"}]
        cluster.api.create(
            f"/api/v1/namespaces/{HOME}/services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": named,
                "spec": {"ports": [{**ports[0], "targetPort": port}]},
            },
        )
        cluster.api.create(
            f"/apis/discovery.k8s.io/v1/namespaces/{HOME}/endpointslices",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**named, "labels": {"kubernetes.io/service-name": named["name"]}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": ports,
            },
        )
        services = "/apis/apiregistration.k8s.io/v1/apiservices"
        spec = {
            "group": GROUP,
            "version": VERSION,
            "service": {**named, "port": port},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        name = f"{VERSION}.{GROUP}"
        body = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}
        cluster.api.create(services, {**body, "metadata": {"name": name}, "spec": spec})
        cluster.api.wait(services, name, _available, timeout_seconds=60.0)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> Object | None:
        """The body of one request; None when there is nothing there."""
        root = f"/apis/{GROUP}/{VERSION}"
        if path == root:
            resource = {
                "name": f"pods/{self.metric}",
                "singularName": "",
                "namespaced": True,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            version = f"{GROUP}/{VERSION}"
            return {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}
        if path != f"{root}/namespaces/default/pods/*/{self.metric}":
            return None
        self.asked.append(path)
        return {
            "kind": "MetricValueList",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": [self._item(name, value) for name, value in self.values().items()],
        }

    def _item(self, pod: str, value: int) -> Object:
        described = {"kind": "Pod", "namespace": "default", "name": pod, "apiVersion": "v1"}
        return {
            "describedObject": described,
            "metric": {"name": self.metric},
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "value": str(value),
        }


class _Handler(BaseHTTPRequestHandler):
    api: MetricsApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """Answer the aggregator."""
        found = self.api.answer(unquote(urlsplit(self.path).path))
        body = json.dumps(found if found is not None else {}).encode()
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _available(found: Object | None) -> bool:
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
