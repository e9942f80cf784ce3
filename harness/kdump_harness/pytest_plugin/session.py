"""The state of one pytest session: its options, chosen images and stash keys.

Every pytest run in the environment loads the plugin. To keep other projects' runs cheap, the plugin imports drivers and
layers below only where a scenario needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from ..base.errors import UsageError
from ..base.verdict import Verdict
from .matrix import MatrixEntry

if TYPE_CHECKING:
    from ..drill.disks import SystemUnderTest
    from ..vm.run import Options, Run

T = TypeVar("T")

DEFAULT_IMAGES = ("debian-12",)

CHOSEN = pytest.StashKey[list[str]]()  # names of images
VERDICTS = pytest.StashKey[list[Verdict]]()
FAILED_DRILLS = pytest.StashKey[list[Verdict]]()  # drills not yet in the history
ENTRY = pytest.StashKey[MatrixEntry]()
OLD_PROPERTIES = pytest.StashKey[int]()
MISSING = pytest.StashKey[dict[str, str]]()  # reason by image
RUN: pytest.StashKey[Run] = pytest.StashKey()
RUN_NAME = pytest.StashKey[str]()
SHARD = pytest.StashKey[tuple[int, int] | None]()


def run_options(config: pytest.Config) -> Options:
    """Return the options of the run that pytest's options ask for."""
    from ..vm.run import Options

    state = config.getoption("--state")
    worker = getattr(config, "workerinput", None)
    return Options(
        uri=config.getoption("--uri"),
        state=Path(state) if state else None,
        remote_state=config.getoption("--remote-state"),
        evidence=Path(config.getoption("--evidence")),
        evidence_part=(worker["kdump_run"], worker["workerid"]) if worker else None,
        timeout_factor=config.getoption("--timeout-factor"),
        beside=worker.get("workercount", 1) - 1 if worker else 0,
        keep=config.getoption("--keep"),
    )


def chosen_images(config: pytest.Config) -> list[str]:
    """Return the names of the images that --image selects."""
    from ..images.catalog import load_catalog

    if CHOSEN not in config.stash:  # asked for each scenario
        wanted = config.getoption("--image") or list(DEFAULT_IMAGES)
        try:
            config.stash[CHOSEN] = [image.name for image in load_catalog().match(wanted)]
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[CHOSEN]


def is_plugin_fixture(test: Any, fixture: str) -> bool:
    """Return whether a fixture is this plugin's; tests of other projects may have one of the same name."""
    found = test._fixtureinfo.name2fixturedefs.get(fixture)  # pytest has no public way to ask
    return found is not None and found[-1].func.__module__ == f"{__package__}.fixtures"


def image_of(item: Any) -> str | None:
    """Return the name of the image that a test runs on."""
    if "image" not in getattr(item, "fixturenames", ()) or not hasattr(item, "callspec"):
        return None
    return item.callspec.params.get("image") if is_plugin_fixture(item, "image") else None


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
    if config.getoption("--strict-images"):
        pytest.fail(missing[subject.name], pytrace=False)
    pytest.skip(missing[subject.name])
