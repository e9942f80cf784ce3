"""The choice between KVM and emulation, by a trial run of KVM.

An existing /dev/kvm may still abort QEMU or spin without executing an instruction (nested or filtered
virtualisation). A boot sector that prints one word to the serial line decides within seconds.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from xml.sax.saxutils import quoteattr

from ..base import foreign
from ..base.clock import utc_s
from ..base.errors import ConsoleLost, HarnessError, UsageError, WaitedInVain
from ..images.state import State
from .console import Console
from .hosts.guest_host import GuestHost
from .hypervisor.connection import PREFIX, Hypervisor

KVM, TCG = "kvm", "tcg"
DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 8.0
AGAIN_S = 3600.0  # until the next trial, since the cause may have been a busy host or libvirt
WORD = "KVM-RUNS"


def boot_sector() -> bytes:
    """Return 512 bytes of 16-bit code that writes WORD to the first serial port and halts."""
    code = bytearray()
    code += b"\xfa"  # cli
    code += b"\xba\xf8\x03"  # mov dx, 0x3f8
    for character in f"{WORD}\r\n".encode():
        code += bytes((0xB0, character, 0xEE))  # mov al, character; out dx, al
    code += b"\xf4\xeb\xfd"  # hlt; jmp back
    return bytes(code.ljust(510, b"\0") + b"\x55\xaa")


def may_not_open_kvm() -> bool:
    """Return whether /dev/kvm exists on this host, and this user may not open it."""
    return DEVICE.exists() and not os.access(DEVICE, os.R_OK | os.W_OK)


def _probe_xml(name: str, sector: Path) -> str:
    return f"""<domain type="kvm"><name>{name}</name><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="pc">hvm</type><boot dev="hd"/></os>
<cpu mode="host-passthrough"/><on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash>
<devices><disk type="file" device="disk"><driver name="qemu" type="raw"/><source file={quoteattr(str(sector))}/>
<target dev="hda" bus="ide"/></disk>
<serial type="pty"/><console type="pty"/><memballoon model="none"/></devices></domain>"""


def kvm_problem(hypervisor: Hypervisor, directory: Path, place: GuestHost) -> str | None:
    """Return why KVM cannot be used, or None if a guest ran under it; takes at most PROBE_TIMEOUT_S.

    DIRECTORY is the run's directory on this host.
    """
    if "kvm" not in hypervisor.accelerators():
        if hypervisor.is_session and may_not_open_kvm():
            return "this user may not open /dev/kvm"
        return "libvirt does not offer KVM (/dev/kvm is missing or its module is not loaded)"
    sector = directory / "kvm-probe.img"
    sector.write_bytes(boot_sector().ljust(1 << 20, b"\0"))
    sector.chmod(0o644)
    name = f"{PREFIX}{directory.name}-kvm-probe"
    try:
        probe = hypervisor.spawn_raw(name, _probe_xml(name, place.put(sector)))
    except HarnessError as error:
        # QEMU's message is the end of libvirt's message.
        return f"/dev/kvm exists, but QEMU does not start with it ({str(error).rpartition('error: ')[2]})"
    try:
        console = Console(name, probe.open_console(lambda _data: None))
        probe.resume()
        console.wait_for("word from the boot sector", WORD, timeout_s=PROBE_TIMEOUT_S)
    except WaitedInVain:
        return f"/dev/kvm exists, but the guest executed nothing within {PROBE_TIMEOUT_S:.0f} s"
    except ConsoleLost:
        return "/dev/kvm exists, but QEMU aborts as soon as the guest runs"
    finally:
        probe.destroy()
    return None


def choose(wanted: str, hypervisor: Hypervisor, state: State, directory: Path, place: GuestHost) -> tuple[str, str]:
    """Return the accelerator (kvm or tcg) and a line with the reason.

    The result of a trial is kept until the host boots again or QEMU changes; a failure is kept for an hour.
    """
    if wanted not in ("auto", KVM, TCG):
        raise UsageError(f"unknown accelerator {wanted!r} (known: auto, kvm, tcg)")
    if wanted != "auto":
        return wanted, f"{wanted}, as requested"
    note = state.directory / "kvm-probe.json"
    here = {"uri": hypervisor.uri, "boot": place.boot_id(), **hypervisor.versions()}
    try:
        known = foreign.parse_object(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if (
        known.get("here") == here
        and "problem" in known
        and (known["problem"] is None or 0 <= utc_s() - known.get("at_s", 0) < AGAIN_S)
    ):
        problem = known["problem"]
    else:
        problem = kvm_problem(hypervisor, directory, place)
        fresh = note.with_name(f".kvm-probe-{secrets.token_hex(3)}")
        fresh.write_text(json.dumps({"here": here, "problem": problem, "at_s": utc_s()}) + "\n", encoding="utf-8")
        shutil.move(fresh, note)
    if problem is None:
        return KVM, "kvm (a guest ran under it)"
    return TCG, f"emulation (tcg), several times slower: {problem}"
