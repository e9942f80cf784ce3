"""Calls to libvirt: error messages, guest errors, and calls that take seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from ...base.errors import GuestError

# Errors that libvirt reports while a domain ends.
GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)


def first_line(error: Any) -> str:
    """Return the first line of libvirt's message; the others repeat QEMU's output."""
    return str(error.get_error_message() or error).strip().splitlines()[0]


@contextlib.contextmanager
def guest_error(what: str) -> Iterator[None]:
    """Turn libvirt's exception into a GuestError that says what failed."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise GuestError(f"{what}: {first_line(error)}") from None


def in_background(call: Callable[[], object], tick: Callable[[], None] | None) -> None:
    """Make a call to libvirt that takes seconds, with calls of TICK meanwhile; raise the error of the call.

    The call has ended when this returns, even after Ctrl-C: a domain must not appear after the clean-up.
    """
    failed: list[Any] = []

    def work() -> None:
        try:
            call()
        except libvirt.libvirtError as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="libvirt-call", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            if tick is not None:
                tick()
    finally:
        thread.join()
    if failed:
        raise failed[0]
