"""A guest as a host like any other, which the user's own ssh reaches."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kdump_harness.vm.guest import Guest

NAME = "audited"
SERVER = "dumps"  # the machine that the dumps of that host go to


def ssh_to(guest: Guest, directory: Path, *, server: Guest | None = None) -> tuple[str, ...]:
    """Return the ssh program with a configuration in DIRECTORY that knows the guest, and SERVER, as other hosts."""
    key, config, known = directory / "key", directory / "config", directory / "known_hosts"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text(encoding="utf-8").strip()
    hosts, keys = "", ""
    for name, one in ((NAME, guest), *(((SERVER, server),) if server is not None else ())):
        one.shell.run("echo %s >> /root/.ssh/authorized_keys", public)
        keys += f"{name} {_host_key(one)}\n"
        hosts += (
            f"Host {name}\n HostName {one.shell.address}\n HostKeyAlias {name}\n User root\n IdentityFile {key}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {known}\n StrictHostKeyChecking yes\n"
        )
    known.write_text(keys, encoding="utf-8")
    config.write_text(hosts, encoding="utf-8")
    return ("ssh", "-F", str(config))


def _host_key(guest: Guest) -> str:
    return guest.shell.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").out.strip()
