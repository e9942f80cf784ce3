"""Where a dump goes, and how to look there afterwards."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from ..base.errors import GuestError, UsageError
from ..distro.family import Family, fill
from ..vm.cloud_init import make_key

if TYPE_CHECKING:
    from ..vm.guest import Guest
    from ..vm.shells.shell import Shell
    from .service import KdumpService

TARGETS = ("local", "ext4", "xfs", "ssh", "nfs")
ON_DISK = ("ext4", "xfs")
ON_SERVER = ("ssh", "nfs")
MOUNT = "/mnt/kdump-target"  # of a disk for dumps
LABEL = "kdump-target"  # of its filesystem, and the disk's serial number
_DEVICE = f"/dev/disk/by-id/virtio-{LABEL}"
KEY = "/root/.ssh/kdump_id_ed25519"
_IDENTITIES = tuple(f"/root/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa"))  # that OpenSSH tries by itself
PROPAGATE_TIMEOUT_S = 30.0  # unscaled
ROOT = "root"
_GLOB = re.compile(r"[^*?\[\]-]+")  # the literal parts of a pattern
AWAY = {"ssh": "SSH", "nfs": "NFS"}  # settings that send dumps to another machine


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A dump, or something that looks like one, where the target keeps them."""

    path: str
    size_bytes: int
    mode: int  # permission bits
    owner: str
    directory_mode: int
    inode: int = 0  # 0 where it is not known; a dump of the same size in the place of an older one has another
    final: bool  # carries the name, and has the companion, that the family gives to finished dumps
    unfinished: str = ""  # why it is not final in spite of its name
    place: str = ""  # the machine or disk that it is on; nothing for the guest's own system
    wanted: bool = True  # it is where it should be

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def where(self) -> str:
        """Place and path."""
        return f"{self.place}:{self.path}" if self.place else self.path


@dataclass(frozen=True, kw_only=True)
class Server:
    """The data by which a guest reaches the machine that its dumps go to."""

    name: str
    address: str
    host_key: str  # its public key
    user: str  # who receives dumps over SSH
    directory: str  # where they go, also as the export of NFS
    shell: Shell  # the harness's shell, as root

    def admit(self, public_key: str) -> None:
        """Let the owner of this key send dumps."""
        self.shell.run(f"echo %s >> ~{self.user}/.ssh/authorized_keys", public_key)

    def dismiss(self, public_key: str) -> None:
        """Let the owner of this key in no longer."""
        body = public_key.split()[1].replace("/", r"\/")
        self.shell.run(f"sed -i %s ~{self.user}/.ssh/authorized_keys", f"/{body}/d")


class Target:
    """One place for dumps, as one family reaches it."""

    def __init__(self, name: str, family: Family, server: Server | None = None) -> None:
        self.name = name
        self.family = family
        self._server = server
        self.mount_point = ""  # of the filesystem for local dumps, where it is not that of the system
        self.trouble = ""  # what is wrong with the place, when last looked
        self._before = ""  # where the guest's own configuration puts dumps

    @property
    def server(self) -> Server:
        """The machine that dumps go to."""
        assert self._server is not None, f"the target {self.name} has been given no server"
        return self._server

    def family_for(self, family: Family) -> Family:
        """Return the family as it must be driven to dump to this target."""
        options = family.targets[self.name].options
        return replace(family, config=replace(family.config, options=options)) if options else family

    @property
    def owner(self) -> str:
        """Return the owner of a dump at this target."""
        return self.server.user if self.name == "ssh" else ROOT

    def dump_files(self, system: Files) -> Files:
        """How to get at the dumps; system is the guest's own."""
        return ShellFiles(self.server.shell) if self.name in ON_SERVER else system

    # ------------------------------------------------------------ before the crash

    def configure(self, guest: Guest, service: KdumpService) -> bool:
        """Prepare the target and configure kdump for it; return whether the guest's configuration was changed."""
        if self.name in ON_DISK:
            self._mount(guest.shell)
        elif self.name in ON_SERVER:
            self._introduce(guest.shell)
        self._before = service.original_directory()
        words = {"before": self._before, "mount": MOUNT, "key": KEY}
        if self._server is not None:
            words |= {"host": self._server.name, "user": self._server.user, "directory": self._server.directory}
        wanted = service.family.targets[self.name].settings
        known = {setting for target in service.family.targets.values() for setting in target.settings}
        known = {setting for setting in known if service.family.config.keys.get(setting)}
        changed = service.configure(
            {setting: fill(wanted.get(setting, ""), **words) or None for setting in sorted(known)}
        )
        if self.name == "ssh":
            changed = self._propagate(guest, words) or changed
        return changed

    def _mount(self, shell: Shell) -> None:
        """Make a filesystem on the empty disk, and mount it where it outlives a reboot."""
        if shell.succeeds("mountpoint -q %s", MOUNT):
            return
        force = "-F" if self.name == "ext4" else "-f"
        shell.run(f"blkid -L {LABEL} >/dev/null || mkfs.{self.name} -q {force} -L {LABEL} {_DEVICE}", timeout_s=300)
        line = f"LABEL={LABEL} {MOUNT} {self.name} defaults 0 0"
        shell.run(f"mkdir -p {MOUNT}; grep -q {LABEL} /etc/fstab || echo %s >> /etc/fstab; mount {MOUNT}", line)

    def _introduce(self, shell: Shell) -> None:
        """Add the server's name and host key to the guest, so that a crashed machine needs no name service."""
        server = self.server
        line = f"{server.address} {server.name}"
        shell.run("grep -qxF %s /etc/hosts || echo %s >> /etc/hosts", line, line)
        host_key = f"{server.name} {' '.join(server.host_key.split()[:2])}"
        shell.run(
            "mkdir -p -m 700 /root/.ssh; cd /root/.ssh; grep -qxF %s known_hosts 2>/dev/null || echo %s >> known_hosts",
            host_key,
            host_key,
        )

    def _propagate(self, guest: Guest, words: Mapping[str, str]) -> bool:
        """Take a key of kdump's own to the server by the family's own means; return whether it was made now."""
        shell, server = guest.shell, self.server
        if shell.succeeds("test -e %s", KEY):
            return False
        key, ours = make_key("kdump"), make_key("kdump-harness")
        shell.write_secret(KEY, key.private)
        shell.write_text(f"{KEY}.pub", key.public + "\n")
        # ssh-copy-id needs another way in until the key is known there: an identity that ssh tries by itself. One
        # that its configuration names would be tried for the new key as well, which would then look known already.
        identity = next((path for path in _IDENTITIES if not shell.succeeds("test -e %s", path)), None)
        if identity is None:
            raise GuestError(f"the guest has keys under all of ssh's names ({', '.join(_IDENTITIES)})")
        server.admit(ours.public)
        try:
            shell.write_secret(identity, ours.private)
            command = fill(self.family.commands.propagate, **words)
            self._must(guest, command, f"the guest cannot take its key to {server.name}")
        finally:
            server.dismiss(ours.public)
            shell.run("rm -f %s", identity)
        login = f"ssh -n -i {KEY} -o BatchMode=yes {server.user}@{server.name} true"
        self._must(guest, login, f"{server.name} does not know the guest's key after {command!r}")
        return True

    def _must(self, guest: Guest, command: str, otherwise: str) -> None:
        """GuestError, with the command's last words, unless it succeeds."""
        result = guest.shell.run(f"{command} 2>&1", timeout_s=PROPAGATE_TIMEOUT_S * guest.factor, check=False)
        if not result.ok:
            words = " | ".join(line.strip() for line in result.out.splitlines()[-3:])
            raise GuestError(f"{otherwise}: {command!r} ended with status {result.status}: {words or 'no output'}")

    # ------------------------------------------------------------ afterwards

    def look(self, guest: Guest, directory: str | None = None) -> dict[str, FoundFile]:
        """Return all complete and incomplete dumps by place and path, including unexpected places.

        directory is the dump directory of the guest's configuration; the family's default when empty.
        """
        here = self._here(directory)
        system = ShellFiles(guest.shell)
        there = not self.mount_point or guest.shell.succeeds("mountpoint -q %s", self.mount_point)
        if not there:
            self.trouble = f"{self.mount_point} is not mounted"
        places: list[tuple[Files, str, str, bool]] = [(system, "", here, self.name == "local" and there)]
        if self.name in ON_DISK:
            mounted = guest.shell.succeeds("mountpoint -q %s", MOUNT)
            self.trouble = "" if mounted else f"{MOUNT} is not mounted"
            places.append((system, LABEL if mounted else "", MOUNT, mounted))
        return self._look_at(places)

    def look_off(self, system: Files, directory: str | None = None) -> dict[str, FoundFile]:
        """Do the same after the guest was switched off: system reads its disk."""
        return self._look_at([(system, "", self._here(directory), self.name == "local")])

    def directory(self, configured: str | None) -> str:
        """Return the directory in the guest that dumps go to; CONFIGURED is that of the guest's configuration."""
        return MOUNT if self.name in ON_DISK else self._here(configured)

    def _here(self, directory: str | None) -> str:
        return self._before or directory or self.family.config.directory("") or "/var/crash"

    def _look_at(self, places: list[tuple[Files, str, str, bool]]) -> dict[str, FoundFile]:
        if self._server is not None:
            server = self._server
            places = [*places, (ShellFiles(server.shell), server.name, server.directory, self.name in ON_SERVER)]
        found: dict[str, FoundFile] = {}
        for files, place_name, where, wanted in places:
            for file in self._files(files, where):
                described = replace(file, place=place_name, wanted=wanted)
                found[described.where] = described
        return found

    def _files(self, files: Files, directory: str) -> Iterator[FoundFile]:
        dumps = self.family.dumps
        for final, patterns in ((True, dumps.finished), (False, dumps.unfinished)):
            for path, facts in files.stat([fill(pattern, directory=glob.escape(directory)) for pattern in patterns]):
                unfinished = ""
                if final and dumps.companion:
                    unfinished = self._refuted(files, PurePosixPath(path).with_name(dumps.companion))
                yield FoundFile(path=path, final=final and not unfinished, unfinished=unfinished, **facts)

    def _refuted(self, files: Files, companion: PurePosixPath) -> str:
        """Return the reason why the file next to a dump calls it incomplete; empty when it is finished."""
        text = files.read(companion)
        if text is None or not text.strip():
            return f"no {companion.name}" if text is None else f"{companion.name} is empty"
        refuted = re.search(self.family.dumps.refuted, text)
        return f"{companion.name}: {refuted.group().strip()}" if refuted else ""


class Files(Protocol):
    """Where dumps are looked for and fetched from."""

    def stat(self, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Path, and size, mode, owner, inode and directory mode, of what the patterns match."""

    def read(self, path: PurePosixPath) -> str | None:
        """Return a small text file's content; None where it does not exist."""

    def small_files(self, directory: str) -> list[str]:
        """List the paths of the small files of a directory."""

    def fetch(self, path: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        """Copy a file to a new one of this host and return its size in bytes."""


class ShellFiles:
    """The files of a machine that answers."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def stat(self, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """As Files; the machine's shell expands the patterns."""
        if patterns:
            yield from _stat(self._shell, [_GLOB.sub(lambda part: shlex.quote(part.group()), one) for one in patterns])

    def read(self, path: PurePosixPath) -> str | None:
        """As Files."""
        read = self._shell.run("cat -- %s", path, check=False)
        return read.out if read.ok else None

    def small_files(self, directory: str) -> list[str]:
        """As Files."""
        command = "find %s -maxdepth 1 -type f -size -2048k"
        return self._shell.run(command, directory, check=False).out.splitlines()

    def fetch(self, path: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        """As Files."""
        return self._shell.fetch(path, to, progress=progress)


def _stat(shell: Shell, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As Files.stat, for patterns that the guest's shell expands."""
    script = (
        f'for f in {" ".join(patterns)}; do [ -e "$f" ] &&'
        ' printf "%s|%s|%s\\n" "$(stat -c "%s|%a|%U|%i" "$f")" "$(stat -c %a "${f%/*}")" "$f"; done; true'
    )
    for line in shell.run(script).out.splitlines():
        size, mode, owner, inode, directory_mode, path = line.split("|", 5)
        yield (
            path,
            {
                "size_bytes": int(size),
                "mode": int(mode, 8),
                "owner": owner,
                "inode": int(inode),
                "directory_mode": int(directory_mode, 8),
            },
        )


def places_away(family: Family, text: str) -> str:
    """Return the other machines that a configuration sends dumps to, such as "by SSH to a"; empty for none."""
    config = family.config
    found = {word: config.get(text, key) for key, word in AWAY.items() if config.keys.get(key)}
    places = [f"by {word} to {place}" for word, place in found.items() if place]
    if config.directory(text) is None:
        places.append(f"to {config.get(text, 'directory')}")
    return " and ".join(places)


def find_target(name: str, family: Family, server: Server | None = None) -> Target:
    """Find a target by name; UsageError names the known ones, and those that the family has."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r} (known: {', '.join(TARGETS)})")
    if name not in family.targets:
        raise UsageError(f"kdump of the family {family.name} has no target {name} (it has {', '.join(family.targets)})")
    return Target(name, family, server)
