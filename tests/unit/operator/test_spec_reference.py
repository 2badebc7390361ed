from __future__ import annotations

from pathlib import Path

import pytest

from sled_operator.conditions import Reason, Type
from sled_operator.spec.crd import KINDS, Kind
from sled_operator.spec.reference import conditions_page, page

PAGES = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_pages_are_what_the_schemas_render(kind: Kind) -> None:
    assert (PAGES / f"{kind.singular}.md").read_text(encoding="utf-8") == page(kind)


def test_every_condition_and_reason_is_documented() -> None:
    text = conditions_page()
    assert (PAGES / "conditions.md").read_text(encoding="utf-8") == text
    for member in (*Type, *Reason):
        assert f"| `{member}` |" in text
