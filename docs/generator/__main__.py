"""Writes the generated pages of docs/reference and the figures of the README, so that they cannot drift; `--check` compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import configuration_page
import metrics_page
import recording_image
import results_block
import scenarios_block
import servers_block

REFERENCE = Path(__file__).parent.parent / "reference"
ROOT = REFERENCE.parent.parent
PAGES = {"configuration.md": configuration_page.page, "metrics.md": metrics_page.page}


def main() -> int:
    """Write the pages, or compare them; 1 = one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    status = 0
    readme = ROOT / "README.md"
    texts = {REFERENCE / name: page() for name, page in PAGES.items()}
    results = ROOT / "bench" / "results"
    text = results_block.refreshed(readme.read_text(encoding="utf-8"), results)
    texts[readme] = servers_block.refreshed(text, results)
    scenarios = ROOT / "docs" / "how-to" / "end-to-end-tests.md"
    texts[scenarios] = scenarios_block.refreshed(
        scenarios.read_text(encoding="utf-8"), results / "e2e.json"
    )
    recording = ROOT / "docs" / "tutorials" / "first-cluster.cast"
    if recording.exists():
        texts[recording.with_suffix(".svg")] = recording_image.image(recording)
    for target, text in texts.items():
        if not check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            print(f"{target.relative_to(ROOT)} is out of date: run `make docs`", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
