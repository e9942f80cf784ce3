"""The part of the plugin that every pytest run in the environment loads: options, markers, and the choice of tests.

The rest is registered when a test is collected that makes drills.
"""

from __future__ import annotations

from typing import Any

import pytest

from .options import add_options, option
from .session import MISSING, chosen_images, file_name, image_of, is_plugin_fixture, makes_drills, run_name, run_options

MAX_WORKERS = 256  # limit of -n auto on hosts of any size


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    needs = "kdump_needs(feature, ...): a fleet runs the test only on workers with these features"
    config.addinivalue_line("markers", needs)
    config.stash[MISSING] = {}
    config.pluginmanager.register(Activation(config), "kdump-activation")


class Activation:
    """The hooks that find out whether a session makes drills."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.shard: tuple[int, int] | None = None
        self.active = False
        if text := self._given("shard"):
            self.shard = parse_shard(text)
        if self._given("matrix"):
            self.activate()

    def _given(self, name: str) -> Any:
        """Return the value of an option on the command line."""
        return self.config.getoption(f"kdump_{name}") or self.config.getoption(f"kdump_short_{name}", None)

    def activate(self) -> None:
        """Register the hooks that run, judge and report drills; nothing is written where no test runs."""
        given = self.config.option
        if self.active or given.collectonly or given.setupplan or given.setuponly:
            return
        self.active = True
        from ..configuration.own_tables import use_project
        from . import hooks
        from .outcomes import MatrixReporter

        use_project(self.config.rootpath)
        self.config.pluginmanager.register(hooks, "kdump-hooks")
        if not hasattr(self.config, "workerinput"):
            self.config.pluginmanager.register(MatrixReporter(self.config), "kdump-matrix")

    def pytest_unconfigure(self) -> None:
        """Forget the project."""
        if self.active:
            from ..configuration.own_tables import use_project

            use_project(None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a scenario that takes an image once per chosen image, unless it pins its images."""
        if "kdump_image" not in metafunc.fixturenames or not is_plugin_fixture(metafunc.definition, "kdump_image"):
            return
        pinned = any(
            "kdump_image" in str(mark.args[0]).replace(" ", "").split(",")
            for mark in metafunc.definition.iter_markers("parametrize")
        )
        if not pinned:
            metafunc.parametrize(
                "kdump_image", chosen_images(self.config), indirect=True, scope="session", ids=file_name
            )

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Deselect scenarios on images that --kdump-image does not select."""
        drilling = [item for item in items if makes_drills(item)]
        if self._given("image"):
            chosen_images(self.config)  # an image that does not exist ends the session
        if not drilling:
            return
        self.activate()
        if option(self.config, "image"):
            wanted = {*chosen_images(self.config), None}
            self._deselect(items, [item for item in drilling if image_of(item) not in wanted])

    @pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
    def pytest_leave_out_other_shards(self, items: list[pytest.Item]) -> None:
        """Keep every N-th of the selected tests, sorted by id, from the I-th on."""
        if self.shard is None:
            return
        number, of = self.shard
        mine = set(sorted(item.nodeid for item in items)[number - 1 :: of])
        self._deselect(items, [item for item in items if item.nodeid not in mine])

    def _deselect(self, items: list[pytest.Item], others: list[pytest.Item]) -> None:
        if others:
            gone = set(others)
            items[:] = [item for item in items if item not in gone]
            self.config.hook.pytest_deselected(items=others)

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Report the shard; pytest counts the tests of the other shards as deselected."""
        if self.shard is None:
            return []
        return [f"shard {self.shard[0]} of {self.shard[1]}: {len(items)} tests; the others are for the other shards"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Start the matrix in the controller of xdist, which collects no tests."""
        if not self.active and hasattr(report, "kdump"):
            self.activate()
            if (matrix := self.config.pluginmanager.get_plugin("kdump-matrix")) is not None:
                matrix.pytest_runtest_logreport(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker of xdist a directory within that of the run."""
        node.workerinput["kdump_run"] = run_name(node.config)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_auto_num_workers(self, config: pytest.Config) -> int | None:
        """Return as many workers as the host has room for guests; None, for xdist's own number, without guests."""
        return workers(config)


def workers(config: pytest.Config) -> int | None:
    """Return as many workers as the host has room for guests, None without guests."""
    import os

    if not _has_guests(config) or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    import dataclasses

    from ..base.errors import HarnessError
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
    from pathlib import Path

    paths = (Path(argument.partition("::")[0]).absolute() for argument in config.args)
    return bool(option(config, "image")) or any("scenarios" in path.parts for path in paths)


def parse_shard(text: str) -> tuple[int, int]:
    """Return I and N of --kdump-shard I/N."""
    from ..base.foreign import whole_number

    first, _, last = text.partition("/")
    number, of = whole_number(first), whole_number(last)
    if not number or not of or number > of:
        raise pytest.UsageError(f"invalid shard {text}: expected I/N with 1 <= I <= N, e.g. 2/5")
    return number, of
