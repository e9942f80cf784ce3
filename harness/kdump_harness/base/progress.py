"""Shows progress: one live line on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from rich.console import Console as RichConsole
from rich.status import Status

from .clock import now_s, raise_if_stopped

err = RichConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # ":ab:" in a MAC is not an emoji


class _Here(threading.local):
    """The progress of one thread: of a job among several, or of the only one."""

    label = ""
    show: Callable[[str], None] | None = None  # shows the job's step; None: on a separate line
    text = ""
    usual = ""
    since_s = 0.0


class Progress:
    """The narrator of a run."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._status: Status | None = None
        self._here = _Here()

    @contextlib.contextmanager
    def job(self, label: str, show: Callable[[str], None]) -> Iterator[None]:
        """Within the block, this thread reports one job among several; show gets its step, with a clock."""
        self._here.label, self._here.show = label, show
        try:
            yield
        finally:
            self._here.label, self._here.show = "", None

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            err.print(self._labelled(text), markup=False)

    def _labelled(self, text: str) -> str:
        label = self._here.label
        return f"{label}: {text.strip()}" if label and not text.startswith(label) else text

    @contextlib.contextmanager
    def step(self, text: str, *, usual_s: float | None = None) -> Iterator[None]:
        """Show text with its clock while the block runs, and how long it took afterwards."""
        raise_if_stopped()
        here, started_s = self._here, now_s()
        before = (here.text, here.usual, here.since_s)
        here.text, here.since_s = text, started_s
        here.usual = f", usually {usual_s:.0f} s" if usual_s else ""
        if not self.quiet and not err.is_terminal:
            err.print(f"  {self._labelled(text)} ...", markup=False)  # in a log, the start names the step
        self._show()
        try:
            yield
        except BaseException:
            here.text, here.usual, here.since_s = before
            self._hide()
            raise
        here.text, here.usual, here.since_s = before
        if here.text:
            self._show()
        else:
            self._hide()
        if not self.quiet and not (here.show is not None and err.is_terminal):  # there several would scroll by
            err.print(f"  {self._labelled(text)}: {now_s() - started_s:.1f} s", markup=False)

    def detail(self, text: str) -> None:
        """Something that changes within the step."""
        raise_if_stopped()
        self._show(text)

    def bytes(self, done: int, total: int | None) -> None:
        """How much of a download is there."""
        self.detail(f"{done >> 20} of {total >> 20} MiB" if total else f"{done >> 20} MiB")

    def tick(self) -> None:
        """Let the clock of the step run; Stopped where its job is to end."""
        raise_if_stopped()
        self._show()

    def _show(self, detail: str = "") -> None:
        here = self._here
        if self.quiet or not here.text:
            return
        line = f"{here.text} {now_s() - here.since_s:.0f} s{here.usual}{'  ' + detail if detail else ''}"
        if here.show is not None:
            here.show(line)
        elif not err.is_terminal:
            return
        elif self._status is None:
            self._status = err.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def _hide(self) -> None:
        if self._here.show is not None:
            self._here.show("")
        elif self._status is not None:
            self._status.stop()
            self._status = None


def console_echo(data: bytes) -> None:
    """Show the guest's console as it comes (-v), without letting it drive the user's terminal."""
    text = data.decode("utf-8", errors="replace")
    sys.stderr.write("".join(c for c in text if c.isprintable() or c in "\n\t"))
    sys.stderr.flush()
