"""The serial console of a guest: lines, waits, and unexpected panics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pexpect

from ..base.clock import Deadline, now_s
from ..base.errors import ConsoleLost, UnexpectedPanic, WaitedInVain
from .hypervisor.byte_queue import ByteQueue

PANIC = re.compile(r"Kernel panic - not syncing: .+")
# Messages of kernel and services may follow a prompt on its line before it is read.
LOGIN = re.compile(r"^[\w.-]+ login: ?(?=$|\[)")
# One pattern: a second one, for the prompt alone, would search all that has arrived again for each line.
# busybox asks the terminal for the cursor's position (ESC [6n) after its prompt.
# A getty's prompt has no line end; ordinary lines with "login:" have one.
# Anchored: a progress bar is a line of many kilobytes, and a search from each of its bytes took seconds.
_LINE_OR_PROMPT = re.compile(
    rb"\A(?:[^\n]*(\n)"
    rb"|[^\n]*?(?:[\w.-]+ login: |\(initramfs\) (?:\x1b\[6n)?|kdump:/[^\r\n]{0,80}# |sh-\d[^\r\n]{0,20}# )$)"
)
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78cDM])")
TICK_S = 0.5
_PENDING_BYTES = 400  # a progress bar is one very long line, of which only the last state counts


@dataclass(frozen=True)
class ConsoleLine:
    """One line of the console, without control sequences, and its time of completion."""

    text: str
    at_s: float  # monotonic clock
    prompt: bool = False  # whether the line is a prompt without a line end


class Console:
    """The serial console of one guest, read line by line."""

    def __init__(self, name: str, source: ByteQueue, *, see: Any = None) -> None:
        self.name = name
        self._source = source
        self.see = see
        self._panic_expected = False
        self._on_line: list[Callable[[ConsoleLine], None]] = []
        self.last_line = ""
        self.pending = ""  # end of the incomplete line at the last read

    def subscribe(self, listener: Callable[[ConsoleLine], None]) -> Callable[[], None]:
        """Pass every line to LISTENER from now on; return the function that ends this."""
        self._on_line.append(listener)
        return lambda: self._on_line.remove(listener)

    @property
    def silent_s(self) -> float:
        """Seconds since the arrival of the last byte, read or unread."""
        return now_s() - self._source.last_byte_s

    @contextmanager
    def expecting_panic(self) -> Iterator[None]:
        """Within the block, a panic is expected and not an error."""
        before, self._panic_expected = self._panic_expected, True
        try:
            yield
        finally:
            self._panic_expected = before

    def read_line(self, *, timeout_s: float) -> ConsoleLine | None:
        """Return the next line or prompt, or None if none is complete within TIMEOUT_S.

        Raises ConsoleLost at the end of the serial line and UnexpectedPanic outside expecting_panic().
        """
        which = self._source.expect_list([_LINE_OR_PROMPT, pexpect.TIMEOUT, pexpect.EOF], timeout=timeout_s)
        if which == 1:
            self.pending = clean(self._source.before[-_PENDING_BYTES:])
            return None
        self.pending = ""
        if which == 2:
            if self._source.failure is not None:
                raise self._source.failure
            raise ConsoleLost(f"{self.name}: the serial line ended; its last line was {self.last_line!r}", see=self.see)
        found: re.Match[bytes] = self._source.match
        line = ConsoleLine(clean(found.group()), self._source.arrived_s, prompt=found.group(1) is None)
        if line.text:
            self.last_line = line.text
        for listener in self._on_line:
            listener(line)
        if not self._panic_expected and (panic := PANIC.search(line.text)):
            raise UnexpectedPanic(f"{self.name}: unexpected panic: {panic.group()}", see=self.see)
        return line

    def drain(self) -> None:
        """Read the lines that have arrived, without waiting."""
        while self.read_line(timeout_s=0) is not None:
            pass

    def wait_for(
        self,
        what: str,
        pattern: str,
        *,
        timeout_s: float,
        silence_s: float | None = None,
        stretch: Callable[[], float] = lambda: 1.0,
        give_up: Callable[[ConsoleLine], str | None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> ConsoleLine:
        """Return the first line that PATTERN matches.

        SILENCE_S bounds the time without a single byte, from the call on. STRETCH returns the current factor for both
        times; they grow with it. GIVE_UP returns, for a line, why the pattern cannot follow any more. Raises
        WaitedInVain, ConsoleLost or UnexpectedPanic.
        """
        wanted = re.compile(pattern)
        deadline, began_s = Deadline(timeout_s * (stretched := stretch())), now_s()
        while not deadline.passed:
            if (now := stretch()) > stretched:
                deadline.timeout_s, stretched = timeout_s * now, now
            line = self.read_line(timeout_s=min(TICK_S, deadline.left_s))
            if tick is not None:
                tick()
            if line is None:
                silent_s = min(self.silent_s, now_s() - began_s)
                if silence_s is not None and silent_s > silence_s * stretched:
                    raise WaitedInVain(
                        f"{self.name}: no {what}: the console has been silent for {silent_s:.0f} s"
                        f" after {self.last_line!r}",
                        see=self.see,
                    )
                continue
            if wanted.search(line.text):
                return line
            if give_up is not None and (reason := give_up(line)):
                raise WaitedInVain(f"{self.name}: no {what}: {reason}", see=self.see)
        raise WaitedInVain(
            f"{self.name}: no {what} in {deadline.timeout_s:.0f} s; the last line was {self.last_line!r}", see=self.see
        )


def clean(raw: bytes) -> str:
    """Return the text of a line without control sequences; of a progress bar, its last state."""
    text = _ANSI.sub("", raw.decode("utf-8", errors="replace")).rstrip("\r\n")
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part.strip()), "")
    return "".join(character for character in text if character.isprintable() or character == "\t")
