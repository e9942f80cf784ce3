"""A guest as a host like any other, which the user's own ssh reaches."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kdump_harness.vm.guest import Guest

NAME = "audited"


def ssh_to(guest: Guest, directory: Path) -> tuple[str, ...]:
    """Return the ssh program with a configuration in DIRECTORY in which the guest is a host like any other."""
    key, config, known = directory / "key", directory / "config", directory / "known_hosts"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    guest.shell.run("echo %s >> /root/.ssh/authorized_keys", key.with_suffix(".pub").read_text().strip())
    host_key = guest.shell.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").out.strip()
    known.write_text(f"{NAME} {host_key}\n", encoding="utf-8")
    config.write_text(
        f"Host {NAME}\n HostName {guest.shell.address}\n HostKeyAlias {NAME}\n User root\n IdentityFile {key}\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {known}\n StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )
    return ("ssh", "-F", str(config))
