"""The facts about one host, read from the answers to the questions; nothing in them is trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..base.crashkernel import AUTO, PARAMETER, rounded_mib, words_in
from ..base.foreign import whole_number
from ..base.units import MIB
from ..distro.config_file import last_assignment
from ..distro.family import Family
from ..kdump.capture_image.judge import ImageFacts, stacks_of
from ..kdump.command_line import joined_arguments
from ..kdump.guest_state import GuestState, read_state
from ..kdump.room import kept_mib
from .asking.place import Place, place_of
from .result import Success

_STAT = re.compile(r"(\d{1,19}) (\d{1,19}) (/.*)")
# Entries for repairs, which are not booted for kdump, by image or arguments: rescue kernels, memory tests, iPXE.
_REPAIR = re.compile(
    r"\b(single|recovery|rescue|emergency)\b|\bmem(test|disk)|\.lkrn\b|init=/bin/|systemd\.unit=(rescue|emergency)"
)

_FADUMP = re.compile(r"(?<!\S)fadump=(on|nocma)(?!\S)")


@dataclass(frozen=True)
class FileFact:
    """A file of the host."""

    path: str
    changed_s: int
    size_bytes: int
    first_bytes: str = ""  # hexadecimal digits


@dataclass(frozen=True)
class DumpFile:
    """A file that looks like a dump."""

    path: str
    changed_s: int
    size_bytes: int
    mode: int


@dataclass(frozen=True)
class MenuEntry:
    """An entry of the boot loader's menu."""

    image: str
    words: tuple[str, ...]  # values of crashkernel=
    repair: bool  # starts a system for repairs
    fadump: bool  # asks for it

    @property
    def name(self) -> str:
        """The image's name without its directory."""
        return self.image.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts about one host at one moment."""

    family: Family
    state: GuestState
    answers: Mapping[str, str]
    remark: str | None = None  # why the family's row is only the nearest one
    root: bool = True
    success: Success | None = None  # of this machine, by history and store

    def text(self, name: str) -> str:
        """Return an answer; empty where the question was not asked."""
        return self.answers.get(name, "")

    @cached_property
    def config(self) -> str:
        """The text of kdump's configuration."""
        return self.text("config")

    @cached_property
    def place(self) -> Place:
        """The place of dumps."""
        return place_of(self.family, self.config)

    @cached_property
    def memory_mib(self) -> int:
        """The memory of the machine, as its kernel counts it for the ranges of crashkernel=."""
        total = sum(part.size_bytes for part in self.state.ram) // MIB
        return total or (self.state.meminfo_kib.get("MemTotal", 0) >> 10) + self.state.reserved.fixed_bytes // MIB

    @cached_property
    def service(self) -> dict[str, str]:
        """The properties of kdump's unit."""
        return dict(line.split("=", 1) for line in self.text("service").splitlines() if "=" in line)

    @cached_property
    def loaded_s(self) -> float | None:
        """When the service became active, in seconds since 1970; None where that is not known."""
        since_boot_us = whole_number(self.service.get("ActiveEnterTimestampMonotonic", ""))
        boot_s = whole_number(self.text("boot_s"))
        return boot_s + since_boot_us / 1e6 if boot_s and since_boot_us else None

    @cached_property
    def initramfs(self) -> FileFact | None:
        """The capture initramfs of the running kernel."""
        for line in self.text("initramfs").splitlines():
            kernel, _, rest = line.partition(" ")
            found = re.fullmatch(r"(\d{1,19}) (\d{1,19}) ([0-9a-f]{0,12}) (/.*)", rest)
            if kernel == self.state.kernel and found:
                return FileFact(found[4], int(found[1]), int(found[2]), found[3])
        return None

    def is_packed(self, file: FileFact) -> bool:
        """Return whether the capture initramfs has a copy of a file of the configuration."""
        return self.family.config.in_initramfs and file.path == self.family.config.file

    def files(self, name: str) -> Iterator[FileFact]:
        """Yield the files of an answer."""
        for line in self.text(name).splitlines():
            if found := _STAT.fullmatch(line):
                yield FileFact(found[3], int(found[1]), int(found[2]))

    def dumps(self, name: str) -> list[DumpFile]:
        """Return the dumps of an answer, the oldest first."""
        found = []
        for line in self.text(name).splitlines():
            if parts := re.fullmatch(r"(\d{1,19})\|(\d{1,19})\|([0-7]{1,5})\|(/.*)", line):
                found.append(DumpFile(parts[4], int(parts[1]), int(parts[2]), int(parts[3], 8)))
        return sorted(found, key=lambda dump: dump.changed_s)

    @cached_property
    def entries(self) -> list[MenuEntry]:
        """The entries of the boot loader's menu."""
        text = self.text("entries")
        options = re.search(r"^kernelopts=(.*)$", text, re.MULTILINE)
        found = []
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("linux", "linuxefi", "linux16"):
                arguments = " ".join(words[2:]).replace("$kernelopts", options[1] if options else "")
                repair = _REPAIR.search(f"{words[1]} {arguments}")
                asked = _FADUMP.search(arguments)
                found.append(MenuEntry(words[1], words_in(arguments), bool(repair), bool(asked)))
        return found

    def why_no_auto(self, kernel: str) -> str | None:
        """Return why crashkernel=auto of a kernel reserves nothing; empty where it does, None where it is refused."""
        loader, total_mib = self.family.bootloader, self.memory_mib
        if kernel.endswith(self.state.kernel) and self.state.took_auto:
            return ""
        if not loader.auto_kernels or not re.search(loader.auto_kernels, kernel):
            return None
        enough = rounded_mib(total_mib) >= loader.auto_from_mib
        return "" if enough else f"{PARAMETER}{AUTO} reserves nothing on a machine with {total_mib} MiB"

    @cached_property
    def capture_arguments(self) -> str:
        """The command line of the capture kernel, as far as the configuration makes it."""
        line = self.family.capture_line
        text = self.text("capture_line") if "capture_line" in self.answers else self.config
        base = (last_assignment(text, line.replace) if line.replace else None) or f"{self.state.cmdline} {line.added}"
        return joined_arguments(base, self.capture_append)

    @cached_property
    def capture_append(self) -> str:
        """The arguments that the configuration adds for the capture kernel."""
        line = self.family.capture_line
        text = self.text("capture_line") if "capture_line" in self.answers else self.config
        return (last_assignment(text, line.append) if line.append else None) or self.text("capture_default")

    @cached_property
    def contents(self) -> list[str]:
        """The kernel modules in the capture initramfs, by name; empty where it could not be listed."""
        names = (
            line.rpartition("/")[2].partition(".ko")[0] for line in self.text("contents").splitlines() if ".ko" in line
        )
        return sorted({name.replace("-", "_") for name in names})

    @cached_property
    def image(self) -> ImageFacts:
        """The facts about the capture initramfs, and about what it must reach."""
        stacks, loadable = stacks_of(self.text("stack"))
        return ImageFacts(
            family=self.family.name,
            kernel=self.state.kernel,
            opens=self.family.initramfs_opens,
            files=frozenset(self.text("contents").splitlines()) if self.contents else frozenset(),
            loadable=loadable,
            stacks=stacks,
            arguments=self.capture_arguments,
            fixed_kib=self.state.reserved.fixed_bytes >> 10,
        )

    @cached_property
    def unpacked_bytes(self) -> int:
        """The size of the files in the capture initramfs; 0 where it could not be listed."""
        found = re.search(r"^bytes (\d{1,15})$", self.text("contents"), re.MULTILINE)
        return int(found[1]) if found else 0

    @cached_property
    def free_kib(self) -> int | None:
        """The room on the filesystem of the dumps; None where it is on a disk or server that was not asked."""
        answer = {"local": "room", "ssh": "login"}.get(self.place.kind, "")
        return _free_kib(self.text(answer))

    @cached_property
    def newest(self) -> FileFact | None:
        """The file of kernel, configuration and capture initramfs that changed last."""
        files = [*self.files("kernel_files"), *self.files("config_files")]
        return max([*files, *([self.initramfs] if self.initramfs else [])], key=lambda one: one.changed_s, default=None)

    @property
    def changed_s(self) -> int:
        """The time of the last change of these files; 0 where it is not known."""
        return self.newest.changed_s if self.newest else 0

    @cached_property
    def locked_by(self) -> str:
        """The setting by which the kernel refuses an image without a signature; empty where there is not one."""
        lockdown = _chosen(self.text("lockdown"))
        if lockdown not in (None, "none"):
            return f"lockdown is {lockdown}"
        return "Secure Boot is on" if self.text("lockdown").split()[-1:] == ["01"] else ""

    @cached_property
    def firmware(self) -> str:
        """The version and date of the firmware."""
        return " ".join(self.text("firmware").split())

    @cached_property
    def sysctl(self) -> dict[str, str]:
        """Some settings of the running kernel."""
        pairs = (line.split("=", 1) for line in self.text("sysctl").splitlines() if "=" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def to_json(self) -> dict[str, Any]:
        """Return the facts that a reader of the result wants."""
        state = self.state
        newest = next(iter(reversed(self.dumps("finished"))), None)
        return {
            "hostname": state.hostname,
            "machine_id": state.machine_id or None,
            "system": state.os_release.get("PRETTY_NAME"),
            "family": self.family.name,
            "release": self.family.release,
            "kernel": state.kernel,
            "makedumpfile": state.makedumpfile,
            "memory_mib": self.memory_mib,
            "crashkernel": state.crashkernel,
            "reserved": state.reserved.to_json(),
            "loaded": state.loaded,
            "service": self.service.get("ActiveState"),
            "level": state.level,
            "compress": state.compress,
            "place": str(self.place),
            "kind": self.place.kind,
            "free_mib": self.free_kib >> 10 if self.free_kib is not None else None,
            "kept_mib": kept_mib(self.state),
            "initramfs": {"path": self.initramfs.path, "changed_s": self.initramfs.changed_s}
            if self.initramfs
            else None,
            "initramfs_mib": self.initramfs.size_bytes // MIB if self.initramfs else None,
            "unpacked_mib": self.unpacked_bytes // MIB or None,
            "firmware": self.firmware or None,
            "lockdown": _chosen(self.text("lockdown")),
            "pstore": self.text("pstore").split("\n")[0] or None,
            "root": self.root,
            "last_dump_s": newest.changed_s if newest else None,
            "last_success_s": self.success.at_s if self.success else None,
        }


def read_facts(
    family: Family, answers: Mapping[str, str], *, remark: str | None, root: bool, success: Success | None = None
) -> Facts:
    """Return the facts in the answers; ValueError where they are not those of a Linux host."""
    try:
        state = read_state(answers, family)
    except (KeyError, IndexError) as error:
        raise ValueError(f"the answer to {error} is missing or not understood") from None
    return Facts(family=family, state=state, answers=answers, remark=remark, root=root, success=success)


def _free_kib(text: str) -> int | None:
    """Return the free KiB that the last line of df -P shows."""
    for line in reversed(text.splitlines()):
        words = line.split()
        if len(words) >= 6 and words[4].endswith("%") and (free := whole_number(words[3])) is not None:
            return free
    return None


def _chosen(text: str) -> str | None:
    """Return the word in brackets, as in none [integrity] confidentiality."""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else None
