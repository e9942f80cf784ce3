"""A large log that is read with Hyperscan gives the same boots as one of which every line is read."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from kdump_harness.diagnosis import diagnose_file, load_symptoms
from kdump_harness.diagnosis.boots import Boot, Tracker
from kdump_harness.diagnosis.scan import Scanner
from test_diagnosis_modes import CAPTURING, NEXT_BOOT, REDHAT_SAVED

pytest.importorskip("hyperscan")
CONSOLES = sorted((Path(__file__).parents[1] / "data").glob("[cd][or]*s/*.log"))
SCANNER = Scanner(load_symptoms())


def facts(tracker: Tracker) -> list[dict[str, object]]:
    """Return all that is known of the boots, but for how often and how far lines were read."""
    unlike = ("counts", "lines", "stamp_max_s")
    return [
        {field.name: getattr(boot, field.name) for field in dataclasses.fields(Boot) if field.name not in unlike}
        for boot in tracker.boots
    ]


@pytest.mark.parametrize("path", CONSOLES, ids=lambda path: path.stem)
def test_both_ways_find_the_same_boots(path: Path) -> None:
    text = path.read_bytes()
    slow = SCANNER.read_each_line(io.BytesIO(text), Tracker())
    fast = SCANNER.fast().scan(io.BytesIO(text), Tracker())
    assert facts(fast) == facts(slow)
    assert (fast.signs, fast.dropped) == (slow.signs, slow.dropped)


def test_boots_in_the_middle_of_a_large_log_are_left_out(tmp_path: Path) -> None:
    good = CAPTURING + REDHAT_SAVED + NEXT_BOOT
    oom = "[    4.0] swapper/0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
    console = tmp_path / "console.log"
    filler = "[    5.000000] nothing to see here, and nothing to keep\n" * 400
    console.write_text((good + filler) * 150 + CAPTURING + oom, encoding="utf-8")
    diagnosis = diagnose_file(console)
    lines = console.read_text(encoding="utf-8").splitlines()
    assert diagnosis.mode == "capture-oom"
    assert lines[diagnosis.symptoms[0].line_number - 1] == oom.strip()
    assert any("were left out" in note for note in diagnosis.notes)
