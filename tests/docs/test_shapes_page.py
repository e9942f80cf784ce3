"""The page of shapes is generated from the tables and from recorded drills."""

from __future__ import annotations

from typing import Any

from shapes_page import PAGE, load_drills, page, read_verdict

VERDICT: dict[str, Any] = {
    "shapes": ["usb-disk"], "image": "debian-12", "kernel": "6.1.0-57-amd64", "accelerator": "tcg",
    "started": "2026-11-30T15:00:00+00:00", "verified": False, "reserved_mib": 256,
    "foreseen": [{"place": "root", "piece": "USB disk", "lacks": "usbcore.nousb", "remedy": "r"}],
    "symptoms": [{"name": "root-not-found", "severity": "failure"}, {"name": "x", "severity": "info"}],
    "checks": [{"name": "single-dump", "ok": False}, {"name": "capture-image", "ok": False}],
    "stopped_by": None, "capture_memory": {"used_kib": 102400}, "phases_s": {"panic_to_login": 61.26},
}  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, load_drills()) == text, "run python docs/generate/shapes_page.py"


def test_a_verdict_becomes_a_row_with_what_was_foreseen_and_what_happened() -> None:
    drill = read_verdict(VERDICT)
    text = page("<!-- drills -->\nold\n<!-- end -->\n", [drill])
    assert text.splitlines()[1] == (
        "Drills that were verified: 0, with a wrong warning: 0. Drills that were not: 1, foreseen: 1."
    )
    assert text.splitlines()[5] == (
        "| `usb-disk` | debian-12, 6.1.0-57-amd64 | **not verified** | USB disk: usbcore.nousb |"
        " root-not-found; single-dump | 100 of 256 MiB | 61 s (tcg) |"
    )
    shapes = page("<!-- shapes -->\n<!-- end -->", [drill])
    assert "controller. | all | not verified, foreseen |\n" in shapes
    verified = read_verdict({**VERDICT, "verified": True, "foreseen": [], "capture_memory": None})
    assert "| verified |  |  |  | 61 s (tcg) |" in page("<!-- drills -->\n<!-- end -->", [verified])
