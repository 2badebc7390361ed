"""Whether a library is the build that the declarations describe. Pure: takes field values, returns
a sentence or None.
"""

from __future__ import annotations

from collections.abc import Mapping

from sled_llamacpp.declarations import DEFAULTS


def first_difference(struct: str, found: Mapping[str, object]) -> str | None:
    """Name the first field of `struct` whose default is not the pinned build's, or None when all
    agree.

    `found` maps every field to its value; pointers are given as True (set) or None (NULL) and must
    be NULL.
    """
    expected = DEFAULTS[struct]
    for field, value in found.items():
        want = expected.get(field)
        if value != want or isinstance(value, bool) != isinstance(want, bool):
            return f"{struct}.{field} defaults to {value!r} where the pinned build has {want!r}"
    missing = [field for field in expected if field not in found]
    return f"{struct} has no field {missing[0]}" if missing else None
