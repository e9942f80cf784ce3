"""The preparation of a guest for its shapes, by the family's own tools."""

from __future__ import annotations

import shlex

from ...base.errors import NotArmed
from ...kdump import capture_memory
from ...kdump.service import KdumpService
from ...vm.guest import Guest
from .table import Shape, Shapes

DISK_SERIAL = "shape"  # of the empty disks, with a number
PREPARE_TIMEOUT_S = 120.0  # unscaled
_DONE = "/var/lib/kdump-harness-shape-{name}"
_REBUILT = "/var/lib/kdump-harness-shape"
_LAST_LINES = 4

# mount_dumps DEVICE: make a filesystem, and mount it now and at each boot where kdump writes. $NAME is its name in
# /etc/fstab, by default its UUID.
_HELPERS = """set -e
export DISKS={disks}
mount_dumps() {
    mkfs.ext4 -q -F "$1"
    mkdir -p {directory}
    echo "${NAME:-UUID=$(blkid -s UUID -o value "$1")} {directory} ext4 ${OPTIONS:-defaults} 0 2" >>/etc/fstab
    systemctl daemon-reload
    mount {directory}
}
"""


def prepare_guest(guest: Guest, service: KdumpService, shapes: Shapes) -> bool:
    """Run the scripts of the shapes, and build the capture initramfs anew, once; return whether anything was done.

    NotArmed quotes what failed.
    """
    ran, first_disk = False, 0
    for shape in shapes.rows:
        disks = [f"/dev/disk/by-id/virtio-{DISK_SERIAL}{first_disk + n}" for n in range(len(shape.disks_mib))]
        first_disk += len(disks)
        if script := shape.prepare.get(service.family.name):
            ran = _run(guest, shape, script, disks) or ran
    if shapes.rebuild and not guest.shell.succeeds("test -e %s", _REBUILT):
        service.rebuild_image()
        guest.shell.run("touch %s", _REBUILT)
        ran = True
    if shapes:
        capture_memory.prepare(guest, service)
    return ran


def _run(guest: Guest, shape: Shape, script: str, disks: list[str]) -> bool:
    done = _DONE.format(name=shape.name)
    if guest.shell.succeeds("test -e %s", done):
        return False
    helpers = _HELPERS.replace("{disks}", shlex.quote(" ".join(disks)))
    helpers = helpers.replace("{directory}", shlex.quote(shape.directory or "/var/crash"))
    whole = f"sh -c {shlex.quote(helpers + script)} 2>&1"
    result = guest.shell.run(whole, timeout_s=PREPARE_TIMEOUT_S * guest.factor, check=False)
    if not result.ok:
        words = " | ".join(line.strip() for line in result.out.splitlines()[-_LAST_LINES:])
        reason = f"the shape {shape.name} cannot be made: its script ended with status {result.status}: {words}"
        raise NotArmed(reason, said=result.out)
    guest.shell.run("touch %s", done)
    return True
