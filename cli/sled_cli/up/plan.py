"""From documents to the processes that stand for them on one machine. Pure: no files, no sockets.

What differs from a cluster: a SLEDServer's replicas and an EdgeDrafter's devices are processes on
loopback, so traffic is plain text and `nodeSelector`, images, resources, exposure and rollout have
no meaning; the devices take the drafts of the catalogue that suit their class in turn, so that a
local run exercises all of them. Device tokens are real.
"""

from __future__ import annotations

from collections.abc import Iterator

from sled_cli.errors import BadInput
from sled_cli.up.annotations import Local, of_drafter, of_server
from sled_cli.up.documents import Document, Reading
from sled_cli.up.fleet_plan import DevicePlan, FleetPlan, LocalFacts, ModelRef, VerifierPlan
from sled_cli.up.ports import DEVICE_BASE, SEARCHED, VERIFIER_BASE, Ports
from sled_operator.spec import EdgeDrafter, SLEDServer, SLEDServerSpec
from sled_operator.spec.drafts import Draft

MAX_REPLICAS = 16
LOCAL_ENGINES = ("LlamaCpp", "Fake")
LOCAL_SOURCES = ("hf", "s3", "file", "catalog")


def candidate_ports(reading: Reading) -> frozenset[int]:
    """Ports the plan may use, so that the caller can find out which of them are busy."""
    ports = set(range(VERIFIER_BASE, VERIFIER_BASE + SEARCHED))
    ports.update(range(DEVICE_BASE, DEVICE_BASE + SEARCHED))
    for document, server in reading.servers():
        if (port := of_server(document).port) is not None:
            ports.update(range(port, port + 2 * _replicas(server.spec)))
    for document, _ in reading.drafters():
        local = of_drafter(document)
        if local.port is not None:
            ports.update(range(local.port, local.port + len(local.device_classes)))
    return frozenset(port for port in ports if port <= 65_535)


def plan_fleet(reading: Reading, facts: LocalFacts) -> FleetPlan:
    """Decide what to run.

    Raises:
        BadInput: two resources of one name, a server that is not there, a port that is taken, no
        draft for a device, or something that only a cluster can do; the message names the document
        and the field.
    """
    if not reading.documents:
        raise BadInput("there is no SLEDServer and no EdgeDrafter in these files")
    _refuse_doubles(reading)
    ports = Ports(facts.busy_ports)
    named = _named_ports(reading, ports)
    verifiers = tuple(
        plan
        for document, server in reading.servers()
        for plan in _replica_plans(document, server, facts, ports, named)
    )
    devices = tuple(
        plan
        for document, drafter in reading.drafters()
        for plan in _device_plans(document, drafter, verifiers, facts, ports, named)
    )
    return FleetPlan(verifiers, devices)


def _refuse_doubles(reading: Reading) -> None:
    seen: dict[tuple[str, str], Document] = {}
    for document in reading.documents:
        key = (type(document.resource).__name__, _key(document.resource))
        if key in seen:
            raise BadInput(f"{document.where}: is in {seen[key].file} already")
        seen[key] = document


def _named_ports(reading: Reading, ports: Ports) -> dict[str, list[int]]:
    """Ports by document, for those that name one; taken before any free port is looked for."""
    named: dict[str, list[int]] = {}
    for document, server in reading.servers():
        if (port := of_server(document).port) is not None:
            count = 2 * _replicas(server.spec)
            named[document.where] = [ports.named(port + i, document.where) for i in range(count)]
    for document, _ in reading.drafters():
        local = of_drafter(document)
        if local.port is not None:
            count = len(local.device_classes)
            first = local.port
            named[document.where] = [ports.named(first + i, document.where) for i in range(count)]
    return named


def _replicas(spec: SLEDServerSpec) -> int:
    """Nothing scales on one machine: the fewest that autoscaling would keep, at least one."""
    return (
        spec.replicas if spec.autoscaling.mode == "None" else max(1, spec.autoscaling.min_replicas)
    )


def _replica_plans(
    document: Document,
    server: SLEDServer,
    facts: LocalFacts,
    ports: Ports,
    named: dict[str, list[int]],
) -> Iterator[VerifierPlan]:
    spec, where = server.spec, document.where
    if spec.engine.kind not in LOCAL_ENGINES:
        raise BadInput(
            f"{where}: spec.engine.kind: {spec.engine.kind} does not run under sled up; "
            f"here: {' or '.join(LOCAL_ENGINES)}"
        )
    if _replicas(spec) > MAX_REPLICAS:
        raise BadInput(f"{where}: spec.replicas: more than {MAX_REPLICAS} on one machine")
    model = None
    if spec.engine.kind == "LlamaCpp":
        model = _model(where, "spec.model", spec.model.name, spec.model.source, spec.model.sha256)
    given = named.get(where, [])
    for index in range(_replicas(spec)):
        pair = given[2 * index : 2 * index + 2] or [
            ports.free(VERIFIER_BASE, where) for _ in range(2)
        ]
        yield VerifierPlan(
            name=f"{_process_name(server)}-{index}",
            server=_key(server),
            spec=spec,
            port=pair[0],
            metrics_port=pair[1],
            threads=spec.engine.threads or facts.cpu_count,
            model=model,
        )


def _device_plans(
    document: Document,
    drafter: EdgeDrafter,
    verifiers: tuple[VerifierPlan, ...],
    facts: LocalFacts,
    ports: Ports,
    named: dict[str, list[int]],
) -> Iterator[DevicePlan]:
    spec, where, local = drafter.spec, document.where, of_drafter(document)
    server, addresses, tokens = _server(document, drafter, verifiers, local)
    given = named.get(where, [])
    turns: dict[str, int] = {}
    for index, device_class in enumerate(local.device_classes):
        fitting = [draft for draft in spec.drafts if _fits(draft, device_class, facts)]
        if not fitting:
            raise BadInput(
                f"{where}: spec.drafts: none of them is for device class '{device_class}' "
                f"on {facts.architecture}"
            )
        turn = turns.get(device_class, 0)
        turns[device_class] = turn + 1
        draft = fitting[turn % len(fitting)]
        model = None
        if draft.kind == "LlamaCpp":
            field = f"spec.drafts[{spec.drafts.index(draft)}]"
            model = _model(where, field, draft.model or draft.name, draft.source, draft.sha256)
        yield DevicePlan(
            name=f"{_process_name(drafter)}-{index}",
            drafter=_key(drafter),
            device_class=device_class,
            spec=spec,
            draft=draft,
            port=given[index] if given else ports.free(DEVICE_BASE, where),
            verifiers=addresses,
            server=server,
            tokens=tokens,
            token_file=local.token_file,
            ca_file=local.ca_file,
            model=model,
        )


def _server(
    document: Document, drafter: EdgeDrafter, verifiers: tuple[VerifierPlan, ...], local: Local
) -> tuple[str | None, tuple[str, ...], bool]:
    """Key of the server, addresses of its replicas, and whether they ask for a token."""
    ref = drafter.spec.server
    if ref.address is not None:
        if ref.token_secret_name is not None and local.token_file is None:
            raise BadInput(
                f"{document.where}: spec.server.tokenSecretName: there are no Secrets here; "
                "name a file in the annotation local.sled.dev/token-file"
            )
        return None, (ref.address,), False
    key = f"{drafter.metadata.namespace}/{ref.name}"
    replicas = [verifier for verifier in verifiers if verifier.server == key]
    if not replicas:
        raise BadInput(
            f"{document.where}: spec.server.name: there is no SLEDServer {ref.name} with a replica "
            f"in namespace {drafter.metadata.namespace}"
        )
    return key, tuple(replica.address for replica in replicas), replicas[0].tokens


def _fits(draft: Draft, device_class: str, facts: LocalFacts) -> bool:
    return (not draft.device_classes or device_class in draft.device_classes) and (
        not draft.architectures or facts.architecture in draft.architectures
    )


def _model(where: str, field: str, name: str, source: str | None, sha256: str | None) -> ModelRef:
    if source is None:
        raise BadInput(f"{where}: {field}.source: required here")
    scheme = source.partition("://")[0]
    if scheme not in LOCAL_SOURCES:
        raise BadInput(
            f"{where}: {field}.source: {scheme}:// exists on a cluster only; here: "
            + ", ".join(f"{known}://" for known in LOCAL_SOURCES)
        )
    return ModelRef(name, source, sha256)


def _key(resource: SLEDServer | EdgeDrafter) -> str:
    return f"{resource.metadata.namespace}/{resource.metadata.name}"


def _process_name(resource: SLEDServer | EdgeDrafter) -> str:
    """The resource's name, with its namespace where that is not the default one."""
    metadata = resource.metadata
    if metadata.namespace == "default":
        return metadata.name
    return f"{metadata.namespace}.{metadata.name}"
