"""The page of kernels and makedumpfile versions is made from the records of matrices."""

from __future__ import annotations

from typing import Any

from makedumpfile_kernels import PAGE, load_drills, page


def outcome(release: str | None, makedumpfile: str | None, status: str = "verified", **more: Any) -> dict[str, Any]:
    cell = {"kernel": "sid", "level": more.pop("level", 31), "compress": "zlib", "memory_mib": 768}
    given = {"failed": [], "reason": "", "known_issue": None, **more}
    return {"release": release, "makedumpfile": makedumpfile, "status": status, "cell": cell, **given}


def test_the_worst_outcome_of_each_pair_is_in_the_table() -> None:
    issue = "https://example.org/16"
    first = [outcome("6.12.9-cloud", "1.7.10"), outcome("6.1.57-cloud", "1.7.2"), outcome("6.1.57-cloud", "1.7.10")]
    second = [
        outcome("6.12.9-cloud", "1.7.2", "known issue", failed=["filter"], known_issue=issue),
        outcome("6.12.9-cloud", "1.7.2", level=1),
        outcome(None, None, "not judged", reason="sid did not boot\nmore"),
    ]
    lines = page([{"outcomes": first}, {"outcomes": second}]).splitlines()
    assert "| kernel | 1.7.2 | 1.7.10 |" in lines
    assert lines.index("| 6.1.57-cloud | ok | ok |") < lines.index(
        "| 6.12.9-cloud | **known**: filter at -d 31; ok at -d 1 | ok |"
    )
    assert "- sid: sid did not boot" in lines
    assert f"- {issue}" in lines
    assert any("5 kernel drills" in line and "4 at dump level 31, 1 at" in line for line in lines)


def test_the_page_shows_the_drills_that_are_kept_next_to_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page([{"outcomes": load_drills()}])


def test_a_failure_that_is_known_does_not_hide_another_one() -> None:
    known = outcome("6.12.9", "1.7.2", "known issue", failed=["filter"], known_issue="https://example.org/16")
    failed = outcome("6.12.9", "1.7.2", "failed", failed=["pages"], level=1)
    assert "| 6.12.9 | **NO**: filter, pages |" in page([{"outcomes": [known, failed]}]).splitlines()
