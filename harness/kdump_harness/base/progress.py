"""Shows progress: one live line on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

from rich.console import Console as RichConsole
from rich.status import Status

from .clock import now_s, raise_if_stopped


class QuietConsole(RichConsole):
    """A console that says nothing more once its reader has ended (as in "| head"): the exit status stays the verb's."""

    def on_broken_pipe(self) -> None:
        """Discard what follows, also what Python writes at its exit; rich would end with status 1."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


err = QuietConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # ":ab:" in a MAC is not an emoji


STILL_S = 60.0  # the longest silence of a log during a step


class _Here(threading.local):
    """The progress of one thread: of a job among several, or of the only one."""

    label = ""
    show: Callable[[str], None] | None = None  # shows the job's step; None: on a separate line
    text = ""
    usual = ""
    since_s = 0.0
    said_s = 0.0  # the last line of this thread


class Progress:
    """The narrator of a run."""

    def __init__(self, *, quiet: bool = False, write: Callable[[str], None] | None = None) -> None:
        """Write gets plain lines, as those of a log; without it they go to standard error."""
        self.quiet = quiet
        self._write = write
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

    @property
    def _is_log(self) -> bool:
        return self._write is not None or not err.is_terminal

    def _print(self, text: str) -> None:
        self._here.said_s = now_s()
        if self._write is not None:
            self._write(text)
        else:
            err.print(text, markup=False)

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            self._print(self._labelled(text))

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
        if not self.quiet and self._is_log:
            self._print(f"  {self._labelled(text)} ...")  # in a log, the start names the step
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
        if not self.quiet and not (here.show is not None and not self._is_log):  # there several would scroll by
            self._print(f"  {self._labelled(text)}: {now_s() - started_s:.1f} s")

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
        elif self._is_log:
            if now_s() - here.said_s >= STILL_S:  # a service of CI ends a job that is silent for minutes
                self._print(f"  {self._labelled(line)}")
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
