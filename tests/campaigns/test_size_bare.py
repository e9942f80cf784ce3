"""Sizings by kernel drills that are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import __main__ as command
from kdump_harness.base.evidence import EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Check, Verdict
from kdump_harness.campaigns.size import bare
from kdump_harness.distro.architecture import find_architecture
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kernel.plan import KernelPlan, userland_family
from kdump_harness.kernel.source import not_yet_found
from kdump_harness.vm.run import Machine, Options

ARM64 = find_architecture("arm64")
EDGE_MIB = 150


@pytest.mark.parametrize("symptom", ["capture-oom", "kexec-load-failed-other", "capture-panic"])
def test_each_trial_boots_the_kernel_with_its_own_reservation(
    symptom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[KernelPlan] = []
    root = EvidenceRoot(tmp_path / "evidence")

    def drill(_run: object, plan: KernelPlan) -> Verdict:
        seen.append(plan)
        directory = tmp_path / str(len(seen))
        directory.mkdir()
        (directory / "console.log").touch()
        mib = int((plan.crashkernel or "").rpartition(":")[2].removesuffix("M"))
        verdict = Verdict(
            "kernel", "userland", "sysrq-c", "raw-disk", "tcg", 768, 2, kernel="5.10", makedumpfile="1.6.8",
            reserved_mib=mib, evidence=str(directory),
        )  # fmt: skip
        if mib >= EDGE_MIB:
            verdict.reached = Stage.SAVED
            verdict.checks = [Check(name, True, "", "") for name in bare.BareSizer.needed]
        else:
            verdict.reached = Stage.CAPTURING
            verdict.symptoms = [{"name": symptom, "severity": "failure", "line": "", "remedy": ""}]
        return verdict

    monkeypatch.setattr(bare, "run_kernel_drill", drill)
    run: Any = SimpleNamespace(
        open_evidence=lambda: None, evidence=root.drill, evidence_directory=root.run, progress=Progress(quiet=True),
        accelerator="tcg", factor=6.0, side_by_side=1, options=Options(), at_once=lambda *_: 1, abandon=lambda: None,
    )  # fmt: skip
    kernel_plan = KernelPlan(kernel=not_yet_found("bullseye"), architecture=ARM64)
    plan = bare.BareSizePlan(
        subject=SystemUnderTest(name="bullseye", family=userland_family(), of_file=ARM64),
        memories_mib=(768,), machine=Machine(architecture=ARM64), crashkernel="256M", repeats=2,
        kernel_plan=kernel_plan,
    )  # fmt: skip
    found = bare.run_bare_size(run, plan)
    (sizing,) = found.sizings
    assert sizing.smallest_mib == 152
    assert found.crashkernel == "768M-:192M"
    assert sizing.confirmed is True
    assert (found.kernel, found.makedumpfile) == ("5.10", "1.6.8")
    assert [plan.crashkernel for plan in seen][:2] == ["256M", "128M"]
    assert seen[-1].crashkernel == "768M-:192M"
    assert {plan.architecture.name for plan in seen} == {"arm64"}
    assert {plan.machine.memory_mib for plan in seen} == {768}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["bullseye", "--bare", "--firmware", "uefi"], "--firmware cannot go with --bare"),
        (["bullseye", "--bare", "--packages", "x"], "--packages cannot go with --bare"),
        (["bullseye", "--bare", "--target", "nfs"], "--target cannot go with --bare"),
        (["bullseye", "--bare", "--arch", "vax"], "unknown architecture 'vax'"),
        (["bullseye", "--bare", "--arch", "arm64", "--memory", "256M"], "the kernel refuses crashkernel=256M"),
        (["debian-12", "--arch", "arm64"], "--arch is for --bare"),
        (["--model", "--bare"], "--model predicts without a guest"),
        (["debian-12", "--userland", "sid"], "--userland is for --bare"),
    ],
)
def test_bad_input_of_kernels_is_one_sentence(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["size", *options, "--state", str(tmp_path / "state")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
