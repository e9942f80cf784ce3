"""The hooks: options, the selection of scenarios, and the reports of their outcomes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..base.errors import HarnessError
from ..base.evidence import run_stamp
from ..base.foreign import whole_number
from .matrix import MatrixEntry
from .outcomes import MatrixReporter, excuses, record_failed, update_entry
from .session import (
    DEFAULT_IMAGES,
    ENTRY,
    FAILED_DRILLS,
    MISSING,
    OLD_PROPERTIES,
    RUN_NAME,
    SHARD,
    VERDICTS,
    chosen_images,
    image_of,
    is_plugin_fixture,
    run_options,
    scenario_name,
)

MAX_WORKERS = 256  # limit of -n auto on hosts of any size
# The choices are those of the command line, whose parser takes too long to import here; a test compares them.
KEEP = ("never", "failed", "always")
FIRMWARE = ("bios", "uefi", "uefi-secure")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("kdump-harness", "real guests, real panics")
    group.addoption(
        "--image",
        action="append",
        default=[],
        metavar="NAME",
        help=f"image or glob of the catalogue, repeatable (default: {', '.join(DEFAULT_IMAGES)}, and the images that a "
        "scenario pins); scenarios that pin only other images are deselected",
    )
    group.addoption(
        "--strict-images", action="store_true", help="treat unavailable images as errors instead of skipping them"
    )
    group.addoption(
        "--matrix",
        metavar="FILE",
        help="JSON file for the matrix of images and scenarios (default: matrix.json in the run's evidence)",
    )
    group.addoption("--evidence", default="evidence", metavar="DIR", help="directory for evidence (default: evidence)")
    group.addoption("--keep", choices=KEEP, default="failed", help="when to keep vmcores in the evidence")
    group.addoption("--kernel", metavar="K", help="kernel to install, as for kdump-harness drill --kernel")
    group.addoption("--packages", metavar="DIR", help="directory of package files to install instead of the released")
    group.addoption("--firmware", choices=FIRMWARE, help="firmware of the guests (default: bios if the image has it)")
    group.addoption("--timeout-factor", type=float, default=1.0, metavar="F", help="multiply all timeouts by F")
    group.addoption("--cold", action="store_true", help="boot a guest for each drill instead of restoring a snapshot")
    group.addoption("--run-known", action="store_true", help="run scenarios with a known issue without excusing them")
    group.addoption(
        "--uri",
        metavar="URI",
        help="hypervisor, also of another host, as qemu+ssh://host/system "
        "(default: LIBVIRT_DEFAULT_URI, else qemu:///system)",
    )
    group.addoption("--state", metavar="DIR", help="directory for disks")
    group.addoption(
        "--remote-state",
        type=Path,
        metavar="DIR",
        help="directory for guests' files on another host (default: shared or /var/tmp)",
    )
    group.addoption(
        "--history",
        metavar="FILE",
        help="database to record drills in; none disables it (default: history.sqlite in the state directory)",
    )
    group.addoption(
        "--shard",
        metavar="I/N",
        help="run the I-th of N parts of the selected scenarios, always the same ones; for the matrix of a CI",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and start the matrix."""
    config.addinivalue_line("markers", "needs(feature, ...): a fleet runs the test only on workers with these features")
    config.addinivalue_line("markers", "slow: takes longer than a few drills")
    config.stash[MISSING] = {}
    config.stash[SHARD] = _shard(config.getoption("--shard"))
    if not hasattr(config, "workerinput"):
        config.stash[RUN_NAME] = f"{run_stamp()}-{os.getpid()}"
        config.pluginmanager.register(MatrixReporter(config), "kdump-matrix")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of xdist a directory within that of the run."""
    node.workerinput["kdump_run"] = node.config.stash[RUN_NAME]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return as many workers as the host has room for guests; None, for xdist's own number, without guests."""
    if not _has_guests(config) or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from ..drill.plan import disk_need_mib
    from ..vm.run import Machine, Run

    memory_mib = Machine().memory_mib
    try:
        with Run(dataclasses.replace(run_options(config), jobs=None)) as run:
            return run.at_once([memory_mib] * MAX_WORKERS, disk_need_mib(memory_mib))
    except HarnessError:
        return 1  # the worker reports the error


def _has_guests(config: pytest.Config) -> bool:
    """Return whether guests are to be expected, before any test is collected."""
    paths = (Path(argument.partition("::")[0]).absolute() for argument in config.args)
    return bool(config.getoption("--image")) or any("scenarios" in path.parts for path in paths)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a scenario that takes an image once per chosen image, unless it pins its images."""
    if "image" not in metafunc.fixturenames or not is_plugin_fixture(metafunc.definition, "image"):
        return
    pinned = any(
        "image" in str(mark.args[0]).replace(" ", "").split(",")
        for mark in metafunc.definition.iter_markers("parametrize")
    )
    if not pinned:
        metafunc.parametrize("image", chosen_images(metafunc.config), indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect scenarios on images that --image does not select."""
    if not config.getoption("--image"):
        return
    wanted = {*chosen_images(config), None}
    _select(config, items, [item for item in items if image_of(item) in wanted])


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_leave_out_other_shards(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every N-th of the selected tests, sorted by id, from the I-th on."""
    if (shard := config.stash[SHARD]) is None:
        return
    number, of = shard
    mine = set(sorted(item.nodeid for item in items)[number - 1 :: of])
    _select(config, items, [item for item in items if item.nodeid in mine])


def _select(config: pytest.Config, items: list[pytest.Item], selected: list[pytest.Item]) -> None:
    kept = set(selected)
    if others := [item for item in items if item not in kept]:
        items[:] = selected
        config.hook.pytest_deselected(items=others)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Report the shard; pytest counts the tests of the other shards as deselected."""
    if (shard := config.stash[SHARD]) is None:
        return []
    return [f"shard {shard[0]} of {shard[1]}: {len(items)} tests; the others are for the other shards"]


def _shard(text: str | None) -> tuple[int, int] | None:
    """Return I and N of --shard I/N."""
    if text is None:
        return None
    first, _, last = text.partition("/")
    number, of = whole_number(first), whole_number(last)
    if not number or not of or number > of:
        raise pytest.UsageError(f"invalid --shard {text}: expected I/N with 1 <= I <= N, e.g. 2/5")
    return number, of


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the drills of an earlier run of the same test."""
    item.stash[VERDICTS] = []
    item.stash[FAILED_DRILLS] = []
    item.stash[OLD_PROPERTIES] = len(item.user_properties)
    if image := image_of(item):
        item.stash[ENTRY] = MatrixEntry(image=image, scenario=scenario_name(item), nodeid=item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Excuse known issues, shorten the harness's exceptions to one sentence, and update the matrix."""
    record_failed(item, call)
    report: Any = yield
    trackers = excuses(item, call)
    if trackers and report.failed:
        report.outcome = "skipped"
        report.wasxfail = f"known issue: {', '.join(trackers)}"
    if call.excinfo is not None and call.excinfo.errisinstance(HarnessError) and not report.skipped:
        report.longrepr = f"{call.excinfo.typename}: {call.excinfo.value}"
    if (entry := item.stash.get(ENTRY, None)) is not None:
        update_entry(entry, item, call, report)
        report.kdump = entry.to_json()  # travels with the report to the process that makes the matrix
    return report  # type: ignore[no-any-return]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report known issues that are gone, have expired, or did not excuse a failure."""
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in getattr(report, "user_properties", ()):
                if name == "known_issue_note":
                    lines.append(f"{report.nodeid}: {text}")
                elif name == "known_issue" and outcome == "failed":
                    lines.append(f"{report.nodeid}: shows the known issue {text}, not excused")
    if lines:
        terminalreporter.section("known issues", yellow=True)
        for line in dict.fromkeys(lines):
            terminalreporter.line(line, yellow=True)
