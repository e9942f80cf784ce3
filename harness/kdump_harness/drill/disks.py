"""Base disks (cached, downloaded, built, or the user's own) and armed disks, each made once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..base.crashkernel import PARAMETER, joined
from ..base.errors import GuestError, HarnessError, HostError, NotArmed, UsageError
from ..base.evidence import Evidence
from ..base.units import MIB
from ..diagnosis import diagnose_text
from ..distro.architecture import Architecture, find_architecture
from ..distro.family import Family
from ..distro.kernels import CONFIG_MAX_BYTES, check_config, package_tree
from ..distro.packages import KernelChoice, LocalPackage, PackageChoice, check_more
from ..images import build
from ..images.catalog import Image
from ..images.download import Unreachable, cached, fetch
from ..images.mirror import find_mirror
from ..images.qcow2 import MAGIC, require_named
from ..kdump.own_arming import arm_by
from ..kdump.service import KdumpConfig, KdumpService
from ..vm.guest import Guest
from ..vm.hosts.qemu_img import run_qemu_img
from ..vm.hypervisor.memory_xml import Spare
from ..vm.run import Identity, Machine, Run
from ..vm.shells.shell import Access

# Raise them when installing or arming itself changes: cached disks are then made anew.
INSTALLED_VERSION = 1
ARMED_VERSION = 6
INSTALLED_NEED_MIB = 2048
ARMED_NEED_MIB = 1024
CORRUPT = 2  # exit status of qemu-img check; unused clusters give 3, and do no harm


@dataclass(frozen=True, kw_only=True)
class SystemUnderTest:
    """The system under test: an image of the catalogue or a disk file."""

    name: str
    family: Family
    image: Image | None = None
    path: Path | None = None
    login: str = "root"
    allow_backing: tuple[Path, ...] = ()  # directories whose files the disk file may name as backing files
    access: Access | None = None  # the user's login, for a guest without cloud-init
    kernel: KernelChoice | None = None  # instead of the image's own
    files: tuple[LocalPackage, ...] = ()  # of this host, instead of what the distribution's repositories have
    more: tuple[PackageChoice, ...] = ()  # of another suite, or of this host, instead of the distribution's own
    of_file: Architecture | None = None  # architecture of a disk file; None: amd64

    @property
    def architecture(self) -> Architecture:
        """The architecture of its guests."""
        return self.image.architecture if self.image is not None else self.of_file or find_architecture("amd64")

    @property
    def firmware(self) -> str:
        """The default firmware."""
        offered = self.image.firmware if self.image is not None else self.architecture.boot_disk.firmware
        return "bios" if "bios" in offered else offered[0]

    @property
    def readable(self) -> bool:
        """Whether its system's disk is known to be readable on a host (hostdisk.py)."""
        return self.image is not None and self.image.root_filesystem == "ext4"

    @property
    def usual_kernel(self) -> str:
        """The package of the image's own kernel, where it is known."""
        return self.image.build.kernel if self.image is not None and self.image.build is not None else ""

    def check(self, machine: Machine) -> None:
        """UsageError for a machine that the image cannot boot on, and for packages that exclude one another."""
        if machine.architecture != self.architecture:
            raise UsageError(f"{self.name} is for {self.architecture.name}, not for {machine.architecture.name}")
        self._check_firmware(machine.firmware)
        if self.access is not None:
            self.access.check()
        check_more(self.more, self.files)

    def _check_firmware(self, firmware: str) -> None:
        if self.image is not None and firmware.removesuffix("-secure") not in self.image.firmware:
            raise UsageError(f"{self.name} boots with {' or '.join(self.image.firmware)}, not with {firmware}")
        disk = self.architecture.disk
        if (self.image or self.path) and disk is not None and firmware not in disk.firmware:
            known = " or ".join(disk.firmware)
            raise UsageError(f"guests for {self.architecture.name} boot with {known}, not with {firmware}")

    @property
    def needs_cpu(self) -> int | None:
        """The x86-64 level of its programs; not known of a file."""
        return self.image.cpu if self.image is not None and self.architecture.name == "amd64" else None


@dataclass(frozen=True, kw_only=True)
class BaseDisk:
    """A disk that is only ever read."""

    path: Path
    format: str
    key: str  # of everything that it was made from
    packages: tuple[str, ...]  # installed into it beforehand
    source: str  # one line for people
    kernel: str | None = None  # the release of the one that was asked for, when it was installed beforehand


def probe_format(path: Path, allow_backing: Sequence[Path] = ()) -> str:
    """Return qcow2 or raw. Raise UsageError for a file that is not a readable disk.

    ALLOW_BACKING is the directories whose files the image may name as backing files.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(0x210)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    if head[:4] == MAGIC:
        require_named(path, allow_backing)  # first, since qemu-img opens what an image names
        _check_qcow2(path)
        return "qcow2"
    # A raw disk that can boot has an MBR, be it a protective one.
    if len(head) >= 512 and head[510:512] == b"\x55\xaa":
        return "raw"
    raise UsageError(f"{path} is neither a qcow2 image nor a bootable raw disk")


def _check_qcow2(path: Path) -> None:
    """UsageError for one that is cut short, or whose backing file is gone: a guest would only hang or crash with it."""
    opened = run_qemu_img("info", "--force-share", "--backing-chain", "--output=json", path)
    if opened.returncode != 0:
        raise UsageError(f"{path} is a damaged qcow2 image ({opened.stderr.strip().splitlines()[-1]})")
    if run_qemu_img("check", "--force-share", "--output=json", path).returncode == CORRUPT:
        raise UsageError(f"{path} is a damaged qcow2 image, perhaps cut short (qemu-img check shows more)")


def base_disk(run: Run, subject: SystemUnderTest, packages: tuple[str, ...]) -> BaseDisk:
    """Return the disk that a guest starts from; one line of progress names its source and the reason."""
    if subject.path is not None:
        return _brought(subject.path, subject.allow_backing)
    image = subject.image
    assert image is not None
    if (path := cached(image, run.state.images)) is not None:
        run.progress.say(f"{image.name}: cached image {path.name}")
        return _downloaded(path, "cached download")
    if image.build is not None and (done := _built_ready(run, subject, packages)):
        run.progress.say(f"{image.name}: cached disk, built from packages before")
        return done
    try:
        with run.progress.step(f"downloading {image.name}"):
            path = fetch(
                image,
                run.state.images,
                progress=run.progress.bytes,
                report=run.progress.say,
            )
        return _downloaded(path, f"downloaded from {image.source}")
    except Unreachable as error:
        if image.build is None:
            raise
        why = str(error).splitlines()[0]
    run.progress.say(f"{image.name}: building it from packages, because {why}")
    return _built(run, subject, packages)


def _downloaded(path: Path, source: str) -> BaseDisk:
    require_named(path, ())
    return BaseDisk(path=path, format="qcow2", key=path.stem, packages=(), source=source)


def _brought(path: Path, allow_backing: Sequence[Path] = ()) -> BaseDisk:
    """Return a disk file; its key is its content, as far as size and time show it."""
    path = path.resolve()
    disk_format = probe_format(path, allow_backing)
    status = path.stat()
    key = hashlib.sha256(f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}".encode()).hexdigest()[:16]
    return BaseDisk(path=path, format=disk_format, key=key, packages=(), source=str(path))


def recipe_of(subject: SystemUnderTest, packages: tuple[str, ...] = ()) -> build.Recipe:
    """Return the recipe of a built image."""
    image = subject.image
    assert image is not None
    assert image.build is not None
    choice = subject.kernel or KernelChoice()
    return build.Recipe(
        name=image.name,
        suite=image.build.suite,
        updates_suite=image.build.updates_suite,
        security_suite=image.build.security_suite,
        components=image.build.components,
        kernel=_kernel_package(subject, image.build.kernel),
        packages=tuple(sorted({*packages, *image.build.packages})),
        mirror=find_mirror(),
        kernel_suite=choice.suite,
        architecture=subject.architecture,
        files=tuple(dict.fromkeys((*subject.files, *(file for one in (*subject.more, choice) for file in one.files)))),
        more=tuple(f"{one.package}/{one.suite}".rstrip("/") for one in subject.more if one.package),
    )


def _made(run: Run, files: tuple[LocalPackage, ...]) -> tuple[LocalPackage, ...]:
    """Return the package files, and make those that are directories of kernels."""
    return tuple(_packaged(run, file) for file in files)


def _packaged(run: Run, file: LocalPackage) -> LocalPackage:
    """Return the package of a kernel's directory, which is made once for each content."""
    tree = file.tree
    if tree is None:
        return file
    need_mib = tree.size_bytes // MIB + 64

    def make(part: Path) -> dict[str, object]:
        run.state.require_space(need_mib, f"the package of {tree.release}")
        with run.progress.step(f"making a package of {tree.release}", usual_s=5):
            package_tree(tree, part / file.name)
        return {"release": tree.release, "place": tree.place}

    key, what = tree.digest[:16], f"the package of {tree.release}"
    directory = run.state.make_once("packages", key, make, report=run.progress.say, what=what)
    return dataclasses.replace(file, path=directory / file.name, tree=None)


def _kernel_package(subject: SystemUnderTest, usual: str) -> str:
    """Return the kernel that the package manager is to install; empty if package files bring it."""
    choice = subject.kernel
    if choice is None:
        return usual
    return f"{choice.package}/{choice.suite}" if choice.suite else choice.package


def _built_ready(run: Run, subject: SystemUnderTest, packages: tuple[str, ...]) -> BaseDisk | None:
    with contextlib.suppress(HostError):  # no mirror: nothing was built
        recipe = recipe_of(subject, packages)
        if done := run.state.ready("built", recipe.key()):
            return _built_disk(done, recipe, packages)
    return None


def _built_disk(directory: Path, recipe: build.Recipe, packages: tuple[str, ...]) -> BaseDisk:
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return BaseDisk(
        path=directory / "disk.raw",
        format="raw",
        key=f"{recipe.key()}-{meta['identity']}",
        packages=packages,
        source=f"built from {recipe.suite} packages",
        kernel=meta["kernel"],
    )


def _built(run: Run, subject: SystemUnderTest, packages: tuple[str, ...]) -> BaseDisk:
    recipe = recipe_of(subject, packages)

    def make(part: Path) -> dict[str, object]:
        run.state.require_space(build.NEED_MIB, f"building {recipe.name}")
        work = part / "work"
        work.mkdir()
        work.chmod(0o755)
        with run.progress.step(f"building {recipe.name} from packages", usual_s=100):
            log = run.log_path(f"build-{recipe.name}.log")
            files = _made(run, recipe.files)
            whole = dataclasses.replace(recipe, files=files)
            build.build(whole, part / "disk.raw", workdir=work, log=log, progress=run.progress.detail)
        versions = (work / "boot" / "packages").read_text(encoding="utf-8").splitlines()
        kernels = (work / "boot" / "kernels").read_text(encoding="utf-8").split()
        if len(kernels) != 1:
            raise UsageError(f"{recipe.name} was built with {len(kernels)} kernels ({', '.join(kernels) or 'none'})")
        if (config := work / "boot" / f"config-{kernels[0]}").is_file():
            with config.open(encoding="utf-8", errors="replace") as text:
                check_config(
                    text.read(CONFIG_MAX_BYTES), f"{kernels[0]}, the kernel of {recipe.kernel or recipe.name},"
                )
        build.remove_workdir(work)
        # The same recipe made again is another disk, and overlays of the first must not be put on the second.
        return {"recipe": asdict(recipe), "packages": versions, "kernel": kernels[0], "identity": secrets.token_hex(8)}

    directory = run.state.make_once(
        "built", recipe.key(), make, report=run.progress.say, what=f"the base disk of {recipe.name}"
    )
    return _built_disk(directory, recipe, packages)


# ---------------------------------------------------------------- installed: with everything that kdump needs


def _has_all(base: BaseDisk, packages: tuple[str, ...]) -> bool:
    """Whether the disk was built with everything that is asked for."""
    return base.kernel is not None and set(packages) <= set(base.packages)


def installed_disk(
    run: Run, subject: SystemUnderTest, machine: Machine, packages: tuple[str, ...] | None, more: tuple[str, ...] = ()
) -> BaseDisk:
    """Return the base disk with packages and kernel in it; it is made once for all armed disks on it.

    packages are the family's by default; more is added to them. Packages that a base disk lacks are installed in
    the guest.
    """
    wanted = (*(subject.family.packages if packages is None else packages), *more)
    base = base_disk(run, subject, wanted)
    if _has_all(base, wanted):
        return base
    parts = (
        INSTALLED_VERSION, base.key, _what_arms(subject.family), packages, subject.kernel, subject.files,
        machine.firmware, *((more,) if more else ()), *((subject.more,) if subject.more else ()),
    )  # fmt: skip
    key = hashlib.sha256(repr((*parts, subject.login)).encode()).hexdigest()[:16]

    def make(part: Path) -> dict[str, object]:
        run.host.require_space(INSTALLED_NEED_MIB, f"installing packages in {subject.name}")
        with run.host.kept_overlay(part / "disk.qcow2", base.path, base_format=base.format) as disk:
            return {"kernel": _install(run, subject, machine, disk, packages, more), "base": asdict(base)}

    what = f"the disk of {subject.name} with its packages"
    directory = run.state.make_once("installed", key, make, report=run.progress.say, what=what)
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return BaseDisk(
        path=directory / "disk.qcow2",
        format="qcow2",
        key=f"{base.key}-{key}",
        packages=base.packages,
        source=base.source,
        kernel=meta["kernel"],
    )


def _install(
    run: Run,
    subject: SystemUnderTest,
    machine: Machine,
    disk: Path,
    packages: tuple[str, ...] | None,
    more: tuple[str, ...] = (),
) -> str | None:
    """Boot the disk and install what is missing; returns the release of the kernel that was asked for."""
    kernel = None
    identity = run.identity(f"install-{subject.name}")
    with (
        _evidence(run, f"install-{subject.name}") as evidence,
        _booted(run, subject, machine, disk, evidence, identity, f"booting {subject.name} to install") as guest,
    ):
        service = _identified(run, subject, guest)
        wanted = (*(service.family.packages if packages is None else packages), *more)
        detail = run.progress.detail
        if subject.files:
            with run.progress.step(f"installing {len(subject.files)} package files", usual_s=120):
                service.install_files(_made(run, subject.files), report=detail)
        if missing := service.missing(wanted):
            if subject.files:
                raise UsageError(f"the package files have no {', '.join(missing)}, which kdump needs")
            with run.progress.step(f"installing {', '.join(missing)}", usual_s=180):
                service.install(missing, report=detail)
        if subject.kernel is not None:
            with run.progress.step(f"installing the kernel {subject.kernel.asked}", usual_s=240):
                choice = dataclasses.replace(subject.kernel, files=_made(run, subject.kernel.files))
                kernel = service.install_kernel(choice, report=detail)
                check_config(service.kernel_config(kernel), f"{kernel}, the kernel of {choice.asked},")
        # Last, since a guest's package manager may take more than it should from a suite that it has come to know.
        for one in subject.more:
            with run.progress.step(f"installing {one.asked}", usual_s=120):
                service.install_choice(one, report=detail)
        _shut_down(run, guest)
    return kernel


# ---------------------------------------------------------------- armed


@dataclass(frozen=True, kw_only=True)
class ArmedDisk:
    """A qcow2 of a guest whose kdump was seen loaded; drills run on overlays of it."""

    path: Path
    kernel: str
    base: BaseDisk
    remarks: tuple[str, ...] = ()  # what the guest's tools complained of, and were content with


def armed_disk(
    run: Run,
    subject: SystemUnderTest,
    machine: Machine,
    config: KdumpConfig,
    packages: tuple[str, ...] | None = None,
    more: tuple[str, ...] = (),
) -> ArmedDisk:
    """Return the disk with kdump installed, configured, reserved and armed once; it is made only once.

    packages are the family's by default; more is added to them.
    """
    family = subject.family
    machine = replace(run.fit(machine, needs=subject.needs_cpu), dimms_mib=(), spare=Spare())
    machine = replace(machine, disk_bus="virtio", la57=False)  # a shape is given to the drilled guest only
    base = installed_disk(run, subject, machine, packages, more)
    # A new initramfs for each drill would take minutes: where it has a copy of them, settings are part of the disk.
    settings = config.core_collector(family) if family.config.in_initramfs else ()
    parts = (
        ARMED_VERSION, base.key, _what_arms(family), packages, config.crashkernel, settings, machine.cpu_level,
        machine.firmware, subject.login, *((config.append,) if config.append else ()),
    )  # fmt: skip
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def make(part: Path) -> dict[str, object]:
        run.host.require_space(ARMED_NEED_MIB, f"arming {subject.name}")
        with run.host.kept_overlay(part / "disk.qcow2", base.path, base_format=base.format) as disk:
            return {**_arm(run, subject, machine, disk, config, kernel=base.kernel), "base": asdict(base)}

    directory = run.state.make_once(
        "armed", key, make, report=run.progress.say, what=f"the armed disk of {subject.name}"
    )
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return ArmedDisk(
        path=directory / "disk.qcow2", kernel=meta["kernel"], base=base, remarks=tuple(meta.get("remarks", ()))
    )


def disk_armed_with(run: Run, subject: SystemUnderTest, machine: Machine, file: Path) -> BaseDisk:
    """Return a disk of this run that the user's own script or playbook armed.

    It is made anew for each run: what the file downloads, or a playbook's roles, may have changed.
    """
    machine = replace(run.fit(machine, needs=subject.needs_cpu), dimms_mib=(), spare=Spare())
    base = base_disk(run, subject, ())
    disk = run.overlay(base.path, base_format=base.format)
    label, what = f"arm-{subject.name}", f"booting {subject.name}"
    with (
        _evidence(run, label) as evidence,
        _booted(run, subject, machine, disk, evidence, run.identity(label), what, keep_disk=True) as guest,
    ):
        _identified(run, subject, guest)
        with run.progress.step(f"arming by {file.name}", usual_s=100 if run.factor > 1 else 30):
            arm_by(guest, file, run.progress.detail)
        _shut_down(run, guest)
    return replace(
        base,
        path=disk,
        format="qcow2",
        key=f"{base.key}-{secrets.token_hex(8)}",
        source=f"{base.source}, armed by {file.name}",
    )


def _what_arms(family: Family) -> tuple[object, ...]:
    """Return the parts of a family that a disk depends on: not console lines, names of dumps, or targets."""
    rows = (family, *(row for _, row in family.releases))
    return tuple(
        (row.packages, row.service, row.crashkernel, row.level, row.compress, row.config, row.commands,
         row.bootloader, row.drop_ins, row.updates)
        for row in rows
    )  # fmt: skip


def _arm(
    run: Run, subject: SystemUnderTest, machine: Machine, disk: Path, config: KdumpConfig, *, kernel: str | None
) -> dict[str, object]:
    """Boot the disk, make its kdump ready with the guest's own tools, and see it loaded; returns what it is.

    kernel is the release that must run in the end, where one was asked for.
    """
    identity = run.identity(f"arm-{subject.name}")
    known = subject.kernel.remarks if subject.kernel is not None else ()
    with _evidence(run, f"arm-{subject.name}") as evidence:
        with _booted(run, subject, machine, disk, evidence, identity, f"booting {subject.name} to arm it") as guest:
            service = _identified(run, subject, guest)
            try:
                remarks = _configure(run, service, config, kernel if subject.kernel is not None else None)
            except NotArmed as error:
                error.state = service.state()
                raise
            service.pause_cloud_init()
            _shut_down(run, guest)
        # A second power-on instead of a reboot: after a reset QEMU's emulation crawls for minutes through what
        # it had translated before, and a user's first boot with the reservation may well be a cold one.
        with _booted(
            run, subject, machine, disk, evidence, identity, f"booting {subject.name} with the reservation", ready=True
        ) as guest:
            loading = KdumpService(guest, service.family)
            loading.resume_cloud_init()
            running = guest.shell.run("uname -r").out.strip()
            if subject.kernel is not None and running != kernel:
                raise GuestError(
                    f"{subject.kernel.asked} was asked for, which is {kernel}, but the boot loader starts {running}"
                )
            given = loading.booted_reservation() if config.reservation.words else ()
            if not set(config.reservation.words) <= set(given):
                raise GuestError(
                    f"{config.reservation.arguments} was asked for, but the boot loader starts the kernel with"
                    f" {' '.join(PARAMETER + word for word in given) or 'no reservation'}"
                )
            if not config.reservation.none:
                with run.progress.step("arming: loading the capture kernel"):
                    try:
                        loading.wait_until_loaded()
                    except NotArmed as error:
                        error.state = loading.state()
                        raise
            _shut_down(run, guest)
        for remark in known:
            run.progress.say(remark)
        return {
            "subject": subject.name,
            "release": service.family.release,
            "kernel": running,
            "crashkernel": config.crashkernel or service.family.crashkernel,
            "remarks": [*known, *remarks],
        }


@contextlib.contextmanager
def _evidence(run: Run, name: str) -> Iterator[Evidence]:
    """Make a directory for the evidence of work on a disk, which errors point to."""
    evidence = run.evidence(name)
    try:
        yield evidence
    except HarnessError as error:
        if error.see is None:
            error.see = evidence.directory
        raise
    finally:
        evidence.close()


def _identified(run: Run, subject: SystemUnderTest, guest: Guest) -> KdumpService:
    service = KdumpService(guest, subject.family)
    service.identify()
    if service.remark:
        run.progress.say(f"{subject.name}: {service.remark}")
    service.stop_updates()
    return service


def _configure(run: Run, service: KdumpService, config: KdumpConfig, kernel: str | None) -> list[str]:
    """Everything that kdump needs before the boot that brings the reservation; returns what was wrong on the way.

    kdumpctl calls an initramfs built that dracut could not put everything into.
    """
    family = service.family
    crashkernel = config.crashkernel or family.crashkernel
    # dracut starts thousands of processes, each of which QEMU translates anew; initramfs-tools few.
    usual_s = (400 if family.config.in_initramfs else 100) if run.factor > 1 else 30
    with run.progress.step("arming: boot loader and capture initramfs, by the guest's own tools", usual_s=usual_s):
        service.check_cma(crashkernel, kernel or service.running_kernel())
        replaced = service.configured_reservation() if config.reservation.words else ()
        service.enable()
        service.keep_serial_login()
        if family.config.in_initramfs:
            service.set_core_collector(*config.core_collector(family))
        service.write_bootloader(crashkernel, config.append)
        if kernel is not None:
            service.choose_kernel(kernel)
        report = run.progress.detail
        output = service.reserve_and_build(crashkernel, append=config.append, kernel=kernel, report=report)
    wrong = [
        one for one in diagnose_text(output, family=family.name, of_kdump=True).symptoms if one.severity == "failure"
    ]
    remarks = [f"while the capture initramfs was built: {one.line.strip()} ({one.name})" for one in wrong]
    if replaced:
        remarks.append(f"--crashkernel replaces the guest's own crashkernel={joined(replaced)}")
    for remark in remarks:
        run.progress.say(remark)
    return remarks


@contextlib.contextmanager
def _booted(
    run: Run,
    subject: SystemUnderTest,
    machine: Machine,
    disk: Path,
    evidence: Evidence,
    identity: Identity,
    what: str,
    *,
    ready: bool = False,
    keep_disk: bool = False,
) -> Iterator[Guest]:
    label = f"arm-{subject.name}"
    with run.guest(
        disk,
        machine,
        evidence,
        label=label,
        user=subject.login,
        identity=identity,
        access=subject.access,
        keep_disk=keep_disk,
    ) as guest:
        with run.progress.step(what, usual_s=80 if run.factor > 1 else 15):
            guest.power_on()
            if ready:
                guest.wait_for_login()
            elif not guest.wait_until_up():
                run.progress.say(f"{subject.name}: no login prompt on the serial console yet; arming gives it one")
            guest.connect()
        yield guest


def _shut_down(run: Run, guest: Guest) -> None:
    with run.progress.step("shutting down"):
        guest.power_off()
