"""Base disks (cached, downloaded, built, or the user's own) and armed disks, each made once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from . import build
from .catalog import Image
from .download import Unreachable, cached, fetch
from .errors import HarnessError, HostError, NotArmed, UsageError
from .evidence import Evidence
from .family import Family
from .guest import Guest
from .mirror import find_mirror
from .runtime import Identity, Machine, Run, create_overlay
from .stack import KdumpConfig, Stack

ARMED_VERSION = 2  # raise it when arming itself changes: cached disks are then made anew
ARMED_NEED_MIB = 1024


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is drilled: an image of the catalogue or a file of the user's."""

    name: str
    family: Family
    image: Image | None = None
    path: Path | None = None
    login: str = "root"


@dataclass(frozen=True, kw_only=True)
class BaseDisk:
    """A disk that is only ever read."""

    path: Path
    format: str
    key: str  # of everything that it was made from
    packages: tuple[str, ...]  # installed into it beforehand
    source: str  # one line for people


def probe_format(path: Path) -> str:
    """qcow2 or raw; UsageError for what is no disk that can be read."""
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(0x210)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    if head[:4] == b"QFI\xfb":
        _check_qcow2(path)
        return "qcow2"
    # A raw disk that can boot has an MBR, be it a protective one.
    if len(head) >= 512 and head[510:512] == b"\x55\xaa":
        return "raw"
    raise UsageError(f"{path} is neither a qcow2 image nor a bootable raw disk")


def _check_qcow2(path: Path) -> None:
    if shutil.which("qemu-img") is None:
        raise HostError("qemu-img is not installed (kdump-harness doctor tells which package has it)")
    made = subprocess.run(["qemu-img", "info", "--output=json", str(path)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise UsageError(f"{path} is a damaged qcow2 image ({made.stderr.strip().splitlines()[-1]})")


def base_disk(run: Run, subject: Subject, packages: tuple[str, ...]) -> BaseDisk:
    """The disk a guest starts from; one line says which source and why."""
    if subject.path is not None:
        return _brought(subject.path)
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
                progress=lambda done, total: run.progress.detail(
                    f"{done >> 20} of {total >> 20} MiB" if total else f"{done >> 20} MiB"
                ),
                say=run.progress.say,
            )
        return _downloaded(path, f"downloaded from {image.source}")
    except Unreachable as error:
        if image.build is None:
            raise
        why = str(error).splitlines()[0]
    run.progress.say(f"{image.name}: building it from packages, because {why}")
    return _built(run, subject, packages)


def _downloaded(path: Path, source: str) -> BaseDisk:
    return BaseDisk(path=path, format="qcow2", key=path.stem, packages=(), source=source)


def _brought(path: Path) -> BaseDisk:
    """A file of the user's; its key is its content as far as size and time tell."""
    path = path.resolve()
    disk_format = probe_format(path)
    status = path.stat()
    key = hashlib.sha256(f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}".encode()).hexdigest()[:16]
    return BaseDisk(path=path, format=disk_format, key=key, packages=(), source=str(path))


def _recipe(subject: Subject, packages: tuple[str, ...]) -> build.Recipe:
    image = subject.image
    assert image is not None
    assert image.build is not None
    return build.Recipe(
        name=image.name,
        suite=image.build.suite,
        updates_suite=image.build.updates_suite,
        security_suite=image.build.security_suite,
        components=image.build.components,
        kernel=image.build.kernel,
        packages=tuple(sorted({*packages, *image.build.packages})),
        mirror=find_mirror(),
    )


def _built_ready(run: Run, subject: Subject, packages: tuple[str, ...]) -> BaseDisk | None:
    with contextlib.suppress(HostError):  # no mirror: nothing was built
        recipe = _recipe(subject, packages)
        if done := run.state.ready("built", recipe.key()):
            return _built_disk(done, recipe, packages)
    return None


def _built_disk(directory: Path, recipe: build.Recipe, packages: tuple[str, ...]) -> BaseDisk:
    return BaseDisk(
        path=directory / "disk.raw",
        format="raw",
        key=f"{recipe.key()}-{json.loads((directory / 'meta.json').read_text(encoding='utf-8'))['identity']}",
        packages=packages,
        source=f"built from {recipe.suite} packages",
    )


def _built(run: Run, subject: Subject, packages: tuple[str, ...]) -> BaseDisk:
    recipe = _recipe(subject, packages)

    def make(part: Path) -> dict[str, object]:
        run.state.require_space(build.NEED_MIB, f"building {recipe.name}")
        work = part / "work"
        work.mkdir()
        work.chmod(0o755)
        with run.progress.step(f"building {recipe.name} from packages", usual_s=100):
            log = run.log_path(f"build-{recipe.name}.log")
            build.build(recipe, part / "disk.raw", workdir=work, log=log, progress=run.progress.detail)
        versions = (work / "boot" / "packages").read_text(encoding="utf-8").splitlines()
        build.remove_workdir(work)
        # The same recipe made again is another disk, and overlays of the first must not be put on the second.
        return {"recipe": asdict(recipe), "packages": versions, "identity": secrets.token_hex(8)}

    directory = run.state.make_once(
        "built", recipe.key(), make, say=run.progress.say, what=f"the base disk of {recipe.name}"
    )
    return _built_disk(directory, recipe, packages)


@dataclass(frozen=True, kw_only=True)
class ArmedDisk:
    """A qcow2 of a guest whose kdump was seen loaded; drills run on overlays of it."""

    path: Path
    kernel: str
    base: BaseDisk


def armed_disk(
    run: Run, subject: Subject, machine: Machine, config: KdumpConfig, packages: tuple[str, ...] | None = None
) -> ArmedDisk:
    """The disk with kdump installed, configured, reserved and armed once; made once for all that ask."""
    family = subject.family
    base = base_disk(run, subject, family.packages if packages is None else packages)
    # A new initramfs for each drill would take minutes: where it has a copy of them, settings are part of the disk.
    settings = (config.level, config.compress) if family.config.in_initramfs else ()
    parts = (ARMED_VERSION, base.key, family, packages, config.crashkernel, settings, machine.cpu_level)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def make(part: Path) -> dict[str, object]:
        run.state.require_space(ARMED_NEED_MIB, f"arming {subject.name}")
        disk = part / "disk.qcow2"
        create_overlay(disk, base.path, base_format=base.format)
        return {**_arm(run, subject, machine, disk, config, packages), "base": asdict(base)}

    directory = run.state.make_once("armed", key, make, say=run.progress.say, what=f"the armed disk of {subject.name}")
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return ArmedDisk(path=directory / "disk.qcow2", kernel=meta["kernel"], base=base)


def _arm(
    run: Run, subject: Subject, machine: Machine, disk: Path, config: KdumpConfig, packages: tuple[str, ...] | None
) -> dict[str, object]:
    """Boot the disk, make its kdump ready with the guest's own tools, and see it loaded; returns what it is."""
    evidence = run.evidence(f"arm-{subject.name}")
    identity = run.identity(f"arm-{subject.name}")
    try:
        with _booted(run, subject, machine, disk, evidence, identity, "booting") as guest:
            stack = _identified(run, subject, guest)
            with run.progress.step("arming: kdump packages"):
                installed = stack.install(stack.family.packages if packages is None else packages)
            again = installed and stack.family.reboot_after_install
            if not again:
                _configure(run, stack, config)
            stack.pause_cloud_init()
            _shut_down(run, guest)
        if again:
            with _booted(run, subject, machine, disk, evidence, identity, "booting with the packages") as guest:
                stack = _identified(run, subject, guest)
                _configure(run, stack, config)
                stack.pause_cloud_init()
                _shut_down(run, guest)
        # A second power-on instead of a reboot: after a reset QEMU's emulation crawls for minutes through what
        # it had translated before, and a user's first boot with the reservation may well be a cold one.
        with _booted(run, subject, machine, disk, evidence, identity, "booting with the reservation") as guest:
            loading = Stack(guest, stack.family)
            loading.resume_cloud_init()
            if config.crashkernel != "none":
                with run.progress.step("arming: loading the capture kernel"):
                    try:
                        loading.wait_until_loaded()
                    except NotArmed as error:
                        error.state = loading.state()
                        raise
            kernel = guest.shell.run("uname -r").out.strip()
            _shut_down(run, guest)
        return {
            "subject": subject.name,
            "release": stack.family.release,
            "kernel": kernel,
            "crashkernel": config.crashkernel or stack.family.crashkernel,
        }
    except HarnessError as error:
        if error.see is None:
            error.see = evidence.directory
        raise
    finally:
        evidence.close()


def _identified(run: Run, subject: Subject, guest: Guest) -> Stack:
    stack = Stack(guest, subject.family)
    stack.identify()
    if stack.remark:
        run.progress.say(f"{subject.name}: {stack.remark}")
    return stack


def _configure(run: Run, stack: Stack, config: KdumpConfig) -> None:
    """Everything that kdump needs before the boot that brings the reservation."""
    family = stack.family
    crashkernel = config.crashkernel or family.crashkernel
    with run.progress.step("arming: boot loader and capture initramfs, by the guest's own tools", usual_s=100):
        stack.enable()
        if family.config.in_initramfs:
            stack.collect_with(
                family.level if config.level is None else config.level, config.compress or family.compress
            )
        stack.write_bootloader(crashkernel)
        stack.reserve_and_build(crashkernel)


@contextlib.contextmanager
def _booted(
    run: Run, subject: Subject, machine: Machine, disk: Path, evidence: Evidence, identity: Identity, what: str
) -> Iterator[Guest]:
    label = f"arm-{subject.name}"
    with run.guest(disk, machine, evidence, label=label, user=subject.login, identity=identity) as guest:
        with run.progress.step(f"arming {subject.name}: {what}", usual_s=80 if run.factor > 1 else 15):
            guest.power_on()
            guest.wait_for_login()
            guest.connect()
        yield guest


def _shut_down(run: Run, guest: Guest) -> None:
    with run.progress.step("arming: shutting down"):
        guest.power_off()
