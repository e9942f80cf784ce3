"""Matrices of kernel drills, with drills that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import GuestError, TableError, UsageError
from kdump_harness.base.evidence import EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.kernels import run as kernels_run
from kdump_harness.campaigns.kernels.plan import KernelMatrix, load_matrix
from kdump_harness.campaigns.kernels.result import Kernels
from kdump_harness.vm.run import Options


@pytest.fixture
def fake_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose drills are verified on 6.1, fail on 6.12, and never boot on 7.2; 9.9 does not exist."""
    root = EvidenceRoot(tmp_path / "evidence")

    def find_kernel(name: str, *_: object) -> SimpleNamespace:
        if name == "./9.9":
            raise UsageError("no kernel 9.9")
        return SimpleNamespace(release=name.removeprefix("./"))

    def drill(_run: object, plan: Any) -> Verdict:
        if plan.kernel.release == "7.2":
            raise GuestError("it did not boot", see=tmp_path)
        verdict = Verdict("kernel", "userland", "sysrq-c", "raw-disk", "tcg", 768, 2, kernel=plan.kernel.release)
        verdict.check("filter", plan.kernel.release == "6.1", expected="none", seen="many")
        verdict.verified = plan.kernel.release == "6.1"
        return verdict

    monkeypatch.setattr(kernels_run, "find_kernel", find_kernel)
    monkeypatch.setattr(kernels_run, "make_userland", lambda request, *_: request)
    monkeypatch.setattr(kernels_run, "run_kernel_drill", drill)
    monkeypatch.setattr(kernels_run, "KernelPlan", SimpleNamespace)
    return SimpleNamespace(
        options=Options(),
        progress=Progress(quiet=True),
        state=None,
        accelerator="tcg",
        open_evidence=lambda: None,
        evidence=root.drill,
        evidence_directory=root.run,
        at_once=lambda _mib, _disk: 1,
    )


def test_every_cell_has_an_outcome_and_none_is_passed_by_chance(fake_run: Any) -> None:
    seen: list[Verdict] = []
    found = kernels_run.run_kernels(
        fake_run, KernelMatrix(kernels=("./6.1", "./6.12", "./7.2", "./9.9"), levels=(1, 31)), on_verdict=seen.append
    )
    statuses = {(one.cell.kernel, one.cell.level): one.status for one in found.outcomes}
    assert [statuses[kernel, 31] for kernel in ("./6.1", "./6.12", "./7.2", "./9.9")] == [
        "verified", "failed", "not judged", "not judged",
    ]  # fmt: skip
    assert (len(found.outcomes), len(seen), found.ok) == (8, 4, False)
    assert {one.reason for one in found.outcomes if one.cell.kernel == "./9.9"} == {"no kernel 9.9"}
    record = json.loads((Path(found.evidence) / "kernels.json").read_text())
    assert (record["ok"], record["cells"], len(record["outcomes"])) == (False, 8, 8)


def test_a_matrix_is_ok_only_if_every_drill_was_verified(fake_run: Any) -> None:
    assert kernels_run.run_kernels(fake_run, KernelMatrix(kernels=("./6.1",))).ok
    assert not Kernels(cells=1).ok


def test_a_matrix_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('kernels = ["trixie"]\nmakedumpfiles = ["bookworm", "sid"]\nlayouts = ["", "numa"]\n')
    plan = load_matrix(path)
    plan.check()
    assert [(cell.makedumpfile, cell.layout) for cell in plan.cells()] == [
        ("bookworm", ""), ("bookworm", "numa"), ("sid", ""), ("sid", "numa"),
    ]  # fmt: skip
    path.write_text('kernels = ["trixie", "trixie"]\nlevels = [31, 1, 31]\n')
    assert [cell.level for cell in load_matrix(path).cells()] == [31, 1]
    path.write_text('kernel = ["trixie"]\n')
    with pytest.raises(TableError, match=r"m\.toml: unknown kernel"):
        load_matrix(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (32,)}, "dump level 32 does not exist"),
        ({"compressions": ("gzip",)}, "unknown compression 'gzip'"),
        ({"layouts": ("odd",)}, "unknown layout 'odd'"),
        ({"kernels": ()}, "it has 0 drills"),
        ({"memories_mib": (768, 64)}, "invalid guest memory: got 64 MiB"),
        ({"vcpus": 0}, "invalid number of processors: got 0"),
        ({"trigger": "nmi-ignored"}, "cannot be crashed by nmi-ignored"),
        ({"crashkernel": "8M8"}, "refuses crashkernel=8M8"),
    ],
)
def test_a_matrix_with_a_slip_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KernelMatrix(**{"kernels": ("trixie",), **change}).check()
