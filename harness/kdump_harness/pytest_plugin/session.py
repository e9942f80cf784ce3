"""The state of one pytest session: its chosen images and stash keys.

Every pytest run in the environment loads this module, so its functions import what they need.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from .options import option

if TYPE_CHECKING:
    from ..base.verdict import Verdict
    from ..drill.disks import SystemUnderTest
    from ..vm.run import Options, Run
    from .matrix import MatrixEntry

T = TypeVar("T")

DEFAULT_IMAGES = ("debian-12",)

# The modules whose fixtures make drills.
FIXTURES = (f"{__package__}.fixtures", f"{__package__}.short_names")

CHOSEN: pytest.StashKey[list[str]] = pytest.StashKey()  # names of images, or files
VERDICTS: pytest.StashKey[list[Verdict]] = pytest.StashKey()
FAILED_DRILLS: pytest.StashKey[list[Verdict]] = pytest.StashKey()  # drills not yet in the history
ENTRY: pytest.StashKey[MatrixEntry] = pytest.StashKey()
OLD_PROPERTIES: pytest.StashKey[int] = pytest.StashKey()
MISSING: pytest.StashKey[dict[str, str]] = pytest.StashKey()  # reason by image
RUN: pytest.StashKey[Run] = pytest.StashKey()
RUN_NAME: pytest.StashKey[str] = pytest.StashKey()


def run_name(config: pytest.Config) -> str:
    """Return the name of the run's directory in the evidence, which the workers of xdist share."""
    if RUN_NAME not in config.stash:
        import os

        from ..base.evidence import run_stamp

        config.stash[RUN_NAME] = f"{run_stamp()}-{os.getpid()}"
    return config.stash[RUN_NAME]


def run_options(config: pytest.Config) -> Options:
    """Return the options of the run that pytest's options ask for."""
    from ..vm.run import Options

    worker = getattr(config, "workerinput", None)
    return Options(
        uri=option(config, "uri"),
        state=option(config, "state"),
        remote_state=option(config, "remote_state"),
        evidence=option(config, "evidence"),
        evidence_part=(worker["kdump_run"], worker["workerid"]) if worker else None,
        timeout_factor=option(config, "timeout_factor"),
        beside=worker.get("workercount", 1) - 1 if worker else 0,
        keep=option(config, "keep"),
    )


def chosen_images(config: pytest.Config) -> list[str]:
    """Return the names of the images that --kdump-image selects, and the files that it names."""
    from ..base.errors import UsageError
    from ..cli.subject import is_file
    from ..images.catalog import load_catalog

    if CHOSEN not in config.stash:  # asked for each scenario
        wanted = option(config, "image") or list(DEFAULT_IMAGES)
        files = [one for one in wanted if is_file(one)]
        try:
            rows = load_catalog().match([one for one in wanted if one not in files])
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[CHOSEN] = [*files, *(image.name for image in rows)]
    return config.stash[CHOSEN]


def system_under_test(config: pytest.Config, image: str) -> SystemUnderTest:
    """Return the system that an image, or a file, and the options name."""
    import dataclasses

    from ..cli.subject import find_subject, is_file
    from ..distro.packages import local_packages, parse_kernel
    from ..vm.shells.shell import Access

    family = option(config, "family") if is_file(image) else None
    subject = find_subject(image, family=family, login=option(config, "login"))
    kernel, packages, key = option(config, "kernel"), option(config, "packages"), option(config, "key")
    return dataclasses.replace(
        subject,
        kernel=parse_kernel(kernel, subject.family, usual=subject.usual_kernel) if kernel else subject.kernel,
        files=local_packages(packages, subject.family) if packages else (),
        access=Access(key_file=key, password=None) if key and subject.image is None else None,
    )


def is_plugin_fixture(test: Any, fixture: str) -> bool:
    """Return whether a fixture is this plugin's; tests of other projects may have one of the same name."""
    found = test._fixtureinfo.name2fixturedefs.get(fixture)  # pytest has no public way to ask
    return found is not None and found[-1].func.__module__ in FIXTURES


def makes_drills(item: Any) -> bool:
    """Return whether a test uses a fixture of the plugin."""
    names = getattr(item, "fixturenames", ())
    return any(name.startswith("kdump_") and is_plugin_fixture(item, name) for name in names)


def image_of(item: Any) -> str | None:
    """Return the name of the image that a test runs on."""
    if "kdump_image" not in getattr(item, "fixturenames", ()) or not hasattr(item, "callspec"):
        return None
    return item.callspec.params.get("kdump_image") if is_plugin_fixture(item, "kdump_image") else None


def file_name(image: object) -> str:
    """Return the name of an image file, or of an image, for the id of a test."""
    return str(image).rpartition("/")[2]


def row_of(item: Any) -> str | None:
    """Return the row of a test in the matrix: its image, or that of all kernel drills until one names its kernel."""
    from .matrix import KERNEL

    if (image := image_of(item)) is not None:
        return file_name(image)
    return (
        KERNEL if "kdump_kernel_drill" in item.fixturenames and is_plugin_fixture(item, "kdump_kernel_drill") else None
    )


def report(item: Any, verdict: Verdict) -> None:
    """Put a verdict into the reports of its test."""
    from .outcomes import report_verdict

    report_verdict(item, verdict)


def evidence_name(node: Any) -> str:
    """Return the scenario's file and test id as one directory below another."""
    return f"{Path(str(node.path)).stem}/{node.name.replace('/', '_')}"


def scenario_name(node: Any) -> str:
    """Return the scenario's name as in scenarios/known_issues.toml: test_smoke.py::test_dump."""
    test = re.sub(r"\[.*", "", node.nodeid.partition("::")[2], flags=re.DOTALL)
    return f"{Path(str(node.path)).name}::{test}"


def available(config: pytest.Config, subject: SystemUnderTest, get: Callable[[], T]) -> T:
    """Return the result of GET; skip the scenario if the image is unavailable, and try each image only once."""
    from ..images.download import Unreachable
    from ..kdump.trigger import CannotTrigger

    missing = config.stash[MISSING]
    if subject.name not in missing:
        try:
            return get()
        except Unreachable as error:
            missing[subject.name] = str(error).splitlines()[0]
        except CannotTrigger as error:
            pytest.skip(str(error).splitlines()[0])
    if option(config, "strict_images"):
        pytest.fail(missing[subject.name], pytrace=False)
    pytest.skip(missing[subject.name])
