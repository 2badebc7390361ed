"""Writes the generated pages of docs/reference, so that they cannot drift from the code; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import configuration_page
import metrics_page

REFERENCE = Path(__file__).parent.parent / "reference"
PAGES = {"configuration.md": configuration_page.page, "metrics.md": metrics_page.page}


def main() -> int:
    """Write the pages, or compare them; 1 = one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    status = 0
    for name, page in PAGES.items():
        target, text = REFERENCE / name, page()
        if not check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            print(f"docs/reference/{name} is out of date: run `make docs`", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
