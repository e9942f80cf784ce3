"""The preparation of a guest, and of the dump server, for the shapes of a drill."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from ...base import tables
from ...base.errors import GuestError, NotArmed
from ...distro.family import Family
from ...kdump import capture_memory
from ...kdump.service import KdumpService
from ...kdump.target import Server
from ...vm.guest import Guest
from ...vm.hypervisor.buses import wwn_of
from .table import DUMPS, Shapes

DISK_SERIAL = "shape"  # of the empty disks, with a number
PREPARE_TIMEOUT_S = 120.0  # unscaled
_DONE = "/var/lib/kdump-harness-shapes"  # with the names of those that the guest has
_LAST_LINES = 4
_AT = re.compile(r"^kdump-harness: shape (\S+)$", re.MULTILINE)
# The shared variables of the scripts on the dump server, and the address in the end.
_SERVER = 'set -e\nCARD=eth1 SUBNET=0 ADDRESS=\n{scripts}\necho "ADDRESS=$ADDRESS"'


def prepare_server(server: Server | None, shapes: Shapes) -> Server | None:
    """Run the shapes' scripts on the dump server, and return it with the address by which the guest knows it."""
    if server is None or not shapes.server:
        return server
    said = server.shell.run("sh -c %s", _SERVER.replace("{scripts}", shapes.server)).out
    return replace(server, address=said.rpartition("ADDRESS=")[2].strip() or server.address)


def prepare_guest(guest: Guest, service: KdumpService, shapes: Shapes) -> bool:
    """Run the scripts of the shapes, and build the capture initramfs anew, once; return whether anything was done.

    NotArmed quotes what failed.
    """
    done = f"{_DONE}-{'+'.join(shapes.names)}"
    if not shapes or guest.shell.succeeds("test -e %s", done):
        return False
    if script := whole_script(shapes, service.family):
        timeout_s = PREPARE_TIMEOUT_S * guest.factor
        result = guest.shell.run(f"sh -c {shlex.quote(script)} 2>&1", timeout_s=timeout_s, check=False)
        if not result.ok:
            name = (_AT.findall(result.out) or shapes.names)[-1]
            words = " | ".join(_AT.sub("", result.out).strip().splitlines()[-_LAST_LINES:])
            reason = f"the shape {name} cannot be made: its script ended with status {result.status}: {words}"
            raise NotArmed(reason, said=result.out)
    if shapes.reboot:
        try:
            guest.reboot()
        except GuestError as error:
            reason = f"the guest does not boot with the shape {' '.join(shapes.names)}: {error.args[0]}"
            raise NotArmed(reason, said=str(error)) from None
    if shapes.rebuilds(service.family):
        service.rebuild_image()
    guest.shell.run("touch %s", done)
    capture_memory.prepare(guest, service)
    return True


def whole_script(shapes: Shapes, family: Family) -> str:
    """Return the scripts of the shapes for a family, with the functions that they share; empty without any."""
    scripts = [(row.name, script) for row in shapes.rows if (script := row.script(family))]
    if not scripts:
        return ""
    names = [
        f"wwn-0x{wwn_of(n)}" if shapes.paths > 1 else f"virtio-{DISK_SERIAL}{n}" for n in range(len(shapes.disks_mib))
    ]
    disks = " ".join(f"/dev/disk/by-id/{name}" for name in names)
    first = f"DISKS={shlex.quote(disks)} DIRECTORY={shlex.quote(shapes.directory or DUMPS)}"
    steps = [f"echo 'kdump-harness: shape {name}'\n{script}" for name, script in scripts]
    functions = [tables.read_text(tables.package_path("drill", "shapes", "common.sh"))]
    ends = ["mount_dumps"]
    if (own := tables.package_path("drill", "shapes", f"{family.name}.sh")).exists():
        functions.append(tables.read_text(own))
        ends.append("connect")
    return "\n".join([first, *functions, *steps, *ends])
