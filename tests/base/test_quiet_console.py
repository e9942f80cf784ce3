"""Output whose reader has ended."""

from __future__ import annotations

import os

from kdump_harness.base.progress import QuietConsole


def test_a_reader_that_has_ended_does_not_change_the_exit_status() -> None:
    """As in "kdump-harness drill | head -1": the status is that of the verdict, and nothing is printed any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        console = QuietConsole(file=file)
        console.print("an unread line")
        console.print("another one")
    assert console.quiet
