"""Tells people what goes on: one live line on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console as RichConsole
from rich.status import Status

from .timing import now_s

err = RichConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # ":ab:" in a MAC is no emoji


class Progress:
    """The narrator of a run."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._status: Status | None = None
        self._text = ""
        self._usual = ""
        self._since_s = now_s()

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            err.print(text, markup=False)

    @contextlib.contextmanager
    def step(self, text: str, *, usual_s: float | None = None) -> Iterator[None]:
        """Show text with its clock while the block runs, and how long it took afterwards."""
        started_s = now_s()
        before = (self._text, self._usual, self._since_s)
        self._text, self._since_s = text, started_s
        self._usual = f", usually {usual_s:.0f} s" if usual_s else ""
        if not self.quiet and not err.is_terminal:
            err.print(f"  {text} ...", markup=False)  # in a log the start tells what is waited for
        self._show()
        try:
            yield
        except BaseException:
            self._text, self._usual, self._since_s = before
            self._hide()
            raise
        self._text, self._usual, self._since_s = before
        if self._text:
            self._show()
        else:
            self._hide()
        if not self.quiet:
            err.print(f"  {text}: {now_s() - started_s:.1f} s", markup=False)

    def detail(self, text: str) -> None:
        """Something that changes within the step."""
        self._show(text)

    def bytes(self, done: int, total: int | None) -> None:
        """How much of a download is there."""
        self.detail(f"{done >> 20} of {total >> 20} MiB" if total else f"{done >> 20} MiB")

    def tick(self) -> None:
        """Let the clock of the step run."""
        self._show()

    def _show(self, detail: str = "") -> None:
        if self.quiet or not err.is_terminal or not self._text:
            return
        line = f"{self._text} {now_s() - self._since_s:.0f} s{self._usual}{'  ' + detail if detail else ''}"
        if self._status is None:
            self._status = err.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def _hide(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def console_echo(data: bytes) -> None:
    """Show the guest's console as it comes (-v), without letting it drive the user's terminal."""
    text = data.decode("utf-8", errors="replace")
    sys.stderr.write("".join(c for c in text if c.isprintable() or c in "\n\t"))
    sys.stderr.flush()
