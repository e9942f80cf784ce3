"""The page of shapes is generated from the tables and from recorded drills."""

from __future__ import annotations

from typing import Any

from shapes_page import PAGE, SIZE_PAGE, load_records, page, read_size, read_verdict

VERDICT: dict[str, Any] = {
    "shapes": ["usb-disk"], "image": "debian-12", "kernel": "6.1.0-57-amd64", "accelerator": "tcg",
    "started": "2026-11-30T15:00:00+00:00", "verified": False, "reserved_mib": 256,
    "foreseen": [{"place": "root", "piece": "USB disk", "lacks": "usbcore.nousb", "remedy": "r"}],
    "symptoms": [{"name": "root-not-found", "severity": "failure"}, {"name": "x", "severity": "info"}],
    "checks": [{"name": "single-dump", "ok": False}, {"name": "capture-image", "ok": False}],
    "stopped_by": None, "capture_memory": {"used_kib": 102400}, "phases_s": {"panic_to_login": 61.26},
}  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    for path in (PAGE, SIZE_PAGE):
        text = path.read_text(encoding="utf-8")
        assert page(text, *load_records()) == text, "run python docs/generate/shapes_page.py"


def test_a_verdict_becomes_a_row_with_what_was_foreseen_and_what_happened() -> None:
    drill = read_verdict(VERDICT)
    text = page("<!-- drills -->\nold\n<!-- end -->\n", [drill])
    assert text.splitlines()[1] == (
        "Drills that were verified: 0, with a wrong warning: 0. Drills that were not: 1, foreseen: 1 (100%)."
    )
    assert text.splitlines()[5] == (
        "| `usb-disk` | debian-12, 6.1.0-57-amd64 | **not verified** | USB disk: usbcore.nousb |"
        " root-not-found; single-dump | 100 of 256 MiB | 61 s (tcg) |"
    )
    shapes = page("<!-- shapes -->\n<!-- end -->", [drill])
    assert "controller. | all | not verified, foreseen | 100 of 256 MiB | 61 s (tcg) |\n" in shapes
    verified = read_verdict({**VERDICT, "verified": True, "foreseen": [], "capture_memory": None})
    assert "| verified |  |  |  | 61 s (tcg) |" in page("<!-- drills -->\n<!-- end -->", [verified])


def sized(shapes: str, smallest_mib: int, **changes: Any) -> dict[str, Any]:
    sizing = {"smallest_mib": smallest_mib, "measured": {"used_kib": 92160}}
    return {**VERDICT, "asked": {"--shape": shapes}, "step_mib": 16, "sizings": [sizing], **changes}


def test_the_need_of_a_shape_is_over_that_of_the_plain_guest_with_its_kernel() -> None:
    sizes = [
        read_size(sized("lab-own", 96)),
        read_size(sized("usb-disk", 112)),
        read_size(sized("lvm", 99, kernel="7")),
    ]
    assert sizes[0].shapes == ()
    assert page("<!-- shape sizes -->\n<!-- end -->\n", [], sizes).splitlines()[3:-1] == [
        "| debian-12, 6.1.0-57-amd64 | none | 90 MiB | 96 MiB (80 MiB: too small) |  |",
        "| debian-12, 6.1.0-57-amd64 | `usb-disk` | 90 MiB | 112 MiB (96 MiB: too small) | +16 MiB |",
        "| debian-12, 7 | `lvm` | 90 MiB | 99 MiB (83 MiB: too small) |  |",
    ]
