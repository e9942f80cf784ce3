"""Builds the module that crashes a kernel on purpose, for the very kernel of a guest."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path

from ..base import tables
from ..images import build
from ..kdump.trigger import MODULE_PATH, CannotTrigger
from ..vm.guest import Guest
from ..vm.run import Run
from .disks import SystemUnderTest, recipe_of

NAME = "kdump_harness_crash"
NEED_MIB = 1024
IN_GUEST_TIMEOUT_S = 60.0  # unscaled


def put_module(run: Run, subject: SystemUnderTest, guest: Guest) -> None:
    """Bring the module into the guest; CannotTrigger where it can be built neither here nor there."""
    release = guest.shell.run("uname -r").out.strip()
    if subject.image is not None and subject.image.build is not None and shutil.which("mmdebstrap"):
        guest.shell.put(built_module(run, subject, release), MODULE_PATH)
        return
    if not guest.shell.succeeds("test -e /lib/modules/$(uname -r)/build/Makefile && command -v make && command -v gcc"):
        raise CannotTrigger(
            f"a module for {release} can be built neither on this host nor in the guest,"
            " which has no kernel headers, make or gcc"
        )
    _build_in_guest(run, guest)


def sources() -> tuple[Path, ...]:
    """Return the files that the module is built from."""
    return tuple(sorted(tables.package_path("drill", "crash_module_source").iterdir()))


def _build_in_guest(run: Run, guest: Guest) -> None:
    place = "/var/tmp/kdump-harness-crasher"
    with run.progress.step("building the crash module in the guest", usual_s=60):
        guest.shell.run("rm -rf %s && mkdir %s", place, place)
        for source in sources():
            guest.shell.put(source, f"{place}/{source.name}")
        guest.shell.run(
            "make -C /lib/modules/$(uname -r)/build M=%s modules && mv %s %s",
            place,
            f"{place}/{NAME}.ko",
            MODULE_PATH,
            timeout_s=IN_GUEST_TIMEOUT_S * guest.factor,
        )


def built_module(run: Run, subject: SystemUnderTest, release: str) -> Path:
    """Return the module for a kernel of Debian's, built once in a tree of the release's packages, with its compiler."""
    recipe = recipe_of(subject)
    digest = hashlib.sha256()
    for part in (release, recipe.suite, recipe.kernel_suite, *(path.read_text("utf-8") for path in sources())):
        digest.update(part.encode() + b"\0")

    def make(part: Path) -> dict[str, object]:
        run.state.require_space(NEED_MIB, "building the crash module")
        place = part / "source"
        place.mkdir()
        for path in sources():
            shutil.copyfile(path, place / path.name)
        for path in (place, *place.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        part.chmod(0o777)  # in a user namespace the hook that copies the result out runs under another id
        headers = f"linux-headers-{release}" + (f"/{recipe.kernel_suite}" if recipe.kernel_suite else "")
        hooks = (
            '--customize-hook=mkdir "$1/source"',
            f"--customize-hook=sync-in {shlex.quote(str(place))} /source",
            f'--customize-hook=chroot "$1" make -C /lib/modules/{release}/build M=/source modules',
            f"--customize-hook=copy-out /source/{NAME}.ko {shlex.quote(str(part))}",
        )
        log = run.log_path(f"build-module-{release}.log")
        with run.progress.step(f"building the crash module for {release}", usual_s=60):
            try:
                build.make_tree(recipe, ("make", headers), hooks, log=log, progress=run.progress.detail)
            except build.BuildRefused as error:
                raise CannotTrigger(f"no crash module for {release}: {error.args[0]}", see=log) from None
        part.chmod(0o755)
        shutil.rmtree(place)
        return {"kernel": release, "suite": recipe.suite}

    key = digest.hexdigest()[:16]
    what = f"the crash module for {release}"
    return run.state.make_once("modules", key, make, report=run.progress.say, what=what) / f"{NAME}.ko"
