from __future__ import annotations

import json
import logging
import sys

import pytest

from sled_operator.__main__ import main
from sled_operator.log import JsonFormatter
from sled_operator.metrics import Metrics
from sled_operator.settings import InvalidSettings, Settings, from_environment


def test_defaults_and_overrides() -> None:
    settings = from_environment({"SLED_WORKERS": "7", "SLED_EDGE_IMAGE_L4T": "l4t:1"})
    assert settings.workers == 7
    assert settings.edge_images["l4t"] == "l4t:1"
    assert settings.identity


def test_engines_that_need_torch_have_an_image_of_their_own() -> None:
    settings = from_environment({"SLED_VERIFIER_IMAGE": "v:1", "SLED_VERIFIER_VLLM_IMAGE": "w:1"})
    found = [settings.verifier_image_of(kind) for kind in ("LlamaCpp", "OpenAI", "VLLM", "Torch")]
    assert found == ["v:1", "v:1", "w:1", "w:1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLED_WORKERS", "0"),
        ("SLED_WORKERS", "many"),
        ("SLED_HTTP_PORT", "70000"),
        ("SLED_LOG_LEVEL", "loud"),
        ("SLED_VERIFIER_IMAGE", ""),
    ],
)
def test_nonsense_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=name):
        from_environment({name: value})


def test_a_log_line_is_json_with_its_extras() -> None:
    record = logging.makeLogRecord(
        {"msg": "applied %s", "args": ("x",), "name": "n", "levelname": "INFO", "kind": "Service"}
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["kind"], line["level"]) == ("applied x", "Service", "info")


def test_an_exception_is_in_the_line() -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    assert "ValueError: bad" in json.loads(JsonFormatter().format(record))["exception"]


def test_looks_are_counted_by_kind_and_result() -> None:
    metrics = Metrics()
    metrics.done(("SLEDServer", "ns", "a"), 0.1, None)
    metrics.done(("SLEDServer", "ns", "b"), 0.1, "Retry")
    value = metrics.registry.get_sample_value
    labels = {"kind": "SLEDServer", "result": "Retry"}
    assert value("sled_operator_reconciles_total", labels) == 1


def test_help_names_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sled-operator", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"SLED_{name.upper()} " in shown for name in Settings.__slots__)
