"""Calls to libvirt: error messages, guest errors, and calls that take seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from ...base.errors import GuestError

# libvirt reports these while a domain is on its way out.
GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)


def first_line(error: Any) -> str:
    """libvirt's message without the repetition that QEMU's output adds."""
    return str(error.get_error_message() or error).strip().splitlines()[0]


@contextlib.contextmanager
def guest_error(what: str) -> Iterator[None]:
    """Turn libvirt's exception into ours."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise GuestError(f"{what}: {first_line(error)}") from None


def in_background(call: Callable[[], object], tick: Callable[[], None] | None) -> None:
    """A call to libvirt that takes seconds, with a sign of life meanwhile; raises what the call raised.

    It has ended when this returns, also when Ctrl-C came: what it makes must not appear after we have cleaned up.
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
