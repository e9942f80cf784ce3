"""The place that a host's configuration sends dumps to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...distro.family import Family

_FILESYSTEMS = ("ext2", "ext3", "ext4", "minix", "xfs", "btrfs")
_URL = re.compile(r"(\w+)://(?:([^@/]+)@)?([^/:]*)(?::(\d{1,5}))?(/.*)?")
_KEYS = PurePosixPath("/root/.ssh")
_SSH_KEY = "/root/.ssh/kdump_id_rsa"  # the default of kdump-tools and kdump-utils


@dataclass(frozen=True, kw_only=True)
class Place:
    """A directory of the host, a disk, or a dump server."""

    kind: str  # local, ssh, nfs, device, or other for one that is not examined
    directory: str = ""
    user: str = ""
    host: str = ""
    keys: tuple[str, ...] = ()  # paths of the private keys that kdump tries
    port: str = ""  # empty for that of ssh's configuration
    host_key: str = ""  # the only one that kdump accepts; "*" for any one, and empty for those of known_hosts
    password: bool = False  # kdump logs in with one
    sftp: bool = False  # the server need not run commands
    device: str = ""
    raw: bool = False  # the disk has no filesystem

    @property
    def host_with_user(self) -> str:
        """The name that ssh gets."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def __str__(self) -> str:
        if self.kind in ("ssh", "nfs"):
            return f"{self.host_with_user}:{self.directory}"
        return f"{self.device} {self.directory}".strip()


def place_of(family: Family, text: str) -> Place:
    """Return the place that the text of a configuration names."""
    config = family.config
    found = {
        name: config.get(text, name) or ""
        for name in ("directory", "ssh", "ssh_key", "host_key", "nfs", *_FILESYSTEMS, "raw", "virtiofs")
    }
    directory = found["directory"]
    keys = tuple(str(_KEYS / name) for name in (found["ssh_key"] or _SSH_KEY).split())
    if url := _URL.fullmatch(directory):
        scheme, path = url.group(1).lower(), url.group(5) or "/"
        user, _, password = (url.group(2) or "").partition(":")
        if scheme == "file":
            return Place(kind="local", directory=path)
        return Place(
            kind={"ssh": "ssh", "sftp": "ssh", "scp": "ssh", "nfs": "nfs"}.get(scheme, "other"),
            directory=path,
            user=user,
            host=url.group(3),
            keys=keys,
            port=url.group(4) or "",
            host_key=found["host_key"],
            password=bool(password),
            sftp=scheme in ("sftp", "scp"),
        )
    if found["ssh"]:
        user, _, host = found["ssh"].rpartition("@")
        return Place(kind="ssh", directory=directory, user=user, host=host, keys=keys)
    if found["nfs"]:
        host, _, path = found["nfs"].rpartition(":")
        return Place(kind="nfs", directory=path, host=host.strip("[]"))
    if device := next((found[name] for name in _FILESYSTEMS if found[name]), ""):
        return Place(kind="device", directory=directory, device=device)
    if found["raw"]:
        return Place(kind="device", device=found["raw"], raw=True)
    if found["virtiofs"]:  # a tag, which only the hypervisor knows
        return Place(kind="other", directory=directory, device=found["virtiofs"])
    return Place(kind="local", directory=directory or "/var/crash")
