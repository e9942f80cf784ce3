"""The kdump state of a machine at one moment: the commands that ask for it, and the record of their outputs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..base.crashkernel import AUTO, WordRefused, amounts, counted, joined, main_word, release_knows_cma, words_in
from ..base.units import MIB
from ..distro.config_file import COMPRESS_FLAGS, read_level
from ..distro.family import Family
from . import reserved_memory
from .reserved_memory import AddressRange, ReservedMemory

# Kernels since about 6.19 moved the files below /sys/kernel/kexec; the old names are deprecated links.
LOADED = "cat /sys/kernel/kexec_crash_loaded 2>/dev/null || cat /sys/kernel/kexec/crash_loaded"
# Reading it fails (EBUSY) while a capture kernel is being loaded; that must not look like another kernel's layout.
SIZE_FILE = "f=/sys/kernel/kexec_crash_size; [ -e $f ] || f=/sys/kernel/kexec/crash_size"
SIZE = f"{SIZE_FILE}; cat $f"
# On ppc64le: whether it is enabled and registered, and the bytes that are reserved; the names are those since Linux 5.5
# and the older ones, which have no size. Enabled means that the memory was reserved (arch/powerpc/kernel/fadump.c).
FADUMP = (
    "for f in /sys/kernel/fadump/ /sys/kernel/fadump_; do [ -e ${f}enabled ] || continue;"
    " cat ${f}enabled ${f}registered ${f}mem_reserved 2>/dev/null; break; done"
)

# A process costs an emulated guest 10 ms, and the shell itself can read small files.
SHOW = """show() { while IFS= read -r line || [ -n "$line" ]; do printf '%s\\n' "$line"; done <"$1"; }"""
PROBES = {
    "boot_id": "show /proc/sys/kernel/random/boot_id",
    "kernel": "show /proc/sys/kernel/osrelease",
    "cmdline": "show /proc/cmdline",
    "loaded": LOADED,
    "crash_size_bytes": SIZE,
    "fadump": FADUMP,
    **reserved_memory.COMMANDS,
    "os_release": "show /etc/os-release",
    "meminfo": "show /proc/meminfo",
    "clock_s": "date +%s.%N",
    "ram": "grep -E ' : System RAM( \\(.*\\))?$' /proc/iomem",
    "cpus": "grep -c ^processor /proc/cpuinfo",
    "page": "grep -m 1 KernelPageSize /proc/self/smaps || getconf PAGESIZE",
    "hostname": "show /proc/sys/kernel/hostname",
    "machine_id": "show /etc/machine-id",  # machine-id(5)
    # The ACPI memory devices (DIMMs), if a kernel brings added memory online by itself.
    "acpi_memory": "grep -q online /sys/devices/system/memory/auto_online_blocks &&"
    " grep -lv '^0$' /sys/bus/acpi/devices/PNP0C80:*/status",
}


@dataclass(frozen=True, kw_only=True)
class GuestState:
    """The kdump state of a guest at one moment, as the guest reports it."""

    boot_id: str
    kernel: str
    cmdline: str
    loaded: bool
    reserved: ReservedMemory
    meminfo_kib: dict[str, int]
    clock_s: float
    os_release: dict[str, str]
    makedumpfile: str | None  # version, None when it is not installed
    level: int | None
    compress: str | None
    hostname: str
    elf: bool = False  # an ELF dump is asked for
    misread: str | None = None  # a level in the configuration that makedumpfile takes for another one
    refused: str = ""  # the reason why the configuration lets makedumpfile write no dump
    spare_mib: int = 0  # room that must remain after a dump on a disk of this machine, or the dump is deleted
    directory: str | None = None  # of dumps; None when it is not in this guest
    compressors: tuple[str, ...] = ()  # the compressions that its makedumpfile has
    ram: tuple[AddressRange, ...] = ()  # memory of the kernel, with the reservation
    cpus: int = 0  # that are online
    page_bytes: int = 4096  # size of a page
    acpi_memory: int = 0  # ACPI memory devices whose memory a kernel like this brings online by itself
    machine_id: str = ""  # empty where the machine has none
    packing: str | None = None  # the program that compresses the dump as a whole
    fadump: bool = False  # the firmware keeps the memory and boots the kernel again; kexec loads nothing

    @property
    def crashkernel_words(self) -> tuple[str, ...]:
        """The values of crashkernel= on the command line."""
        return words_in(self.cmdline)

    @property
    def crashkernel(self) -> str | None:
        """The values of crashkernel= as --crashkernel takes them; those that the kernel ignores are left out."""
        words = self.crashkernel_words
        return joined(counted(words, knows_cma=self.knows_cma) or words) or None

    @property
    def took_auto(self) -> bool:
        """Whether the kernel reserved memory by crashkernel=auto, as those of RHEL 7 and 8 do."""
        return bool(self.reserved.fixed) and main_word(self.crashkernel_words) == AUTO

    def reservation_remarks(self, memory_mib: int) -> list[str]:
        """Return sentences about the parameters that the kernel ignores, refuses, or follows only in part."""
        if self.took_auto:
            return []
        try:
            asked = amounts(self.crashkernel_words, memory_mib, knows_cma=self.knows_cma)
        except WordRefused as error:
            return [str(error)]
        remarks = list(asked.remarks)
        if asked.high and self.reserved.fixed and not self.reserved.high_bytes:
            remarks.append("the ,high part is below 4 GiB, for lack of room above it, and ,low adds nothing to it")
        if self.reserved.cma_bytes < asked.cma_mib * MIB:
            remarks.append(
                f"crashkernel=...,cma asks for {asked.cma_mib} MiB, and the kernel reserved"
                f" {self.reserved.cma_bytes // MIB} MiB"
            )
        return remarks

    def collection_remarks(self) -> list[str]:
        """Return sentences about a level and a compression that makedumpfile does not take as they are meant."""
        remarks = []
        if self.misread is not None:
            remarks.append(
                f"the configuration asks for the dump level {self.misread!r}, which is read as {self.level}"
                " (write a number of 0 to 31)"
            )
        if self.compressors and self.compress not in (None, *self.compressors):
            remarks.append(
                f"the configuration asks for {self.compress}, and the guest's makedumpfile was built without it: it"
                f" writes uncompressed pages (it has {', '.join(self.compressors)})"
            )
        return remarks

    @property
    def knows_cma(self) -> bool:
        """Whether the guest's kernel knows crashkernel=...,cma; some distributions added it to older ones."""
        return bool(self.reserved.cma) or release_knows_cma(self.kernel)


def page_bytes(said: str) -> int:
    """Return the size of a page by a line of /proc/self/smaps in KiB, or by getconf in bytes; 4 KiB if unknown."""
    if found := re.fullmatch(r"(?:KernelPageSize: +)?(\d{1,9})( kB)?", said):
        return int(found[1]) * (1024 if found[2] else 1) or GuestState.page_bytes
    return GuestState.page_bytes


def state_commands(family: Family) -> dict[str, str]:
    """Return the commands whose outputs read_state() understands, by the name of the part."""
    return {
        **PROBES,
        "makedumpfile": family.commands.makedumpfile,
        "config": f"show {shlex.quote(family.config.file)}",
    }


def says_command(family: Family) -> str:
    """Return the command that prints the service's last log lines, and kdump's status."""
    journal = f"journalctl -b -u {family.service} -o cat --no-pager -n 8"
    # kexec's own error is the same for a forbidden load, for lockdown and for an exhausted limit.
    permission = "sysctl kernel.kexec_load_disabled kernel.kexec_load_limit_panic 2>/dev/null"
    # The status comes last: a diagnosis takes later lines for later events.
    return f"{{ {journal}; {family.commands.status}; {permission}; }} 2>&1 | tail -30"


def read_state(parts: Mapping[str, str], family: Family) -> GuestState:
    """Return the state that the outputs of state_commands() show."""
    config = parts.get("config", "")
    version = re.search(r"makedumpfile: version (\S+)", parts.get("makedumpfile", ""))
    collection = family.config.core_collector(config)
    by_firmware = parts.get("fadump", "").split()
    fadump = by_firmware[:1] == ["1"]
    size_bytes = "".join(by_firmware[2:3]) if fadump else parts["crash_size_bytes"]
    return GuestState(
        boot_id=parts["boot_id"],
        kernel=parts["kernel"],
        cmdline=parts["cmdline"],
        loaded=by_firmware[1:2] == ["1"] if fadump else parts["loaded"] == "1",
        reserved=reserved_memory.parse(parts["iomem"], parts["crash_cma"], size_bytes),
        meminfo_kib={
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in parts["meminfo"].splitlines())
            if value.strip()
        },
        clock_s=float(parts["clock_s"].removesuffix("%N")),  # which busybox does not know
        os_release=parse_os_release(parts["os_release"]),
        makedumpfile=version.group(1) if version else None,
        level=collection.level,
        compress=collection.compress,
        hostname=parts["hostname"],
        ram=reserved_memory.ram_ranges(parts.get("ram", "")),
        cpus=int(parts.get("cpus") or 0),
        page_bytes=page_bytes(parts.get("page", "")),
        acpi_memory=len(re.findall(r"^/sys/\S+/status$", parts.get("acpi_memory", ""), re.MULTILINE)),
        elf=collection.elf,
        misread=collection.misread,
        refused=collection.refused,
        spare_mib=max(read_level(family.config.get(config, "free_mib") or "")[0], 0),
        directory=family.config.directory(config),
        compressors=built_in(parts.get("makedumpfile", "")) if version else (),
        machine_id=found[0] if (found := re.match(r"[0-9a-f]{32}\b", parts.get("machine_id", ""))) else "",
        packing=family.config.get(config, "packing") or None,
        fadump=fadump,
    )


def joined_commands(commands: Mapping[str, str], mark: str) -> str:
    """Return a shell script whose output is that of all commands, each after a line with MARK and its name."""
    parts = (f"echo '{mark}{name}'; {{ {command}; }} 2>&1" for name, command in commands.items())
    return "; ".join([SHOW, *parts])


def split_outputs(out: str, mark: str) -> Iterator[tuple[str, str]]:
    """Yield each name and its output, from the output of joined_commands()."""
    for section in out.split(mark)[1:]:
        name, _, text = section.partition("\n")
        yield name, text.strip()


def parse_os_release(text: str) -> dict[str, str]:
    """Parse the fields of os-release(5)."""
    return dict(_unquoted(line) for line in text.splitlines() if "=" in line)


def built_in(version_text: str) -> tuple[str, ...]:
    """Parse the compressions that makedumpfile -v prints, and add none and zlib, which it always has."""
    enabled = set(re.findall(r"^(\w+)\s+enabled\s*$", version_text, re.MULTILINE))
    return tuple(name for name in COMPRESS_FLAGS if name in ("none", "zlib") or name in enabled)


def _unquoted(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip().strip("\"'")
