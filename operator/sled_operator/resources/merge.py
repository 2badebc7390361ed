"""Strategic merge of a partial pod template over a built one, as `kubectl patch` would do it.

Lists of named things merge by their key; other lists are replaced; null removes a field;
`$patch: delete` removes a list element, `$patch: replace` replaces a mapping. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `patch` over it; neither is changed."""
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            below = result.get(name)
            result[name] = merge(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list):
            result[name] = _merge_list(result.get(name), value, _KEYS.get(name))
        else:
            result[name] = value
    return result


def _merge_list(base: Any, patch: Sequence[Any], key: str | None) -> list[Any]:
    named = key is not None and all(isinstance(item, Mapping) and key in item for item in patch)
    if not named or key is None:
        return list(patch)
    result = list(base) if isinstance(base, list) else []
    for item in patch:
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(dict(item))
        else:
            result[at] = merge(result[at], item)
    return result
