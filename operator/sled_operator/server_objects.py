"""All objects of a SLEDServer but its Secrets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Resource
from sled_operator.conditions import Reason
from sled_operator.names import FIELD_MANAGER, digest
from sled_operator.resources.autoscaler import horizontal_pod_autoscaler
from sled_operator.resources.base import Manifest, server_owner
from sled_operator.resources.disruptionbudget import verifier_disruptionbudget
from sled_operator.resources.networkpolicy import verifier_networkpolicy
from sled_operator.resources.optional import (
    authority_config,
    backend_tls,
    certificate,
    gpu_claim_template,
    grpc_route,
    service_monitor,
)
from sled_operator.resources.service import headless_service, server_service
from sled_operator.resources.serviceaccount import service_account
from sled_operator.resources.statefulset import model_of, verifier_statefulset, vocabulary_of
from sled_operator.resources.verifier_config import verifier_config
from sled_operator.server_status import Problem
from sled_operator.spec import SLEDServer


@dataclass(frozen=True, slots=True)
class Wanted:
    """The manifests, in the order in which they are applied, and what stands in the way."""

    manifests: tuple[Manifest, ...]
    problems: tuple[Problem, ...]


def wanted(
    server: SLEDServer,
    image: str,
    replicas: int | None,
    present: Collection[Resource],
    authority: bytes | None = None,
) -> Wanted:
    """Everything but Secrets.

    Args:
        server: the resource.
        image: verifier image, when the resource names none.
        replicas: None leaves the field to another scaler.
        present: optional kinds that the cluster has.
        authority: PEM of the CA that signs the serving certificate; None while it is not known.
    """
    image = server.spec.image or image
    model, vocabulary = model_of(server, image), vocabulary_of(server, image)
    paths = [mount.path if mount else None for mount in (model, vocabulary)]
    config = verifier_config(server, *paths)
    manifests = [
        service_account(server_owner(server)),
        config,
        server_service(server),
        headless_service(server),
        verifier_disruptionbudget(server),
    ]
    if server.spec.network_policy == "Managed":
        manifests.append(verifier_networkpolicy(server))
    problems = _optional(server, present, manifests)
    gateway = server.spec.exposure.type == "Gateway" and server.spec.tls.mode != "Disabled"
    if gateway and authority is not None and kinds.BACKEND_TLS in present:
        manifests += [authority_config(server, authority), backend_tls(server)]
    manifests.append(verifier_statefulset(server, image, replicas, digest(config["data"])))
    if server.spec.autoscaling.mode == "HPA":
        manifests.append(horizontal_pod_autoscaler(server))
    return Wanted(tuple(manifests), tuple(problems))


def optional_names(server: SLEDServer) -> list[tuple[Resource, str]]:
    """Where an object of an optional kind would be, wanted or not."""
    name = server.metadata.name
    return [
        (kinds.SERVICE_MONITOR, name),
        (kinds.CERTIFICATE, name),
        (kinds.GRPC_ROUTE, name),
        (kinds.BACKEND_TLS, name),
        (kinds.CLAIM_TEMPLATE, f"{name}-gpu"),
    ]


def _optional(
    server: SLEDServer, present: Collection[Resource], manifests: list[Manifest]
) -> list[Problem]:
    spec = server.spec
    if spec.service_monitor == "Auto" and kinds.SERVICE_MONITOR in present:
        manifests.append(service_monitor(server))
    problems = []
    for needed, resource, build in (
        (spec.tls.mode == "CertManager", kinds.CERTIFICATE, certificate),
        (spec.exposure.type == "Gateway", kinds.GRPC_ROUTE, grpc_route),
        (
            spec.gpu.count > 0 and spec.gpu.allocation == "DRA",
            kinds.CLAIM_TEMPLATE,
            gpu_claim_template,
        ),
    ):
        if not needed:
            continue
        if resource in present:
            manifests.append(build(server))
        else:
            text = f"the cluster has no {resource.kind} of {resource.api_version}"
            problems.append(Problem(Reason.KIND_MISSING, text))
    return problems


def replicas_for_other_scaler(observed: Mapping[str, Any] | None, least: int) -> int | None:
    """Replicas to set while an HPA or KEDA scales: none once it has taken the field over.

    Letting go of a field that nobody else owns would reset it to its default of one, which would
    cut a busy server down at the moment of hand-over.
    """
    if observed is None:
        return max(least, 1)
    for entry in observed["metadata"].get("managedFields", ()):
        owns = "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        if owns and entry.get("manager") != FIELD_MANAGER:
            return None
    replicas = observed.get("spec", {}).get("replicas")
    return int(replicas) if replicas is not None else max(least, 1)
