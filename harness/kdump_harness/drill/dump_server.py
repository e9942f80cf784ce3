"""The dump server: a second guest with an SSH server and the kernel's NFS server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..distro.family import find_family
from ..images.catalog import load_catalog
from ..kdump.target import Server
from ..vm.guest import Guest
from ..vm.isolated_network import Port
from ..vm.run import Machine, Run
from .disks import SystemUnderTest, installed_disk

IMAGE = "debian-12"
PACKAGES = ("nfs-kernel-server",)
NAME = "collector"  # the guests know it by this name
USER = "kdump"
DIRECTORY = "/srv/crash"
MACHINE = Machine(memory_mib=512, vcpus=1)
SET_UP_TIMEOUT_S = 30.0  # unscaled

# Dumps hold every secret of a machine: no other user of the dump server may read arrivals over SSH, and sshd starts
# commands with the umask of PAM. Root of a guest is root here, since kdump writes as root.
_SET_UP = f"""
set -e
useradd --create-home --shell /bin/sh {USER}
install -d -m 700 -o {USER} ~{USER}/.ssh
install -m 600 -o {USER} /dev/null ~{USER}/.ssh/authorized_keys
install -d -m 755 -o {USER} {DIRECTORY}
echo 'session optional pam_umask.so umask=0077' >> /etc/pam.d/sshd
echo '{DIRECTORY} *(rw,sync,no_subtree_check,no_root_squash)' > /etc/exports
systemctl restart nfs-server
exportfs -ra
"""


@dataclass(frozen=True, kw_only=True)
class DumpServer:
    """A running collector."""

    guest: Guest
    server: Server
    port: Port


@contextlib.contextmanager
def open_dump_server(run: Run) -> Iterator[DumpServer]:
    """Start a collector on the run's crash network, and destroy it at the end of the block."""
    row = load_catalog().find(IMAGE)
    subject = SystemUnderTest(name=NAME, family=find_family(row.family), image=row)
    machine = run.fit(MACHINE, needs=subject.needs_cpu)
    base = installed_disk(run, subject, machine, PACKAGES)
    evidence = run.evidence(NAME)
    port = run.dump_network().port()
    identity = run.identity(NAME)
    disk = run.overlay(base.path, base_format=base.format)
    try:
        with run.guest(disk, machine, evidence, label=NAME, identity=identity, ports=(port,)) as guest:
            with run.progress.step("the collector: booting", usual_s=80 if run.factor > 1 else 15):
                guest.power_on()
                guest.wait_for_login()
                guest.connect()
                guest.shell.run(_SET_UP, timeout_s=SET_UP_TIMEOUT_S * guest.factor)
            server = Server(
                name=NAME,
                address=port.address,
                host_key=identity.host_key.public,
                user=USER,
                directory=DIRECTORY,
                shell=guest.shell,
            )
            yield DumpServer(guest=guest, server=server, port=port)
    finally:
        evidence.close()
