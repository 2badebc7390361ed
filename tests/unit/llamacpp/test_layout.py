"""Does a library of another build get noticed?"""

from __future__ import annotations

import pytest

from sled_llamacpp.declarations import DEFAULTS, FUNCTIONS
from sled_llamacpp.layout import first_difference

STRUCT = "llama_context_params"


def test_the_pinned_defaults_agree() -> None:
    for struct, fields in DEFAULTS.items():
        assert first_difference(struct, {**fields, "some_pointer": None}) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_ctx", 4096), ("yarn_ext_factor", 1.0), ("kv_unified", True), ("abort_callback", True)],
)
def test_a_shifted_field_is_named(field: str, value: object) -> None:
    sentence = first_difference(STRUCT, {**DEFAULTS[STRUCT], field: value})
    assert sentence is not None
    assert f"{STRUCT}.{field} defaults to {value!r}" in sentence


def test_a_number_is_no_boolean() -> None:
    sentence = first_difference(STRUCT, {**DEFAULTS[STRUCT], "offload_kqv": 1})
    assert sentence is not None


def test_a_missing_field_is_named() -> None:
    fields = dict(DEFAULTS[STRUCT])
    del fields["n_ubatch"]
    assert first_difference(STRUCT, fields) == f"{STRUCT} has no field n_ubatch"


def test_all_declared_functions_are_listed() -> None:
    assert "llama_decode" in FUNCTIONS
    assert "llama_log_set" in FUNCTIONS
    assert len(FUNCTIONS) == len(set(FUNCTIONS)) > 30
