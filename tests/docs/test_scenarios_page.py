"""docs/scenarios.md names every fixture and option, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import kdump_harness.drill.warm_pool  # noqa: F401  # numpy can be loaded only once in a process
import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(-?-?[\w-]+)[ `]", PAGE))

# In place of guests: a drill that calls the hooks of its plan in their order.
CONFTEST = """
import contextlib
from pathlib import Path
from types import SimpleNamespace
import kdump_harness.vm.run
import pytest
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.drill.warm_pool import WarmPool

class Run(contextlib.AbstractContextManager):
    def __init__(self, options, progress=None):
        self.evidence_directory = Path.cwd()
    def __exit__(self, *_): ...

def run_drill(pool, plan):
    commands = []
    guest = SimpleNamespace(shell=SimpleNamespace(run=commands.append))
    vmcore = Path("vmcore")
    vmcore.write_bytes(b"KDUMP")
    for hook, arguments in (
        (plan.before_crash, (guest, None)), (plan.on_trigger, (guest,)),
        (plan.meanwhile, (guest, None)), (plan.on_dump, (vmcore, None)),
    ):
        if hook is not None:
            hook(*arguments)
    return Verdict(image=plan.subject.name, family="debian", trigger=plan.trigger, target="local", accelerator="tcg",
                   memory_mib=1024, vcpus=2, reached=Stage.VERIFIED, verified=True, remarks=commands)

@pytest.fixture(scope="session", autouse=True)
def _no_guests():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdump_harness.vm.run, "Run", Run)
        patch.setattr(WarmPool, "drill", run_drill)
        yield
"""


def example(page: Path) -> str:
    """Return the Python of a page."""
    (found,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(found)


@pytest.mark.parametrize(("page", "tests"), [("docs/scenarios.md", 4), ("README.md", 2)])
def test_the_example_runs(pytester: pytest.Pytester, page: str, tests: int) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_example=example(ROOT / page))
    collected = pytester.runpytest_inprocess("--collect-only", "-q", "-p", "no:cacheprovider")
    assert len([line for line in collected.outlines if "::test_" in line]) == tests
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--kdump-history", "none")
    result.assert_outcomes(passed=tests)


def test_every_fixture_is_in_a_table(pytester: pytest.Pytester) -> None:
    lines = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider").outlines
    fixtures = {found[1] for line in lines if (found := re.match(r"(\w+)(?: \[.*\])? -- .*pytest_plugin/", line))}
    assert len(fixtures) > 20
    assert not fixtures - NAMED


def test_every_option_is_in_the_table(pytestconfig: pytest.Config) -> None:
    options = {name for option in pytestconfig._parser.getgroup("kdump-harness").options for name in option.names()}
    assert len(options) > 10
    assert not options - NAMED
