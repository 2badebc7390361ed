"""HorizontalPodAutoscaler of a SLEDServer, for those who scale with their own metrics adapter.
Pure."""

from __future__ import annotations

from typing import Any

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.spec import SLEDServer
from sled_operator.spec.autoscaling import ScaleBehavior

Json = dict[str, Any]
METRIC = "sled_queue_depth"


def horizontal_pod_autoscaler(server: SLEDServer) -> Manifest:
    """The HPA on the pods metric `sled_queue_depth`, with the behavior of the resource."""
    scaling = server.spec.autoscaling
    spec: Json = {
        "scaleTargetRef": {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": server.metadata.name,
        },
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": METRIC},
                    "target": {
                        "type": "AverageValue",
                        "averageValue": str(scaling.target_queue_depth),
                    },
                },
            }
        ],
        "behavior": {
            "scaleUp": _rules(scaling.scale_up),
            "scaleDown": _rules(scaling.scale_down),
        },
    }
    return manifest(
        server_owner(server),
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        server.metadata.name,
        {"spec": spec},
    )


def _rules(behavior: ScaleBehavior) -> Json:
    policies = [
        {"type": kind, "value": value, "periodSeconds": behavior.period_seconds}
        for kind, value in (
            ("Pods", behavior.max_replicas_per_period),
            ("Percent", behavior.max_percent_per_period),
        )
        if value
    ]
    rules: Json = {"stabilizationWindowSeconds": behavior.stabilization_seconds}
    return rules | ({"policies": policies, "selectPolicy": "Max"} if policies else {})
