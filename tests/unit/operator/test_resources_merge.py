from __future__ import annotations

from sled_operator.resources.merge import merge

BASE = {
    "spec": {
        "containers": [
            {"name": "main", "image": "a", "env": [{"name": "A", "value": "1"}], "args": ["x", "y"]}
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "hostNetwork": False,
    }
}


def test_named_lists_merge_by_name_and_others_are_replaced() -> None:
    patch = {
        "spec": {
            "containers": [
                {"name": "main", "env": [{"name": "B", "value": "2"}], "args": ["z"]},
                {"name": "sidecar", "image": "b"},
            ]
        }
    }
    first, second = merge(BASE, patch)["spec"]["containers"]
    assert first["image"] == "a"
    assert [item["name"] for item in first["env"]] == ["A", "B"]
    assert first["args"] == ["z"]
    assert second == {"name": "sidecar", "image": "b"}


def test_null_removes_and_directives_are_obeyed() -> None:
    patch = {
        "spec": {
            "hostNetwork": None,
            "volumes": [{"name": "tmp", "$patch": "delete"}],
            "securityContext": {"$patch": "replace", "runAsUser": 1},
        }
    }
    spec = merge(BASE, patch)["spec"]
    assert "hostNetwork" not in spec
    assert spec["volumes"] == []
    assert spec["securityContext"] == {"runAsUser": 1}


def test_the_base_is_never_changed() -> None:
    before = repr(BASE)
    merge(BASE, {"spec": {"containers": [{"name": "main", "image": "other"}]}})
    assert repr(BASE) == before
