"""Installs, configures, reserves, arms and queries a family's kdump, from its Family."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..base.clock import poll
from ..base.crashkernel import (
    Reservation,
    release_knows_cma,
    require_cma,
    words_in,
)
from ..base.errors import CommandFailed, NotArmed, UsageError, WaitedInVain
from ..base.units import MIB
from ..distro.architecture import architecture_of_machine, find_architecture
from ..distro.config_file import Collection, last_assignment, with_assignment
from ..distro.family import COMPRESS_FLAGS, MAX_LEVEL, Family, choose_release, fill
from ..distro.packages import GUEST_PLACE, KernelChoice, LocalPackage, PackageChoice, refusal
from ..distro.serial_line import serial_line_files
from ..vm.guest import Guest
from . import reserved_memory
from .capture_image.gather import ImageReader, gather
from .capture_image.judge import ImageFacts
from .command_line import check_arguments, joined_arguments
from .guest_state import (
    LOADED,
    PROBES,
    SIZE,
    SIZE_FILE,
    GuestState,
    built_in,
    joined_commands,
    parse_os_release,
    read_state,
    says_command,
    split_outputs,
    state_commands,
)
from .reserved_memory import ReservedMemory, in_words
from .room import least_mib

# Unscaled, as for a guest under KVM.
INSTALL_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 300.0  # dracut on a busy host; what fails ends by itself
COMMAND_TIMEOUT_S = 20.0
# A restart ends when the capture kernel is loaded, or could not be: kdump-tools succeeds although kexec failed.
RESTARTED_TIMEOUT_S = 2.0
BOOTED_TIMEOUT_S = 60.0  # after kdump has loaded; longer tasks are not part of a usual boot
LOOK_EVERY_S = 1.0  # each look costs an emulated guest most of a second, while its kdump is at work
_MARK = "=====harness "  # before the name of each part of an output
LAST_LINES = 6  # of an output that is quoted in a message
_NOT_BUILT = 120  # the exit status of the harness's script; not used by boot loader tools

# A processor may keep free pages up to a share of the low watermark, which transparent huge pages raise: 21 MiB each in
# a guest of 1 GiB with two (mm/page_alloc.c, zone_highsize; Linux 5.14 and later, admin-guide/sysctl/vm.rst). They are
# not flagged as free. With a small limit, each page that is freed there lets many go.
_GIVE_BACK = """limit=/proc/sys/vm/percpu_pagelist_high_fraction
if [ -w $limit ]; then
    echo 1000000 > $limit
    for cpu in $(seq 0 $(($(nproc --all) - 1))); do
        for turn in 1 2 3; do taskset -c $cpu sh -c 'head -c 16M /dev/zero | tail -n 1 > /dev/null'; done
    done
fi
"""

# https://cloudinit.readthedocs.io/en/latest/howto/disable_cloud_init.html
_CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"


@dataclass(frozen=True, kw_only=True)
class KdumpConfig:
    """How a drill wants kdump; None leaves the guest's own setting."""

    crashkernel: str | None
    level: int | None
    compress: str | None
    append: str = ""  # to the command line of the first kernel
    capture_append: str = ""

    @property
    def reservation(self) -> Reservation:
        """Return the reservation as a value."""
        return Reservation(self.crashkernel)

    def core_collector(self, family: Family) -> tuple[int, str]:
        """Dump level and compression; the family's defaults unless given."""
        return (family.level if self.level is None else self.level, self.compress or family.compress)

    def check(self, family: Family, memory_mib: int | None = None) -> None:
        """UsageError for what no guest of this family, with so much memory, can do."""
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise UsageError(f"dump level {self.level} does not exist (0 to {MAX_LEVEL}; makedumpfile(8), -d)")
        if self.compress is not None and self.compress not in COMPRESS_FLAGS:
            raise UsageError(f"unknown compression {self.compress!r} (known: {', '.join(COMPRESS_FLAGS)})")
        if self.compress is not None and self.compress not in family.config.compressions:
            raise UsageError(
                f"kdump of the family {family.name} has no setting for compression {self.compress}"
                f" (it has {', '.join(family.config.compressions)})"
            )
        check_arguments("--append", self.append)
        check_arguments("--capture-append", self.capture_append)
        if self.capture_append and not family.capture_line.append:
            raise UsageError(f"--capture-append: the family {family.name} has no setting for it")
        # The kernels of some releases work out "auto" themselves.
        auto = any(row.bootloader.packaged == self.crashkernel == "auto" for _, row in family.releases)
        self.reservation.check(None if auto else memory_mib)


Report = Callable[[str], None]


def _silent(_line: str) -> None:
    return


class KdumpService:
    """The kdump of one guest."""

    def __init__(self, guest: Guest, family: Family) -> None:
        self.guest = guest
        self._table = family
        self.family = family  # as such until identify(); then as it is on this guest's release
        self.architecture = find_architecture("amd64")  # until identify()
        self.remark: str | None = None  # why that is only the nearest row of the table
        self._capture_arguments: str | None = None  # those that the guest's own configuration adds
        self._directory: str | None = None  # where the guest's own configuration puts dumps
        self._image_reader = ImageReader()
        self.compressors: tuple[str, ...] | None = None  # that the guest's makedumpfile supports; None when unknown

    def identify(self) -> None:
        """Learn which release the guest is and drive it as such; UsageError when it is of another family."""
        probes = {"os_release": PROBES["os_release"], "makedumpfile": self.family.commands.makedumpfile}
        answers = self._ask({**probes, "machine": "uname -m"})
        self.architecture = architecture_of_machine(answers.get("machine", "").strip()) or self.architecture
        os_release = parse_os_release(answers["os_release"])
        self.check_family(os_release)
        self.family, self.remark = choose_release(self._table, os_release, self.guest.shell.succeeds)
        version = answers["makedumpfile"]
        self.compressors = built_in(version) if "makedumpfile: version" in version else None

    def _ask(self, probes: Mapping[str, str]) -> dict[str, str]:
        """Run some commands at once and return their outputs: each single call costs an emulated guest a second."""
        script = joined_commands(probes, _MARK)
        out = self.guest.shell.run(script, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor, check=False).out
        return dict(split_outputs(out, _MARK))

    def state(self) -> GuestState:
        """Ask the guest for everything at once."""
        return read_state(self._ask(state_commands(self.family)), self.family)

    def formats(self, state: GuestState, target: str) -> tuple[str, ...]:
        """Return the formats that a dump of this guest may have."""
        formats = self.family.dumps.formats.get(target, ())
        if not state.elf:
            return formats
        return tuple(dict.fromkeys(["elf", *(name.replace("kdump", "elf") for name in formats)]))

    def check_family(self, os_release: Mapping[str, str]) -> None:
        """Raise UsageError when the guest is of another family than requested."""
        if not {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()} & self.family.known_ids:
            raise UsageError(
                f"this guest is {os_release.get('PRETTY_NAME', 'of an unknown distribution')},"
                f" not of the family {self.family.name} (choose with --family)"
            )

    def missing(self, packages: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the packages that the guest does not have."""
        return tuple(name for name in packages if not self._installed(name))

    def install(self, packages: tuple[str, ...], *, report: Report = _silent) -> None:
        """Install packages from the distribution's repositories, over the guest's network."""
        if packages:
            self._refresh(report)
            names = " ".join(map(shlex.quote, packages))
            self._run_installer(fill(self.family.commands.install, packages=names), report)

    def install_files(self, files: tuple[LocalPackage, ...], *, report: Report = _silent) -> None:
        """Bring package files into the guest and install them."""
        if not files:
            return
        command = self._must_have("install_files", "package files")
        place = GUEST_PLACE
        self.guest.shell.run("rm -rf %s && mkdir %s", place, place)
        for number, file in enumerate(files, start=1):
            report(f"copying {number} of {len(files)}: {file.name}")
            self.guest.shell.put(file.path, f"{place}/{file.name}")
        names = " ".join(shlex.quote(f"{place}/{file.name}") for file in files)
        self._run_installer(fill(command, files=names), report)
        self.guest.shell.run("rm -rf %s", place)

    def install_kernel(self, choice: KernelChoice, *, report: Report = _silent) -> str:
        """Install the kernel that is asked for and return its release; UsageError when the guest cannot have it."""
        before = self._kernels()
        self.install_choice(choice, report=report)
        after = self._kernels()
        new = sorted(after - before)
        if len(new) == 1:
            return new[0]
        if not new and len(after) == 1:
            return next(iter(after))
        brought = f"brought {len(new)} kernels" if new else "brought no new kernel"
        raise UsageError(
            f"{choice.asked} {brought}, so which one to drill is not known (the guest has {', '.join(sorted(after))})"
        )

    def install_choice(self, choice: PackageChoice, *, report: Report = _silent) -> None:
        """Install a package (from a suite, if named) or package files; raise UsageError when it does not exist."""
        if choice.files:
            self.install_files(choice.files, report=report)
        elif choice.suite:
            command = self._must_have("install_from", "packages of another suite")
            if add := self.family.commands.add_suite:
                self.guest.shell.run(fill(add, suite=choice.suite))
            self._refresh(report)
            self._run_installer(fill(command, packages=shlex.quote(choice.package), suite=choice.suite), report)
        else:
            self.install((choice.package,), report=report)

    def kernel_config(self, release: str) -> str:
        """Return the kexec and dump options of an installed kernel's configuration; empty without one."""
        asked = r"^(# )?CONFIG_(X86_64|CMA|CRASH_DUMP|KEXEC|KEXEC_FILE|PROC_VMCORE)\b"
        command = "grep -hsE %s %s %s || true"
        return self.guest.shell.run(command, asked, f"/boot/config-{release}", f"/lib/modules/{release}/config").out

    def choose_kernel(self, release: str) -> None:
        """Make the boot loader start this kernel; reserve_and_build() makes it count."""
        if len(self._kernels()) > 1:
            self.guest.shell.run(fill(self._must_have("choose", "one of several kernels"), kernel=shlex.quote(release)))

    def running_kernel(self) -> str:
        """Return the release of the kernel that runs."""
        return self.guest.shell.run("uname -r").out.strip()

    def _kernels(self) -> set[str]:
        """List the releases of the kernels in the guest."""
        return set(self.guest.shell.run(self.family.commands.kernels).out.split())

    def _must_have(self, name: str, what: str) -> str:
        """Return a command of the family that not every family has."""
        command = getattr(self.family.bootloader if name == "choose" else self.family.commands, name)
        if not command:
            raise UsageError(f"the family {self.family.name} has no way to choose {what} here")
        return str(command)

    def _refresh(self, report: Report) -> None:
        if command := self.family.commands.refresh:
            self._run_installer(command, report)

    def _run_installer(self, command: str, report: Report) -> None:
        """Run a long command and show its last line meanwhile; raise UsageError when the package does not exist."""
        timeout_s = INSTALL_TIMEOUT_S * self.guest.factor
        result = self.guest.shell.run(command, timeout_s=timeout_s, check=False, on_line=report)
        if result.ok:
            return
        lines = [line.strip() for line in f"{result.out}\n{result.err}".splitlines() if line.strip()]
        if refused := refusal("\n".join(lines)):
            raise UsageError(f"the guest's package manager refuses: {refused}")
        raise CommandFailed(f"{command!r} ended with status {result.status}: {lines[-1] if lines else 'no output'}")

    def _installed(self, package: str) -> bool:
        return self.guest.shell.succeeds(fill(self.family.commands.installed, package=shlex.quote(package)))

    def stop_updates(self) -> None:
        """Stop automatic package updates: they would disturb a drill or hold the lock during an installation."""
        if self.family.updates:
            self.guest.shell.run(f"systemctl mask --now {' '.join(self.family.updates)} 2>&1 || true")

    def enable(self) -> None:
        """Switch the service on, and make its defaults safe."""
        self._write_files(self.family.drop_ins)
        self.guest.shell.run(self.family.commands.enable, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor)
        config = self.family.config
        if settings := {name: value for name, value in config.settings.items() if config.keys.get(name)}:
            self.configure(settings)

    def keep_serial_login(self) -> None:
        """Make the next boots wait for the serial line as long as a slow host needs."""
        files = serial_line_files(self.architecture.console_device)
        self._write_files({f"/{path}": text for path, text in files.items()})

    def _write_files(self, files: Mapping[str, str]) -> None:
        """Write files, by their absolute paths, and make their directories."""
        for path, text in files.items():
            self.guest.shell.run("mkdir -p %s", str(PurePosixPath(path).parent))
            self.guest.shell.write_text(path, text.lstrip())

    def original_directory(self) -> str:
        """Return the dump directory that the guest was configured with before the target was changed."""
        if self._directory is None:
            config = self.family.config
            self._directory = config.directory(self.guest.shell.read_text(config.file)) or config.directory("") or ""
        return self._directory

    def configure(self, settings: Mapping[str, str | None]) -> bool:
        """Write settings into the guest's configuration, where they differ from it, None for none; whether any did."""
        text = self.guest.shell.read_text(self.family.config.file)
        return self._replace_config(text, self.family.config.edit(text, settings))

    def set_core_collector(self, level: int | None, compress: str | None) -> bool:
        """Write dump level and compression into the guest's configuration, where they differ; whether they did.

        UsageError names a compression that the guest's makedumpfile was built without.
        """
        config = self.family.config
        text = self.guest.shell.read_text(config.file)
        now = config.core_collector(text)
        wanted = Collection(now.level if level is None else level, now.compress if compress is None else compress)
        if self.compressors is not None and wanted.compress not in self.compressors:
            raise UsageError(
                f"the guest's makedumpfile was built without {wanted.compress} (it has {', '.join(self.compressors)})"
            )
        if wanted == now or (level is None and compress is None):
            return False
        return self._replace_config(text, config.with_collection(text, wanted.level, wanted.compress))

    def capture_arguments(self) -> str:
        """Return the arguments that kdump's own configuration adds to the capture kernel's command line."""
        line = self.family.capture_line
        if not line.append:
            return ""
        now = last_assignment(self.guest.shell.read_text(line.file), line.append) or None
        if now is None and line.default:
            return str(self.guest.shell.run(line.default).out).strip()
        return now or ""

    def _replaced_arguments(self) -> str:
        """Return the arguments that kdump's own configuration has in the place of the running kernel's; or nothing."""
        line = self.family.capture_line
        return (last_assignment(self.guest.shell.read_text(line.file), line.replace) or "") if line.replace else ""

    def rebuild_image(self) -> None:
        """Build the capture initramfs anew on the guest as it is; NotArmed quotes a build that failed."""
        kernel = self.running_kernel()
        old = " ".join(shlex.quote(fill(place, kernel=kernel)) for place in self.family.capture_initramfs)
        command = f"rm -f {old}; {fill(self.family.commands.build, kernel=kernel)}"
        timeout_s = BUILD_TIMEOUT_S * self.guest.factor
        made = self.guest.shell.run(f"{{ {command}\n}} 2>&1", timeout_s=timeout_s, check=False)
        if not made.ok:
            raise NotArmed(f"kdump is not armed: {command!r} failed: {_last_words(made.out)}", said=made.out.strip())

    def image_facts(
        self, state: GuestState, directory: str, address: str = "", protocol: str = ""
    ) -> ImageFacts | None:
        """Return the facts about the capture initramfs and what it must reach: DIRECTORY, or a server by PROTOCOL.

        None where the guest has no capture initramfs at the family's places; CannotList if it cannot be read.
        """
        return gather(
            self.guest.shell,
            self.family,
            self._image_reader,
            kernel=state.kernel,
            directory=directory,
            address=address,
            protocol=protocol,
            arguments=joined_arguments(self._replaced_arguments() or state.cmdline, self.capture_arguments()),
            fixed_kib=state.reserved.fixed_bytes >> 10,
            least_mib=least_mib(state) + state.spare_mib,
            factor=self.guest.factor,
        )

    def append_to_capture(self, more: str) -> bool:
        """Add arguments to the capture kernel's command line, in kdump's own configuration; whether it changed."""
        line = self.family.capture_line
        if not line.append:
            return False
        text = self.guest.shell.read_text(line.file)
        now = last_assignment(text, line.append) or None
        if self._capture_arguments is None:
            self._capture_arguments = self.capture_arguments()
        wanted = joined_arguments(self._capture_arguments, more)
        if wanted == joined_arguments(now or self._capture_arguments):
            return False
        self.guest.shell.write_text(line.file, with_assignment(text, line.append, wanted), mode=self.family.config.mode)
        return True

    def capture_line_replaced(self) -> str | None:
        """Return a remark where the capture kernel does not inherit the first kernel's arguments."""
        if not self._replaced_arguments():
            return None
        line = self.family.capture_line
        return f"--append does not reach the capture kernel: {line.replace} of {line.file} replaces its arguments"

    def _replace_config(self, old: str, new: str) -> bool:
        if new == old:
            return False
        self.guest.shell.write_text(self.family.config.file, new, mode=self.family.config.mode)
        return True

    def boot_arguments(self, crashkernel: str | None, append: str = "") -> str:
        """List the kernel arguments that a drill needs, and those that are added."""
        return joined_arguments(self.architecture.arguments, Reservation(crashkernel).arguments, append)

    def write_bootloader(self, crashkernel: str | None, append: str = "") -> None:
        """Write the boot loader's drop-in file, where supported; reserve_and_build() applies it."""
        bootloader = self.family.bootloader
        if not bootloader.file:
            return
        text = fill(bootloader.template, arguments=self.boot_arguments(crashkernel, append))
        if crashkernel is not None and not Reservation(crashkernel).distribution_default:
            text = bootloader.without + text
        self.guest.shell.write_text(bootloader.file, text.lstrip())

    def configured_reservation(self) -> tuple[str, ...]:
        """Return the values of crashkernel= in the guest's own boot loader configuration."""
        command = self.family.bootloader.configured
        if not command:
            return ()
        said = self.guest.shell.run(command, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor, check=False).out
        return tuple(dict.fromkeys(words_in(re.sub(r"[\"']", " ", said))))

    def booted_reservation(self) -> tuple[str, ...]:
        """Return the values of crashkernel= that the running kernel was started with."""
        return words_in(self.guest.shell.run("cat /proc/cmdline").out)

    def check_cma(self, crashkernel: str | None, kernel: str) -> None:
        """Raise UsageError for crashkernel=...,cma where an installed kernel cannot reserve it."""
        reservation = Reservation(crashkernel)
        if reservation.cma is None:
            return
        # Some distributions added it to older kernels; only the running one shows its functions.
        added = f"[ $(uname -r) = {shlex.quote(kernel)} ] && grep -qw reserve_crashkernel_cma /proc/kallsyms"
        knows = release_knows_cma(kernel) or self.guest.shell.succeeds(added)
        require_cma(reservation, kernel, self.kernel_config(kernel), knows_cma=knows)

    def reserve_command(self, crashkernel: str | None, append: str = "") -> str:
        """Return the command that puts the arguments on the kernel's command line at the next boot."""
        bootloader = self.family.bootloader
        reservation = Reservation(crashkernel)
        also = bootloader.none if reservation.none else bootloader.default if reservation.distribution_default else ""
        steps = (fill(bootloader.reserve, arguments=self.boot_arguments(crashkernel, append)), also)
        return " && ".join(step.strip() for step in steps if step)

    def reserve_and_build(
        self, crashkernel: str | None, *, append: str = "", kernel: str | None = None, report: Report = _silent
    ) -> str:
        """Update the boot loader and build the capture initramfs, with the guest's own tools, side by side.

        kernel is the release to build for; the running one unless said. Returns what was said; NotArmed quotes a build
        that failed, CommandFailed a boot loader.
        """
        running = self.running_kernel()
        kernel = kernel or running
        build = fill(self.family.commands.build, kernel=kernel)
        if kernel != running and build == self.family.commands.build:
            build = "true"  # it can only build for the running kernel; the service does it when the other one runs
        reserve = self.reserve_command(crashkernel, append)
        script = (
            f"({reserve}) >/tmp/reserve.log 2>&1 & reserve=$!; ({build}) 2>&1; built=$?;"
            " wait $reserve || { reserved=$?; cat /tmp/reserve.log; exit $reserved; };"
            f' [ $built = 0 ] || {{ echo "[status $built]"; exit {_NOT_BUILT}; }}; cat /tmp/reserve.log'
        )
        made = self.guest.shell.run(script, timeout_s=BUILD_TIMEOUT_S * self.guest.factor, check=False, on_line=report)
        if made.status == _NOT_BUILT:
            reason = f"kdump is not armed: {build!r} failed: {_last_words(made.out)}"
            raise NotArmed(reason, said=made.out.strip())
        if not made.ok:
            raise CommandFailed(f"{reserve!r} ended with status {made.status}: {_last_words(made.out)}")
        return made.out

    def pause_cloud_init(self) -> None:
        """Leave cloud-init out of the next boots: it has done its work and costs an emulated guest half a minute."""
        self.guest.shell.run("test ! -d /etc/cloud || touch %s", _CLOUD_INIT_OFF)

    def resume_cloud_init(self) -> None:
        """Let cloud-init run at the next boot again."""
        self.guest.shell.run("rm -f %s", _CLOUD_INIT_OFF)

    def arm(self) -> None:
        """(Re)start the service and wait until the capture kernel is loaded; NotArmed quotes why it is not."""
        command = self.family.commands.arm
        # A running service may fail to restart and still be called active: only its status is reliable.
        armed = self.guest.shell.run(f"{command} 2>&1", timeout_s=BUILD_TIMEOUT_S * self.guest.factor, check=False)
        if not armed.ok and not self.is_loaded():
            reason = f"kdump is not armed: {command!r} ended with status {armed.status}: {_last_words(armed.out)}"
            raise NotArmed(reason, said=armed.out.strip())
        self.wait_until_loaded(RESTARTED_TIMEOUT_S)

    def give_back_free_pages(self) -> None:
        """Return each processor's cached free pages to the common pool, where the kernel supports that.

        Cached pages look like kernel pages: no dump level drops them, and their number varies.
        """
        self.guest.shell.run(_GIVE_BACK, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor)

    def shrink(self, main_mib: int) -> None:
        """Give back all but so much of the main part of the reservation, and load the capture kernel into the rest.

        CommandFailed where the kernel refuses, as it does to reserve more; NotArmed where the rest is too small.
        """
        self.guest.shell.run("systemctl stop %s", self.family.service, timeout_s=COMMAND_TIMEOUT_S * self.guest.factor)
        if self.is_loaded():
            self.guest.shell.run("kexec -p -u")
        before = self._reserved()
        # Linux 6.5 and later count the low part in the file, and take the high one away first.
        low_bytes = before.low_bytes if before.high_bytes and before.size_bytes == before.fixed_bytes else 0
        self.guest.shell.run(f"{SIZE_FILE}; echo {main_mib * MIB + low_bytes} > $f")
        left = self._reserved()
        if left.main_bytes != main_mib * MIB or left.low_bytes < min(low_bytes, before.low_bytes):
            raise CommandFailed(f"the kernel kept {in_words(left.to_json())} of the reservation, not {main_mib} MiB")
        self.arm()

    def _reserved(self) -> ReservedMemory:
        """Return the parts of the reservation as they are now."""
        parts = self._ask({**reserved_memory.COMMANDS, "crash_size_bytes": SIZE})
        return reserved_memory.parse(parts["iomem"], parts["crash_cma"], parts["crash_size_bytes"])

    def is_loaded(self) -> bool:
        """Whether the kernel has a capture kernel to jump to."""
        return self.guest.shell.run(LOADED, check=False).out.strip() == "1"

    def wait_until_loaded(self, timeout_s: float | None = None) -> None:
        """Wait for the service and kexec_crash_loaded; NotArmed quotes what kdump's own status says.

        The time is the family's by default.
        """
        # SUSE loads early in the boot and again when the service starts: in between, nothing is loaded.
        self.settle()

        def failed() -> str | None:
            line = self._service_state()
            if line == "inactive" and self.guest.shell.run(SIZE, check=False).out.strip() == "0":
                # Units with a condition on crashkernel= are skipped, and never fail.
                return f"{self.family.service} does not start: the kernel reserved no memory"
            return f"{self.family.service} has failed" if line == "failed" else None

        try:
            poll(
                "kexec_crash_loaded to become 1",
                lambda: True if self.is_loaded() else None,
                timeout_s=(self.family.load_timeout_s if timeout_s is None else timeout_s) * self.guest.factor,
                every_s=LOOK_EVERY_S * self.guest.factor,
                give_up=failed,
            )
        except WaitedInVain as error:
            raise NotArmed(f"kdump is not armed: {failed() or error}", said=self.says()) from None

    def says(self) -> str:
        """Return the service's last log lines, and kdump's status, which may wait for a lock that is never released."""
        try:
            return self.guest.shell.run(
                says_command(self.family), timeout_s=COMMAND_TIMEOUT_S * self.guest.factor, check=False
            ).out.strip()
        except CommandFailed as error:
            return str(error)

    def settle(self) -> None:
        """Wait until the service is done with starting, whatever comes of it."""
        with contextlib.suppress(WaitedInVain):
            poll(
                f"{self.family.service} to have started",
                lambda: None if self._has_a_job() else True,
                timeout_s=self.family.load_timeout_s * self.guest.factor,
                every_s=LOOK_EVERY_S * self.guest.factor,
            )

    def wait_until_booted(self) -> str | None:
        """Wait until the boot is over, not only its login prompt there; what is still starting when it takes too long.

        cloud-init's last stage comes after the prompt, and what it holds would be in some dumps and not in others.
        """
        try:
            poll(
                "the boot of the guest to end",
                lambda: None if self._is_booting() else True,
                timeout_s=BOOTED_TIMEOUT_S * self.guest.factor,
                every_s=LOOK_EVERY_S * self.guest.factor,
            )
        except WaitedInVain:
            jobs = self.guest.shell.run("systemctl list-jobs --no-legend", check=False).out.splitlines()
            return ", ".join(words[1] for words in map(str.split, jobs) if len(words) > 1)
        return None

    def _is_booting(self) -> bool:
        """Whether systemd's first queue of jobs is not done yet; what a timer starts later does not count."""
        return self.guest.shell.run("systemctl is-system-running", check=False).out.strip() in (
            "initializing",
            "starting",
        )

    def _has_a_job(self) -> bool:
        """Whether the service is starting, or will as soon as others have: until then it is merely inactive."""
        jobs = self.guest.shell.run("systemctl list-jobs --no-legend %s", self.family.service, check=False)
        return bool(jobs.out.strip())

    def _service_state(self) -> str:
        return self.guest.shell.run("systemctl is-active %s", self.family.service, check=False).out.strip()

    def suggested_mib(self) -> int | None:
        """Return the reservation that the guest's own tool suggests; None if it has none, or prints nothing."""
        command = self.family.commands.estimate
        if not command:
            return None
        said = self.guest.shell.run(f"{command} 2>&1", timeout_s=BUILD_TIMEOUT_S * self.guest.factor, check=False).out
        found = re.findall(self.family.suggestion, said)
        return sum(map(int, found)) if found else None


def _last_words(text: str) -> str:
    """Return the end of an output, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:]) or "nothing"
