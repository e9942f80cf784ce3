"""QEMU's user networking: a guest reaches the outside without rights of this user, and is reached by a forwarded port.

libvirt has no element for a forwarded port of this kind, so QEMU's monitor is asked. The name of a network card's
backend there is that of the card in libvirt: net0 has hostnet0.
"""

from __future__ import annotations

import re
from typing import Any

import libvirt
import libvirt_qemu

from ...base.errors import HostError
from .libvirt_call import first_line

LOOPBACK = "127.0.0.1"  # other hosts cannot reach the forwarded port
_BACKEND = "hostnet0"  # of the first card


def forward(handle: Any, name: str, port: int) -> tuple[str, int]:
    """Forward a free TCP port of the guest host to PORT of the first card; return its address and number.

    HostError if this QEMU has no user networking. The system chooses the port, so that no other program can take it.
    """
    try:
        refusal = _monitor(handle, f"hostfwd_add {_BACKEND} tcp:{LOOPBACK}:0-:{port}").strip()
        shown = _monitor(handle, "info usernet")
    except libvirt.libvirtError as error:
        raise HostError(f"{name}: QEMU's monitor cannot be asked for a forwarded port: {first_line(error)}") from None
    forwarded = forwarded_port(shown, port)
    if refusal or forwarded is None:
        said = refusal.splitlines()[0] if refusal else "it shows no forwarded port"
        raise HostError(f"{name}: QEMU forwards no port to the guest: {said}")
    return LOOPBACK, forwarded


def forwarded_port(shown: str, port: int) -> int | None:
    """Return the port of the guest host that leads to PORT of a guest, from the output of `info usernet`."""
    found = re.search(rf"TCP\[HOST_FORWARD\]\s+\S+\s+{re.escape(LOOPBACK)}\s+(\d+)\s+\S+\s+{port}\s", shown)
    return int(found.group(1)) if found else None


def _monitor(handle: Any, command: str) -> str:
    """Return the answer of QEMU's monitor to a command for people; it has no other one for this."""
    return str(libvirt_qemu.qemuMonitorCommand(handle, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP))
