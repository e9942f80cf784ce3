"""Clone a libvirt domain: copy its disks at one point in time, and write to none of its files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

from ..base.clock import pause
from ..base.errors import GuestError, HostError, NoVerdict, UsageError
from ..base.units import MIB
from ..distro.family import Family, load_families
from ..kdump.guest_state import parse_os_release
from ..kdump.service import BUILD_TIMEOUT_S, KdumpConfig, KdumpService
from ..kdump.target import places_away
from ..vm.capacity import available_mib
from ..vm.fsfreeze import begin_copy
from ..vm.guest import Guest
from ..vm.hypervisor.clone_xml import CloneParts, clone_xml
from ..vm.hypervisor.connection import Hypervisor, default_uri, is_local
from ..vm.hypervisor.source_description import OriginalDisk, SourceDescription, read_original
from ..vm.hypervisor.source_domain import CopyJob, SourceDomain
from ..vm.run import CloneTemplate, Identity, Machine, Run
from .disks import BaseDisk

LOOK_EVERY_S = 0.5
COPY_SPARE_MIB = 512
MEDIUM_MAX_BYTES = 64 * MIB  # a seed of cloud-init, not the CD of an installation


@dataclass(frozen=True, kw_only=True)
class CloneRequest:
    """The options of a clone, apart from its domain."""

    memory_mib: int | None = None  # default: as much as the original
    vcpus: int | None = None
    cpu_level: int | None = None
    keep_macs: bool = False
    seeded: bool = True  # cloud-init gets a key of the harness; not needed where the user has a login
    family: Family | None = None


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A machine like the user's, that is not started yet."""

    original: SourceDescription
    base: BaseDisk  # the copy of the system's disk, which the clone writes to
    machine: Machine
    identity: Identity
    like: CloneTemplate
    remarks: tuple[str, ...]
    family: Family | None = None  # as the user says; None: the guest is asked

    @property
    def image(self) -> str:
        """The name of the clone in a verdict."""
        return f"domain:{self.original.name}"

    def boot(self, guest: Guest, report: Callable[[str], None]) -> str | None:
        """Boot the clone until SSH and the serial console work; return a remark on the boot.

        Raise GuestError that names causes which only a clone can have.
        """
        guest.power_on()
        up = on_console = False
        try:
            on_console = guest.wait_until_up()
            up = True
            guest.connect()
        except GuestError as error:
            if hint := self._hint(guest, up=up):
                error.args = (f"{error.args[0]}; {hint}",)
            raise
        return None if on_console else self._give_console(guest, report)

    def _hint(self, guest: Guest, *, up: bool) -> str:
        """Return hints for a clone that did not boot, or that could not be reached."""
        if not up and self.original.left_out:
            return f"the clone lacks {' and '.join(self.original.left_out)}, which its /etc/fstab may wait for"
        if guest.domain.address() is None:
            return "the clone's network gives addresses by DHCP only, so a fixed address is of no use there" + (
                "" if self.like.seeded else ", nor is a configuration for the original's MAC (--keep-mac keeps it)"
            )
        if not up:
            return ""
        if self.like.seeded:
            return "without cloud-init it has no key of the harness (use --login with --key or --password-file)"
        return "does the key or the password belong to the login?"

    def _give_console(self, guest: Guest, report: Callable[[str], None]) -> str:
        """Add a serial console to the kernel's command line, since a crash is followed there, and boot with it."""
        report(f"{self.original.name}: the clone has no serial console; it is given one, and boots again")
        service = KdumpService(guest, self.family or family_of(guest))
        service.identify()
        service.keep_serial_login()
        service.write_bootloader(None)
        before = guest.boot_id()
        guest.shell.run(service.reserve_command(None), timeout_s=BUILD_TIMEOUT_S * guest.factor)
        guest.shell.start("systemctl reboot")
        guest.close_shell()
        guest.wait_for_login()
        if guest.connect() == before:
            raise GuestError(f"{guest.name} has a login prompt, but not rebooted (boot id {before[:8]})")
        return f"the original has no serial console: the clone's kernel got one ({service.architecture.arguments})"

    def dumps_away(self, guest: Guest, family: Family) -> str | None:
        """Return a remark on a kdump that sends its dumps to another machine, which the clone cannot reach."""
        if not (away := places_away(family, guest.shell.read_text(family.config.file))):
            return None
        return (
            f"its kdump sends dumps {away}, which the clone's network does not reach:"
            " --target local drills it with a local directory"
        )


def family_of(guest: Guest) -> Family:
    """Return the family of a guest by its os-release. Raise UsageError for an unknown one."""
    return find_by_os_release(parse_os_release(guest.shell.read_text("/etc/os-release")))


def find_by_os_release(os_release: Mapping[str, str]) -> Family:
    """Return the family of a distribution by its ID, else by the IDs that it resembles."""
    for identity in (os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()):
        for family in load_families().values():
            if identity in family.known_ids:
                return family
    distribution = os_release.get("PRETTY_NAME", "of an unknown distribution")
    raise UsageError(f"the clone is {distribution}, not of a known family ({', '.join(load_families())})")


def describe_domain(uri: str | None, name: str) -> SourceDescription:
    """Describe a domain. Raise UsageError for one that cannot be cloned, and HostError for one on another host."""
    uri = uri or default_uri()
    if not is_local(uri):
        raise HostError(f"{uri} is on another host, and disks are copied on this one; run kdump-harness there")
    hypervisor = Hypervisor(uri)
    try:
        domain = hypervisor.find(name)
        return read_original(name, domain.xml(), domain.volume)
    finally:
        hypervisor.close()


def check_config(config: KdumpConfig, family: Family | None) -> None:
    """UsageError for what cannot be asked of the family's kdump, or of any where the family is not known yet."""
    refusals = []
    for one in (family,) if family is not None else load_families().values():
        try:
            config.check(one)
        except UsageError as error:
            refusals.append(error)
        else:
            return
    raise refusals[0]


def label_of(name: str) -> str:
    """Return the domain's name as a part of host, domain and directory names."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:40] or "clone"


# ---------------------------------------------------------------- making


def make_clone(run: Run, name: str, request: CloneRequest) -> Clone:
    """Copy the disks of a domain as they are now, and describe a machine for them; all of it goes with the run."""
    domain = run.hypervisor.find(name)
    original = read_original(name, domain.xml(), domain.volume)
    machine = Machine(
        memory_mib=request.memory_mib or original.memory_mib,
        dimms_mib=original.dimms_mib,
        vcpus=request.vcpus or original.vcpus,
        firmware=original.firmware,
        cpu_level=request.cpu_level,
    )
    machine.check()
    _check_memory(name, machine.total_mib)
    used_mib = sum(_used_bytes(disk) for disk in original.disks) // MIB
    run.state.require_space(used_mib + COPY_SPARE_MIB, f"a copy of what is used of the disks of {name}")
    copies = {disk.target: run.private_disk(_capacity_bytes(domain, disk)) for disk in original.disks}
    life = domain.life()
    if life is not None:
        moment = _copy_running(run, domain, original, copies)
    else:
        moment = _copy_shut_off(run, domain, original, copies)
    if unreadable := [copy for copy in copies.values() if not os.access(copy, os.R_OK)]:
        raise HostError(f"libvirt has made {unreadable[0]}, a copy of a disk of {name}, root's (run as root)")
    if domain.life() != life:
        raise NoVerdict(f"{name} was started or stopped while its disks were being copied; drill it once more")
    identity = run.identity(label_of(name))
    if request.keep_macs and original.macs:
        identity = replace(identity, mac=original.macs[0])
    remarks = [moment]
    nvram = _copy_nvram(run, original, remarks)
    media = {} if request.seeded else dict(_copy_media(run, original))
    left_out = [*original.left_out]
    if not request.seeded:
        left_out += [f"the CD in {target}" for target in original.media if target not in media]
    remarks += [f"the clone lacks {what}" for what in left_out]
    remarks.append(_network_remark(original, request))
    if original.kind != ("kvm" if run.accelerator == "kvm" else "qemu"):
        remarks.append(f"the original runs on {original.kind}, the clone on {run.accelerator}: its processor differs")
    parts = CloneParts(disks=copies, media=media, nvram=nvram, keep_macs=request.keep_macs)
    system = copies[original.disks[0].target]
    return Clone(
        original=original,
        base=BaseDisk(path=system, format="qcow2", key="", packages=(), source=f"a copy of the domain {name}"),
        machine=machine,
        identity=identity,
        like=CloneTemplate(
            describe=lambda spec: clone_xml(original, spec, parts),
            network=run.clone_network(),
            seeded=request.seeded,
        ),
        remarks=tuple(remarks),
        family=request.family,
    )


def _check_memory(name: str, need_mib: int) -> None:
    """HostError before the host runs out of memory and its kernel ends the original, or another machine."""
    if (free_mib := available_mib()) < need_mib:
        raise HostError(
            f"a clone of {name} needs {need_mib} MiB of memory, {free_mib} MiB are free on this host"
            " (--memory MIB gives it less)"
        )


def _used_bytes(disk: OriginalDisk) -> int:
    """Return the maximum size of a copy, as far as it is known without reading the disk."""
    used = 0
    for path in (disk.source, *disk.backing):
        with contextlib.suppress(OSError):
            status = path.stat()
            used += status.st_blocks * 512
            if path.is_block_device():
                with path.open("rb") as device:
                    used += device.seek(0, os.SEEK_END)
    return used


def _capacity_bytes(domain: SourceDomain, disk: OriginalDisk) -> int:
    if domain.life() is None and not os.access(disk.source, os.R_OK):
        raise UsageError(
            f"{domain.name} is shut off, and its disk {disk.source} "
            + ("cannot be read by this user (run as root)" if disk.source.exists() else "does not exist")
        )
    return domain.capacity_bytes(disk.target)


def _copy_running(run: Run, domain: SourceDomain, original: SourceDescription, copies: Mapping[str, Path]) -> str:
    """Let the domain's own QEMU copy all disks at one point in time; return a remark on that point.

    No snapshot is made: QEMU copies a block before the guest overwrites it. If the harness is killed, the copying
    continues to its end, into files that clean removes.
    """
    order = run.directory.path / "copy.xml"
    order.write_text(backup_xml(original, copies), encoding="utf-8")
    first = next(iter(copies.values()))
    with run.progress.step(f"copying the disks of {domain.name}, which keeps running"):
        try:
            begun = begin_copy(run.hypervisor.uri, domain.name, order, freeze=original.agent)
            while not (job := domain.copy_job()).ended:
                run.progress.detail(_how_far(job))
                pause(LOOK_EVERY_S)
        except BaseException:
            domain.end_copy(first)
            raise
    if job.error:
        raise NoVerdict(f"the disks of {domain.name} could not be copied: {job.error}")
    if begun.frozen_s is not None:
        return f"copied while it ran, its filesystems frozen by the guest agent for {begun.frozen_s:.1f} s"
    why = begun.why_not or "it has no guest agent to freeze its filesystems"
    return f"copied while it ran, as after a power cut ({why})"


def backup_xml(original: SourceDescription, copies: Mapping[str, Path]) -> str:
    """libvirt's order to copy these disks, and no others, into files that are there."""
    disks = "".join(
        f'<disk name={quoteattr(disk.target)} backup="yes" type="file"><driver type="qcow2"/>'
        f"<target file={quoteattr(str(copies[disk.target]))}/></disk>"
        for disk in original.disks
    )
    # Disks that are not named would be copied, too, to places of libvirt's choice.
    others = "".join(f'<disk name={quoteattr(target)} backup="no"/>' for target in original.other_targets)
    return f'<domainbackup mode="push"><disks>{disks}{others}</disks></domainbackup>'


def _how_far(job: CopyJob) -> str:
    return f"{job.done_bytes // MIB} of {job.total_bytes // MIB} MiB" if job.total_bytes else ""


def _copy_shut_off(run: Run, domain: SourceDomain, original: SourceDescription, copies: Mapping[str, Path]) -> str:
    """Read the disks without QEMU's locks, so that the original can be started at any time; a remark.

    NoVerdict when it is started, or its files change, while they are read.
    """
    files = [path for disk in original.disks for path in (disk.source, *disk.backing)]
    before = _stamps(files)
    for disk in original.disks:
        _check_unused(domain.name, disk)
        with run.progress.step(f"copying {disk.source}"):
            _convert(run, domain, disk, copies[disk.target])
    if _stamps(files) != before:
        raise NoVerdict(f"the disks of {domain.name} changed while they were being copied; drill it once more")
    if domain.is_saved():
        return "copied while it was saved (virsh managedsave): the disks are as after a power cut"
    return "copied while it was shut off"


def _stamps(files: list[Path]) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_size) for status in (path.stat() for path in files)]


def _check_unused(name: str, disk: OriginalDisk) -> None:
    """UsageError when something else than the domain is writing to its disk."""
    result = subprocess.run(
        ["qemu-img", "info", "-f", disk.format, str(disk.source)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        why = (
            result.stderr.strip().splitlines()[0].removeprefix("qemu-img: ") if result.stderr.strip() else "unreadable"
        )
        raise UsageError(f"{name} is shut off, but its disk cannot be copied: {why}")


def _convert(run: Run, domain: SourceDomain, disk: OriginalDisk, to: Path) -> None:
    """Copy one disk with all that it rests on."""
    command = [
        "qemu-img", "convert", "--force-share", "-p", "-n", "--target-is-zero",
        "-f", disk.format, "-O", "qcow2",
        str(disk.source), str(to),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            while process.poll() is None:
                if domain.life() is not None:
                    raise NoVerdict(f"{domain.name} was started while its disks were being copied; drill it once more")
                if shown := re.findall(rb"\((\d+)\.", process.stdout.read() or b""):
                    run.progress.detail(f"{int(shown[-1])} %")
                else:
                    run.progress.tick()
                pause(LOOK_EVERY_S)
        except BaseException:
            process.kill()
            raise
        assert process.stderr is not None
        errors = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise HostError(f"{disk.source} cannot be copied: {errors.splitlines()[-1] if errors else 'qemu-img failed'}")


def _copy_nvram(run: Run, original: SourceDescription, remarks: list[str]) -> Path | None:
    """UEFI's variables, which say what to boot; a firmware without them looks at the usual place."""
    if original.firmware == "bios":
        return None
    if original.nvram is None:
        remarks.append("the clone has new UEFI variables: libvirt does not say where the original's are")
        return None
    copy = run.directory.path / "clone.nvram"
    try:
        shutil.copyfile(original.nvram, copy)
    except OSError as error:
        remarks.append(f"the clone has new UEFI variables: {original.nvram} cannot be read ({error.strerror})")
        return None
    copy.chmod(0o600)
    return copy


def _copy_media(run: Run, original: SourceDescription) -> Iterator[tuple[str, Path]]:
    """Small CDs: cloud-init of the original may want to see its seed again."""
    for target, source in original.media.items():
        with contextlib.suppress(OSError):
            if source.stat().st_size <= MEDIUM_MAX_BYTES:
                copy = run.directory.path / f"medium-{target}.iso"
                shutil.copyfile(source, copy)
                copy.chmod(0o600)
                yield target, copy


def _network_remark(original: SourceDescription, request: CloneRequest) -> str:
    """Return a remark on the machines that the clone can reach."""
    cards = "its network card is" if len(original.macs) == 1 else "its network cards are"
    if not original.macs:
        cards = "it has a network card, which the original has not,"
    macs = "with the original's MAC" if request.keep_macs else "with a new MAC"
    name = "another host name" if request.seeded else "the original's host name"
    return f"the clone is alone: {cards} on a network that leads nowhere, {macs} and {name}"
