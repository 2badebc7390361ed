"""SLEDServer: one target model and the replicas that verify drafts with it. Holds the shape and its
rules, no behaviour."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.autoscaling import Autoscaling
from sled_operator.spec.base import (
    Argument,
    Image,
    LabelKey,
    Metadata,
    ModelName,
    ObjectName,
    Quantity,
    Rule,
    Sha256,
    Source,
    Spec,
)
from sled_operator.spec.exposure import Exposure
from sled_operator.spec.shared import (
    HostPath,
    LogLevel,
    NodeLabels,
    PodTemplate,
    Resources,
    Tolerations,
)
from sled_operator.spec.trust import Auth, Tls


class TargetModel(Spec):
    """The large model whose text the fleet produces."""

    rules = (
        Rule(
            "!has(self.sha256) || (has(self.source) && (self.source.contains('.gguf') ||"
            " !self.source.startsWith('hf://')))",
            "sha256 belongs to a source that is one file; pin a repository as @COMMIT",
            lambda self: (
                self.sha256 is None
                or (
                    self.source is not None
                    and (".gguf" in self.source or not self.source.startswith("hf://"))
                )
            ),
        ),
    )

    name: ModelName
    """What clients ask for in `model`, and what devices are told."""
    source: Source | None = None
    """Where the model comes from: a hub (hf://org/repo/file.gguf@revision; for VLLM and Torch the
    whole hf://org/repo@revision), an image volume (oci://registry/image:tag#file), a claim
    (pvc://claim/path), a bucket (s3://bucket/key), a path in the pod (file:///path), or SLED's own
    list (catalog://NAME)."""
    sha256: Sha256 | None = None
    """Checksum of the file; a download that differs is refused."""
    vocabulary: Source | None = None
    """A GGUF file of the same model, for its vocabulary, where the source is a folder or the engine
    runs elsewhere; omitted takes the only one in the folder."""
    credentials_secret_name: ObjectName | None = None
    """Secret whose keys become environment variables of the download: HF_TOKEN;
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; HTTPS_PROXY."""


class Engine(Spec):
    """What runs the target model."""

    rules = (
        Rule(
            "(self.kind == 'OpenAI') == has(self.url)",
            "url belongs to engine kind OpenAI, which needs it, and to no other",
            lambda self: (self.kind == "OpenAI") == (self.url is not None),
        ),
    )

    kind: Literal["LlamaCpp", "VLLM", "Torch", "OpenAI", "Fake"] = "LlamaCpp"
    """LlamaCpp: GGUF on CPU or a small GPU. VLLM: a GPU server. Torch: reference. OpenAI: a vLLM or
    SGLang server that runs elsewhere, greedy decoding only. Fake: a toy model for tests."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads of a step; 0 = as many as the container's CPU limit, or the node's cores."""
    context_tokens: Annotated[int, Field(ge=64, le=1_048_576)] = 4096
    """Tokens that one sequence may hold, prompt and output together."""
    slots: Annotated[int, Field(ge=1, le=4096)] = 8
    """Sequences kept in the engine's memory at once."""
    url: (
        Annotated[
            str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=1024)
        ]
        | None
    ) = None
    """Where the model server is, for kind OpenAI: its root without credentials, with or without /v1."""
    args: Annotated[tuple[Argument, ...], Field(max_length=64)] = ()
    """Further arguments of the verifier."""


class Batching(Spec):
    """How drafts of many devices share a step."""

    rules = (
        Rule(
            "self.prefillChunkTokens <= self.stepTokens",
            "prefillChunkTokens must not exceed stepTokens",
            lambda self: self.prefill_chunk_tokens <= self.step_tokens,
        ),
        Rule(
            "self.stepTokens >= 2 * (self.maxDraftTokens + 1)",
            "stepTokens must be at least 2 * (maxDraftTokens + 1)",
            lambda self: self.step_tokens >= 2 * (self.max_draft_tokens + 1),
        ),
    )

    step_tokens: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Most tokens of one step, over all sequences."""
    prefill_chunk_tokens: Annotated[int, Field(ge=1, le=65_536)] = 48
    """Most prompt tokens of one sequence in one step."""
    max_queue: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Drafts that may wait; more are refused."""
    max_sequences_per_device: Annotated[int, Field(ge=1, le=256)] = 4
    """Open sequences of one device."""
    max_sequences: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Open sequences of one replica, evicted ones included."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=16)] = 16
    """Longest draft that is taken."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """A sequence idle for this long is evicted to soft state."""
    default_deadline_ms: Annotated[int, Field(ge=1, le=120_000)] = 10_000
    """How long a draft may wait when the device names no deadline."""


class Gpu(Spec):
    """GPUs of each replica and which ones will do."""

    rules = (
        Rule(
            "self.allocation != 'DRA' || size(self.productAffinity) == 0",
            "productAffinity selects node labels and has no meaning with allocation DRA: "
            "choose a deviceClassName",
            lambda self: self.allocation != "DRA" or not self.product_affinity,
        ),
    )

    count: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs per replica; 0 = runs on the CPU."""
    resource_name: LabelKey = "nvidia.com/gpu"
    """Extended resource that the device plugin advertises."""
    product_affinity: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=63)], ...],
        Field(max_length=32),
    ] = ()
    """Accepted values of the node label `nvidia.com/gpu.product`; empty accepts all."""
    min_memory_mib: Annotated[int, Field(ge=0, le=16_777_216)] = 0
    """Least memory of one GPU, from the node label `nvidia.com/gpu.memory`; 0 = any."""
    allocation: Literal["DevicePlugin", "DRA"] = "DevicePlugin"
    """DevicePlugin asks for the extended resource, DRA makes a ResourceClaimTemplate."""
    device_class_name: ObjectName = "gpu.nvidia.com"
    """DeviceClass of the claim, for allocation DRA."""


class Cache(Spec):
    """Where downloaded models are kept."""

    rules = (
        Rule(
            "(self.type == 'HostPath') == has(self.path)",
            "path belongs to cache type HostPath, which needs it, and to no other",
            lambda self: (self.type == "HostPath") == (self.path is not None),
        ),
        Rule(
            "self.type == 'PersistentVolume' || !has(self.storageClassName)",
            "storageClassName belongs to cache type PersistentVolume",
            lambda self: self.type == "PersistentVolume" or self.storage_class_name is None,
        ),
    )

    type: Literal["EmptyDir", "PersistentVolume", "HostPath"] = "EmptyDir"
    """EmptyDir is lost with the pod, PersistentVolume is a claim per replica, HostPath a folder of
    the node."""
    size: Quantity = "20Gi"
    """Size of the claim, limit of the EmptyDir."""
    storage_class_name: ObjectName | None = None
    """Storage class of the claim; omitted takes the cluster's default."""
    path: HostPath | None = None
    """Folder on the node, for HostPath."""


class TopologySpread(Spec):
    """How replicas spread over the cluster."""

    over: Annotated[tuple[LabelKey, ...], Field(max_length=4)] = ("kubernetes.io/hostname",)
    """Node labels to spread over."""
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"
    """What happens when they cannot be."""


class SLEDServerSpec(Spec):
    """What is wanted of a verifier."""

    rules = (
        Rule(
            "self.engine.kind in ['OpenAI', 'Fake'] || has(self.model.source)",
            "model.source is needed by every engine kind but OpenAI and Fake",
            lambda self: self.engine.kind in ("OpenAI", "Fake") or self.model.source is not None,
        ),
        Rule(
            "self.engine.kind != 'LlamaCpp' || !has(self.model.source) ||"
            " !self.model.source.startsWith('hf://') || self.model.source.contains('.gguf')",
            "engine kind LlamaCpp needs one GGUF file: hf://org/repo/file.gguf",
            lambda self: (
                self.engine.kind != "LlamaCpp"
                or self.model.source is None
                or not self.model.source.startswith("hf://")
                or ".gguf" in self.model.source
            ),
        ),
        Rule(
            "!(self.engine.kind in ['VLLM', 'Torch']) || !has(self.model.source) ||"
            " !(self.model.source.startsWith('s3://') || self.model.source.contains('.gguf'))",
            "engine kinds VLLM and Torch need a folder: hf://org/repo, oci://, pvc:// or file://",
            lambda self: (
                self.engine.kind not in ("VLLM", "Torch")
                or self.model.source is None
                or not (self.model.source.startswith("s3://") or ".gguf" in self.model.source)
            ),
        ),
        Rule(
            "self.engine.kind != 'OpenAI' || has(self.model.vocabulary)",
            "engine kind OpenAI needs model.vocabulary: devices compare theirs with it",
            lambda self: self.engine.kind != "OpenAI" or self.model.vocabulary is not None,
        ),
        Rule(
            "self.engine.kind != 'VLLM' || self.gpu.count > 0",
            "engine kind VLLM needs gpu.count of at least 1",
            lambda self: self.engine.kind != "VLLM" or self.gpu.count > 0,
        ),
        Rule(
            "self.cache == oldSelf.cache",
            "cache is immutable, because the volume claims of running replicas are: delete "
            "and recreate the SLEDServer",
        ),
    )

    model: TargetModel
    """The target model."""
    engine: Engine = Field(default_factory=Engine)
    """What runs it."""
    batching: Batching = Field(default_factory=Batching)
    """How drafts share a step."""
    image: Image | None = None
    """Verifier image; omitted takes the operator's default."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    image_pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=16)] = ()
    """Names of Secrets of type kubernetes.io/dockerconfigjson."""
    resources: Resources = Field(default_factory=Resources)
    """Compute resources of the verifier container."""
    gpu: Gpu = Field(default_factory=Gpu)
    """GPUs of each replica."""
    node_selector: NodeLabels = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Tolerations = ()
    """Taints that the pods tolerate."""
    topology_spread: TopologySpread = Field(default_factory=TopologySpread)
    """How replicas spread over the cluster."""
    cache: Cache = Field(default_factory=Cache)
    """Where downloaded models are kept."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Replicas while autoscaling.mode is None."""
    autoscaling: Autoscaling = Field(default_factory=Autoscaling)
    """Replicas that follow the load."""
    tls: Tls = Field(default_factory=Tls)
    """Encryption between devices and verifier."""
    auth: Auth = Field(default_factory=Auth)
    """How devices prove who they are."""
    exposure: Exposure = Field(default_factory=Exposure)
    """How devices reach the verifier."""
    network_policy: Literal["Managed", "None"] = "Managed"
    """Managed lets in the gRPC port and the metrics port, and nothing else."""
    service_monitor: Literal["Auto", "None"] = "Auto"
    """Auto makes a ServiceMonitor when the cluster knows that kind."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 20
    """How long a replica that stops lets devices move elsewhere."""
    log_level: LogLevel = "info"
    """Least severity that is logged."""
    pod_template: PodTemplate = Field(default_factory=dict)
    """Partial PodTemplateSpec, merged strategically over what the operator builds."""


class SLEDServer(Spec):
    """One target model and the replicas that verify the drafts of a fleet with it."""

    metadata: Metadata
    spec: SLEDServerSpec
