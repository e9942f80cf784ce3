"""Comparisons and bisections by kernel drills that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.__main__ import make_parser
from kdump_harness.base.errors import UsageError
from kdump_harness.base.evidence import EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.compare import bare
from kdump_harness.campaigns.compare.bisection import run_bisect
from kdump_harness.campaigns.compare.plan import ComparePlan, choose_scenarios
from kdump_harness.cli.bare_sides import changed_thing
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.kernel.plan import KernelPlan
from kdump_harness.kernel.source import KernelFiles
from kdump_harness.kernel.userland import Userland
from kdump_harness.vm.run import Machine, Options

DUMP_S = {"6.1": 10.0, "6.2": 10.1, "6.3": 11.5}


@pytest.fixture
def fake_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose kernel drills take the processor times of DUMP_S, and fail from 6.3 on."""
    root = EvidenceRoot(tmp_path / "evidence")

    def drill(_run: object, plan: KernelPlan) -> Verdict:
        release = plan.kernel.release
        verdict = Verdict("kernel", "userland", "sysrq-c", "raw-disk", "tcg", 768, 1, kernel=release)
        verdict.phases_s = {"boot": 1.0, "dump": 99.0}
        verdict.processor_s = {"dump": DUMP_S[release]}
        verdict.verified = release != "6.3"
        verdict.reached = Stage.VERIFIED if verdict.verified else Stage.SAVED
        verdict.evidence = str(tmp_path)
        return verdict

    monkeypatch.setattr(bare, "run_kernel_drill", drill)
    return SimpleNamespace(
        options=Options(),
        progress=Progress(quiet=True),
        state=None,
        accelerator="tcg",
        slowness=1.0,
        open_evidence=lambda: None,
        evidence=root.drill,
        evidence_directory=root.run,
        at_once=lambda _mib, _disk: 1,
    )


def side(release: str) -> bare.BareSide:
    kernel = KernelFiles(asked=release, image=Path("x"), release=release, modules=None, config="")
    plan = KernelPlan(kernel=kernel, userland=Userland(entries=(), key="k"), machine=Machine(memory_mib=768, vcpus=1))
    return bare.bare_side(release, plan)


def plan(*releases: str, **more: Any) -> ComparePlan:
    old, new = map(side, releases)
    given = {"scenarios": choose_scenarios((), ("smoke",)), "rounds": 3, "most_rounds": 5, "max_slower": 0.05, **more}
    return ComparePlan(image="kernel", thing="kernel", sides=(old, new), machine=Machine(vcpus=1), **given)


def test_a_kernel_that_is_as_fast_is_no_regression(fake_run: Any) -> None:
    found = bare.run_bare_compare(fake_run, plan("6.1", "6.2"))
    assert found.ok
    assert {sample.figures["processor time of dump, s"] for sample in found.samples} == {10.0, 10.1}
    record = json.loads((Path(found.evidence) / "compare.json").read_text())
    assert record["kernels"] == ["6.1", "6.2"]


def test_a_slower_kernel_that_fails_is_found(fake_run: Any) -> None:
    found = bare.run_bare_compare(fake_run, plan("6.1", "6.3"))
    assert {one.what for one in found.regressions()} >= {"verdict", "processor time of dump, s"}


def test_a_drill_that_needs_a_whole_system_is_refused(fake_run: Any) -> None:
    with pytest.raises(UsageError, match="tight needs a whole system"):
        bare.run_bare_compare(fake_run, plan("6.1", "6.2", scenarios=choose_scenarios((), ("tight",))))


def test_the_first_bad_kernel_of_a_list_is_found(fake_run: Any) -> None:
    listed = bare.BareBisectPlan(
        image="kernel",
        thing="kernel",
        sides=tuple(map(side, ("6.1", "6.2", "6.3"))),
        config=KdumpConfig(crashkernel=None, level=None, compress=None),
    )
    assert run_bisect(fake_run, listed).first_bad == 2


@pytest.mark.parametrize(
    ("words", "thing", "values"),
    [
        ("--kernel a --kernel b", "kernel", ["a", "b"]),
        ("a --kernel b", "kernel", ["a", "b"]),
        ("a --makedumpfile sid", "makedumpfile", ["trixie", "sid"]),
        ("a --append nokaslr", "append", ["", "nokaslr"]),
        ("a --capture-append x --capture-append y", "capture-append", ["x", "y"]),
    ],
)
def test_the_sides_are_what_the_user_changes(words: str, thing: str, values: list[str]) -> None:
    arguments = make_parser().parse_args(["compare", "--bare", *words.split()])
    assert changed_thing(arguments) == (thing, values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a", "compares one thing"),
        ("a --kernel b --append c", "compares one thing"),
        ("--append c", "needs the kernel to drill"),
        ("a --initramfs i", "--initramfs cannot go with --bare"),
        ("a b --kernel c", "a second IMAGE"),
    ],
)
def test_sides_that_make_no_sense_are_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed_thing(make_parser().parse_args(["compare", "--bare", *words.split()]))
