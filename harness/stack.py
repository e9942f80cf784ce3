"""Installs, configures, reserves, arms and queries a family's kdump, from its Family."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from .errors import CommandFailed, UsageError
from .family import COMPRESS_FLAGS, MAX_LEVEL, Family
from .guest import Guest
from .timing import poll

MIB = 1 << 20
# Unscaled, as for a guest under KVM.
INSTALL_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 150.0
ARM_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 20.0

# Our own serial console last and every message on it; "quiet" would hide the capture kernel's troubles.
CONSOLE_ARGUMENTS = "console=tty0 console=ttyS0,115200n8 ignore_loglevel"

# Kernels since about 6.19 moved the files below /sys/kernel/kexec; the old names are deprecated links.
_LOADED = "cat /sys/kernel/kexec_crash_loaded 2>/dev/null || cat /sys/kernel/kexec/crash_loaded"
_SIZE = "cat /sys/kernel/kexec_crash_size 2>/dev/null || cat /sys/kernel/kexec/crash_size"

# https://cloudinit.readthedocs.io/en/latest/howto/disable_cloud_init.html
_CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"

_WITH_VALUE = "bdgix"  # options of makedumpfile that take a value

_PROBE = {
    "boot_id": "cat /proc/sys/kernel/random/boot_id",
    "kernel": "uname -r",
    "cmdline": "cat /proc/cmdline",
    "loaded": _LOADED,
    "crash_size_bytes": _SIZE,
    "os_release": "cat /etc/os-release",
    "meminfo": "cat /proc/meminfo",
    "clock_s": "date +%s.%N",
    "hostname": "cat /proc/sys/kernel/hostname",
}


@dataclass(frozen=True, kw_only=True)
class KdumpConfig:
    """How a drill wants kdump; None leaves the guest's own setting."""

    crashkernel: str | None  # "none" for no reservation, "default" for the distribution's
    level: int | None
    compress: str | None

    def check(self, family: Family) -> None:
        """UsageError for what no guest of this family can do."""
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise UsageError(f"dump level {self.level} does not exist (0 to {MAX_LEVEL}; makedumpfile(8), -d)")
        if self.compress is not None and self.compress not in COMPRESS_FLAGS:
            raise UsageError(f"unknown compression {self.compress!r} (known: {', '.join(COMPRESS_FLAGS)})")
        if self.crashkernel is not None and not re.fullmatch(r"[\w@,:.+-]+", self.crashkernel):
            raise UsageError(
                f"crashkernel={self.crashkernel!r} cannot be a kernel argument (as in 256M or 1G-4G:192M,4G-:256M)"
            )


@dataclass(frozen=True, kw_only=True)
class GuestState:
    """What a guest says of itself at one moment."""

    boot_id: str
    kernel: str
    cmdline: str
    loaded: bool
    reserved_bytes: int
    meminfo_kib: dict[str, int]
    clock_s: float
    os_release: dict[str, str]
    makedumpfile: str | None  # version, None when it is not installed
    level: int | None
    compress: str | None
    hostname: str
    compressors: tuple[str, ...] = ()  # the compressions that its makedumpfile has

    @property
    def crashkernel(self) -> str | None:
        """The last crashkernel= of the command line, which is the one that counts."""
        found = re.findall(r"(?:^|\s)crashkernel=(\S+)", self.cmdline)
        return found[-1] if found else None


class Stack:
    """The kdump of one guest."""

    def __init__(self, guest: Guest, family: Family) -> None:
        self.guest = guest
        self.family = family

    def state(self) -> GuestState:
        """Ask the guest for everything at once; each command alone costs an emulated guest a second."""
        probes = {
            **_PROBE,
            "makedumpfile": self.family.commands.makedumpfile,
            "config": f"cat -- {shlex.quote(self.family.config_file)}",
        }
        mark = "=====harness "
        script = "; ".join(f"echo '{mark}{name}'; {{ {command}; }} 2>&1" for name, command in probes.items())
        out = self.guest.shell.run(script, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor, check=False).out
        parts: dict[str, str] = {}
        for section in out.split(mark)[1:]:
            name, _, text = section.partition("\n")
            parts[name] = text.strip()
        version = re.search(r"makedumpfile: version (\S+)", parts.get("makedumpfile", ""))
        level, compress = self.configured(parts.get("config", ""))
        return GuestState(
            boot_id=parts["boot_id"],
            kernel=parts["kernel"],
            cmdline=parts["cmdline"],
            loaded=parts["loaded"] == "1",
            reserved_bytes=int(parts["crash_size_bytes"]) if parts["crash_size_bytes"].isdigit() else 0,
            meminfo_kib={
                name: int(value.split()[0])
                for name, _, value in (line.partition(":") for line in parts["meminfo"].splitlines())
                if value.strip()
            },
            clock_s=float(parts["clock_s"]),
            os_release=dict(_unquoted(line) for line in parts["os_release"].splitlines() if "=" in line),
            makedumpfile=version.group(1) if version else None,
            level=level,
            compress=compress,
            hostname=parts["hostname"],
            compressors=built_in(parts.get("makedumpfile", "")) if version else (),
        )

    def configured(self, config: str) -> tuple[int | None, str | None]:
        """Level and compression that a configuration file asks for."""
        options = self.family.config.default
        for line in config.splitlines():
            if re.search(self.family.config.pattern, line):
                options = _assigned(line)
        return _asked(options)

    def check_family(self, state: GuestState) -> None:
        """UsageError when the guest is of another family than we were told."""
        known = {state.os_release.get("ID", ""), *state.os_release.get("ID_LIKE", "").split()}
        if not known & set(self.family.os_ids):
            raise UsageError(
                f"this guest is {state.os_release.get('PRETTY_NAME', 'of an unknown distribution')},"
                f" not of the family {self.family.name} (choose with --family)"
            )

    def install(self, packages: tuple[str, ...]) -> bool:
        """Install what is missing; whether anything was."""
        missing = [name for name in packages if not self._installed(name)]
        if not missing:
            return False
        commands = self.family.commands
        timeout_s = INSTALL_TIMEOUT_S * self.guest.factor
        self.guest.shell.run(commands.refresh, timeout_s=timeout_s)
        line = commands.install.format(packages=" ".join(shlex.quote(name) for name in missing))
        self.guest.shell.run(line, timeout_s=timeout_s)
        return True

    def _installed(self, package: str) -> bool:
        if self.family.name == "debian":
            return "ok installed" in self.guest.shell.run("dpkg-query -Wf '${Status}' %s", package, check=False).out
        return self.guest.shell.succeeds("rpm -q %s", package)

    def enable(self) -> None:
        """Switch the service on in its configuration, and make its defaults safe."""
        for path, text in self.family.drop_ins.items():
            self.guest.shell.run("mkdir -p %s", str(PurePosixPath(path).parent))
            self.guest.shell.write_text(path, text.lstrip())
        self.guest.shell.run(self.family.commands.enable, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor)

    def collect_with(self, level: int | None, compress: str | None) -> None:
        """Write dump level and compression into the guest's configuration, where they differ from it."""
        text = self.guest.shell.read_text(self.family.config_file)
        now_level, now_compress = self.configured(text)
        level = now_level if level is None else level
        compress = now_compress if compress is None else compress
        if (level, compress) == (now_level, now_compress):
            return
        line = self.family.config.collector.format(flags=COMPRESS_FLAGS[compress or "none"], level=level).replace(
            '" ', '"'
        )
        kept = [old for old in text.splitlines() if not re.search(self.family.config.pattern, old)]
        self.guest.shell.write_text(self.family.config_file, "\n".join([*kept, line]) + "\n")

    def boot_arguments(self, crashkernel: str | None) -> str:
        """The kernel arguments that a drill needs."""
        reservation = "" if crashkernel in (None, "none", "default") else f" crashkernel={crashkernel}"
        return CONSOLE_ARGUMENTS + reservation

    def write_bootloader(self, crashkernel: str | None) -> None:
        """The drop-in with our arguments; reserve() makes the boot loader read it."""
        text = self.family.bootloader.template.format(arguments=self.boot_arguments(crashkernel)).lstrip()
        if crashkernel == "none":
            # Without a reservation at all: also the packaged default has to go.
            text += self.family.bootloader.none
        self.guest.shell.write_text(self.family.bootloader.file, text)

    def reserve_and_build(self) -> None:
        """Update the boot loader and build the capture initramfs, with the guest's own tools, side by side."""
        commands = self.family.commands
        script = (
            f"({commands.reserve}) >/tmp/reserve.log 2>&1 & reserve=$!; ({commands.build}); built=$?;"
            " wait $reserve; reserved=$?; cat /tmp/reserve.log; exit $((reserved ? reserved : built))"
        )
        self.guest.shell.run(script, timeout_s=BUILD_TIMEOUT_S * self.guest.factor)

    def pause_cloud_init(self) -> None:
        """Leave cloud-init out of the next boots: it has done its work and costs an emulated guest half a minute."""
        self.guest.shell.run("test ! -d /etc/cloud || touch %s", _CLOUD_INIT_OFF)

    def resume_cloud_init(self) -> None:
        """Let cloud-init run at the next boot again."""
        self.guest.shell.run("rm -f %s", _CLOUD_INIT_OFF)

    def arm(self) -> None:
        """(Re)start the service and wait until the capture kernel is loaded."""
        self.guest.shell.run(self.family.commands.arm, timeout_s=BUILD_TIMEOUT_S * self.guest.factor, check=False)
        self.wait_until_loaded()

    def is_loaded(self) -> bool:
        """Whether the kernel has a capture kernel to jump to."""
        return self.guest.shell.run(_LOADED, check=False).out.strip() == "1"

    def wait_until_loaded(self) -> None:
        """Wait for kexec_crash_loaded; CommandFailed quotes what kdump's own status says."""

        def failed() -> str | None:
            line = self.guest.shell.run("systemctl is-active %s", self.family.service, check=False).out.strip()
            return f"{self.family.service} has failed" if line == "failed" else None

        try:
            poll(
                "kexec_crash_loaded to become 1",
                lambda: True if self.is_loaded() else None,
                timeout_s=ARM_TIMEOUT_S * self.guest.factor,
                every_s=1.0,
                give_up=failed,
            )
        except Exception as error:
            said = self.guest.shell.run(f"{self.family.commands.status} 2>&1 | tail -20", check=False).out.strip()
            raise CommandFailed(f"{error}; {self.family.commands.status} says: {said}") from None


def _assigned(line: str) -> str:
    """The value of a shell assignment, without quotes and comment."""
    value = line.partition("=")[2]
    try:
        return next(iter(shlex.split(value, comments=True)), "")
    except ValueError:  # a quote that is not closed
        return value.strip().strip("\"'")


def _asked(options: str) -> tuple[int, str]:
    """Level and compression among makedumpfile's options; the last one of a kind counts, as for getopt."""
    level, compress = 0, "none"
    names = {flag[1:]: name for name, flag in COMPRESS_FLAGS.items() if flag}
    words = iter(options.split())
    for word in words:
        if not word.startswith("-") or word.startswith("--"):
            continue
        for at, letter in enumerate(word[1:], start=2):
            compress = names.get(letter, compress)
            if letter in _WITH_VALUE:
                value = word[at:] or next(words, "")
                level = int(value) if letter == "d" and value.isdigit() else level
                break
    return level, compress


def built_in(version_text: str) -> tuple[str, ...]:
    """The compressions in what makedumpfile -v prints; it does not speak of none and zlib, which are always there."""
    enabled = set(re.findall(r"^(\w+)\s+enabled\s*$", version_text, re.MULTILINE))
    return tuple(name for name in COMPRESS_FLAGS if name in ("none", "zlib") or name in enabled)


def _unquoted(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip().strip('"')
