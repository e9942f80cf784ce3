"""The crash module for the kernel of a kernel drill."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..base.errors import CommandFailed
from ..distro.packages import KernelChoice
from ..drill import crash_module
from ..drill.disks import SystemUnderTest
from ..images.archive import known_suite
from ..kdump.trigger import CannotTrigger
from ..vm.run import Run
from .build import run_build
from .plan import userland_family
from .source import KernelFiles


def make_module(run: Run, kernel: KernelFiles) -> Path:
    """Return the module for a kernel, built in its tree or with the headers of its suite.

    Raises CannotTrigger where neither is there, or the module cannot be built.
    """
    if kernel.suite and shutil.which("mmdebstrap"):
        image = known_suite(kernel.suite)
        assert image.build is not None
        other = kernel.suite if kernel.suite != image.build.suite else ""
        choice = KernelChoice(asked=kernel.asked, package=f"linux-image-{kernel.release}", suite=other)
        subject = SystemUnderTest(name=image.name, family=userland_family(), image=image, kernel=choice)
        return crash_module.built_module(run, subject, kernel.release)
    places = (kernel.modules, kernel.modules / "build") if kernel.modules is not None else ()
    tree = next((place for place in places if (place / "Makefile").exists()), None)
    if tree is None:
        raise CannotTrigger(
            f"a module for {kernel.release} cannot be built: expected a kernel tree after make with CONFIG_MODULES,"
            " lib/modules/RELEASE/build, or a suite (and mmdebstrap)"
        )
    place = run.directory.path / "crash-module"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for source in crash_module.sources():
        shutil.copyfile(source, place / source.name)
    log = run.log_path(f"build-module-{kernel.release}.log")
    try:
        run_build(f"make M='{place}' modules", str(tree), log=log, progress=run.progress)
    except CommandFailed as error:
        raise CannotTrigger(f"no crash module for {kernel.release}: {error.args[0]}", see=log) from None
    return place / f"{crash_module.NAME}.ko"
