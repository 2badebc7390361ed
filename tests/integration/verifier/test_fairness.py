"""Sixty-four devices on one verifier process: nobody starves, memory and queues stay bounded, every
text is right.

The ten-minute run of the same is `python -m sled_testkit.soak --minutes 10`.
"""

from __future__ import annotations

from pathlib import Path

from sled_testkit.soak import SoakPlan, run_soak


async def test_64_devices_share_one_verifier(tmp_path: Path) -> None:
    """Ends after a number of tokens, so that a slow machine takes longer but sees the same work."""
    report = await run_soak(
        SoakPlan(devices=64, output_tokens=24_000, sample_seconds=0.5), tmp_path
    )
    figures = report.figures()
    assert report.texts > 200, figures
    assert report.texts_differing == 0, figures
    assert report.worst_share >= 0.5, figures
    assert report.vanished > 0, figures
    assert max(report.sequences) <= 64 * 4, figures
    assert max(report.queue) <= 64 * 4, figures
    assert report.left_sequences == report.left_devices == 0, figures
    assert report.rss_growth_mib < 16, figures
