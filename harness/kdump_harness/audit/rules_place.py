"""The rules about the place of dumps: mounted, writable, reachable, with room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ..diagnosis import diagnose_text
from ..kdump.room import kept_mib, least_mib
from .facts import Facts
from .finding import Finding, failure, note, risk

_IN_MEMORY = ("/run", "/dev")  # which every boot mounts
_FOR_MOUNTS = ("/mnt/", "/media/")  # by the Filesystem Hierarchy Standard


def place(facts: Facts) -> Iterator[Finding]:
    """Look at the place by its kind."""
    if facts.place.kind == "local":
        yield from _mounted(facts)
        yield from _room(facts)
    elif facts.place.kind in ("ssh", "nfs") and (address := _own_address(facts)):
        yield failure(
            "server-is-this-machine",
            f"the dump server {facts.place.host} has the address {address}, which is this machine's own",
        )
    elif facts.place.kind == "ssh":
        yield from _login(facts)
    elif facts.place.kind == "nfs":
        said = facts.text("nfs")
        if "reached" not in said.split():
            yield failure("nfs-mount-failed", f"{facts.place.host} port 2049: {_last(said) or 'not reached'}")
        elif "not installed" in said:
            yield failure("nfs-mount-failed", "mount.nfs is not installed")
    elif facts.place.kind == "device":
        yield from _device(facts)
    else:
        yield note("place-not-examined", f"the place {facts.place} is of a kind that is not examined")


def _device(facts: Facts) -> Iterator[Finding]:
    """Look at a disk for dumps: that it exists, and that kdump's programs will mount it where it is not mounted."""
    said = facts.text("device")
    name, *lines = said.splitlines() or [""]
    if not name.startswith("/"):
        yield failure("config-invalid", f"the disk {facts.place.device} does not exist: {_last(said)}")
        return
    listed = [line.split()[1:] for line in lines if line.startswith("fstab ")]
    if facts.place.raw or len(listed) < len(lines):
        return
    seen = f"{name}, the target of dumps, is not mounted"
    if not facts.family.mounts_target:
        yield risk("target-not-mounted", seen)
    elif listed and ",noauto" not in listed[0][-1]:  # mkdumprd, check_user_configured_target: not as the first option
        where, options = listed[0][0], listed[0][-1]
        yield risk("target-not-mounted", f"{seen}; /etc/fstab has it at {where} with the options {options}")


def _mounted(facts: Facts) -> Iterator[Finding]:
    """Compare the directory with the mounts and with fstab."""
    directory = PurePosixPath(facts.place.directory)
    mounted = {
        words[1].replace("\\040", " "): words[3]
        for line in facts.text("mounts").splitlines()
        if len(words := line.split()) > 3
    }
    parents = [str(directory), *map(str, directory.parents)]
    below = next((parent for parent in parents if parent in mounted), "/")
    lines = (line.split("#")[0].split() for line in facts.text("fstab").splitlines())
    listed = {words[1]: words[2:4] for words in lines if len(words) > 3}
    if missing := next((parent for parent in parents if parent in listed and parent not in mounted), None):
        yield failure("target-not-mounted", f"{missing} is in /etc/fstab and not mounted; dumps go to {directory}")
        return
    if below == "/" and str(directory).startswith(_FOR_MOUNTS):
        yield risk(
            "target-not-mounted",
            f"{directory} is on the root filesystem, although a place for mounts: nothing is mounted there",
        )
    # A capture kernel that boots the system mounts what the system's boot mounts; others mount the disk, and writable.
    of_system = not facts.family.config.in_initramfs
    kind = next(iter(facts.text("mount").split()[2:3]), "")
    if kind in ("tmpfs", "ramfs"):
        unit = "FragmentPath=/" in facts.text("mount_unit")  # none for a line of fstab that systemd has not read yet
        lasting = not of_system or below.startswith(_IN_MEMORY) or unit or listed.get(below, [""])[0] == kind
        yield _weighed(lasting, "target-in-memory", f"{directory} is on a {kind}")
    if "ro" in mounted.get(below, "").split(","):
        lasting = of_system and "ro" in listed.get(below, ["", "ro" if below == "/" else ""])[1].split(",")
        yield _weighed(lasting, "target-read-only", f"{below}, which holds {directory}, is mounted read-only")


def _weighed(lasting: bool, name: str, seen: str) -> Finding:
    """Return a failure for what the capture kernel mounts in the same way, else a risk."""
    return failure(name, seen) if lasting else risk(name, f"{seen} now; the capture kernel mounts it in another way")


def _own_address(facts: Facts) -> str:
    """Return the address of the dump server if it is one of this machine."""
    own = set(facts.text("own_addresses").split())
    addresses = facts.text("server_addresses").split()
    return next((one for one in addresses if one in own or one.startswith("127.")), "")


def _room(facts: Facts) -> Iterator[Finding]:
    """Compare the free room with the memory that a dump keeps."""
    free_kib, kept = facts.free_kib, kept_mib(facts.state)
    if free_kib is None:
        return
    free_mib, remedy = free_kib >> 10, ""
    seen = f"{free_mib} MiB are free for dumps; level {facts.state.level} keeps {kept} MiB before compression"
    if facts.place.kind == "local" and (spare_mib := facts.state.spare_mib):
        key = facts.family.config.keys["free_mib"]
        seen += f", and {key} keeps {spare_mib} MiB free: a dump after which less is free is deleted"
        free_mib -= spare_mib
        if spare_mib > kept:
            remedy = f"Lower {key} in {{file}}, or free space on the target; then restart {{service}}"
    if free_mib < least_mib(facts.state):
        yield failure("target-no-space", seen, remedy=remedy)
    elif free_mib < kept:
        yield risk("target-no-space", seen, remedy=remedy)


def _login(facts: Facts) -> Iterator[Finding]:
    """Look at the login to the dump server."""
    said, unseen = facts.text("login"), ""
    # Without a key the server refuses the login after its host key was accepted.
    if facts.place.password and re.search("Permission denied", said):
        unseen = "the login with a password, directory and room"
    elif facts.place.sftp and re.search(r"^status 0$", said, re.MULTILINE):
        unseen = "directory and room"
    if unseen:
        yield note("place-not-examined", f"{unseen} of {facts.place} were not examined")
        return
    if re.search(r"^status 0$", said, re.MULTILINE):
        if not re.search(r"^writable$", said, re.MULTILINE):
            yield failure("target-read-only", f"{facts.place.host_with_user} may not write to {facts.place.directory}")
        else:
            yield from _room(facts)
        return
    found = diagnose_text(said, family=facts.family.name, of_kdump=True)
    symptom = next((one for one in found.symptoms if one.name.startswith(("ssh-", "network-"))), None)
    reason = _last(re.sub(r"(Connection closed\s+)?status [0-9]+$", "", said)) or "no answer"
    seen = f"login to {facts.place.host_with_user} with {' '.join(facts.place.keys)}: {reason}"
    if symptom is not None:
        yield failure(symptom.name, seen, host=facts.place.host)
        return
    yield failure("ssh-auth-failed" if "denied" in said else "network-not-ready", seen, host=facts.place.host)


def _last(text: str) -> str:
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "")
