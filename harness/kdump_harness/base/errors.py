"""The exception tree and exit codes, split by who must act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXIT_OK = 0
EXIT_FAILED = 1  # the judged thing failed: no verified dump, a damaged file, a regression
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_BROKEN = 4
EXIT_UNJUDGED = 5  # nothing was found wrong, but the file cannot be judged: another format, a machine that is not known


class HarnessError(Exception):
    """Anything that stops the harness; says what was seen, what to do, and where the rest is."""

    exit_code = EXIT_BROKEN

    def __init__(self, message: str, *, see: Path | str | None = None) -> None:
        super().__init__(message)
        self.see = see

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n  see {self.see}" if self.see is not None else text


class Stopped(BaseException):
    """A job among several has to end, because the run was interrupted or another job broke; it is not reported."""


class UsageError(HarnessError):
    """The user asked for something that does not exist or makes no sense; change the request."""

    exit_code = EXIT_USAGE


class TableError(UsageError):
    """A TOML table of the harness or the user is invalid; the message names file, row and key."""


class HostError(HarnessError):
    """The host is unfit (no libvirt, no space); fix the host."""

    exit_code = EXIT_HOST


class NoVerdict(HarnessError):
    """The harness broke before there was a verdict; report it, or run again."""


class GuestError(NoVerdict):
    """The guest did not do what every healthy guest does (boot, log in); look at its console."""


class WaitedInVain(GuestError):
    """A wait ran out of time; the message gives its object, duration and number of looks."""


class ConsoleLost(GuestError):
    """The serial line ended: the domain is gone or libvirt dropped the stream."""


class UnexpectedPanic(GuestError):
    """The guest panicked unexpectedly."""


class CommandFailed(GuestError):
    """A command in the guest or on the host returned non-zero where zero was needed."""


class NotArmed(CommandFailed):
    """The guest's kdump did not load its capture kernel; a drill makes a verdict of it."""

    def __init__(self, reason: str, *, said: str, see: Path | str | None = None) -> None:
        super().__init__(f"{reason}; its status says: {said}", see=see)
        self.reason = reason
        self.said = said  # by the service's status
        self.state: Any = None  # of the guest (guest_state.GuestState), where it was asked
