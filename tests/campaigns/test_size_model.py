"""The model of the memory that capture kernels need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import UsageError
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.size.model import Model, Request, load_table, predict, shipped_model
from kdump_harness.campaigns.size.points import POINTS, Point, load_points, point_of, to_toml

CONSOLE = """\
[    0.5] Freeing initrd memory: 17952K
[    1.0] sysrq: Trigger a crash
[    0.000000] Command line: console=ttyS0 elfcorehdr=0x2f000000
[    0.100000] Memory: 150000K/196608K available (14342K kernel code, 46608K reserved, 0K cma-reserved)
[    0.500000] Freeing initrd memory: 9000K
[    0.600000] Freeing unused kernel image (initmem) memory: 2000K
[    1.000000] kdump-harness: capture memory: total 180000 kB, left 140000 kB
[    2.000000] kdump-harness: capture memory: total 180000 kB, left 138000 kB
"""


def points(per_gib_mib: float = 0.0625, per_cpu_mib: float = 0.03) -> list[Point]:
    """Return points that follow a rule exactly."""
    rows = [
        (kernel, memory, cpus)
        for kernel in ("6.1.0-57-cloud-amd64", "6.12.9-amd64")
        for memory in (1, 4, 16)
        for cpus in (1, 8)
    ]
    return [
        Point(
            kernel=kernel,
            memory_mib=memory * 1024,
            vcpus=cpus,
            reserved_mib=256,
            level=31,
            initramfs_kib=8 << 10,
            need_kib=round((base + 8 + 4 + per_gib_mib * memory + per_cpu_mib * cpus) * 1024),
            boot_kib=round((base - 10 + 2 * 8 + 4) * 1024),
        )
        for kernel, memory, cpus in rows
        for base in [40 if "cloud" in kernel else 60]
    ]


def test_a_rule_is_found_in_its_points_and_left_out_points_are_predicted() -> None:
    model = Model(points())
    assert model.per_gib_mib == pytest.approx(0.0625, abs=0.001)
    assert model.per_cpu_mib == pytest.approx(0.03, abs=0.001)
    assert model.fitted_mib("6.12", 0, 0)[0] == pytest.approx(60, abs=0.01)
    left_out = list(model.left_out())
    assert len(left_out) == 12
    assert max(abs(one.error_mib) for one in left_out) < 0.01


def test_points_move_the_expected_need_of_memory_and_processors() -> None:
    model = Model(points(per_gib_mib=0.25, per_cpu_mib=1.0))
    assert 0.08 < model.per_gib_mib < 0.25
    assert 0.1 < model.per_cpu_mib < 1.0
    assert model.fitted_mib("6.12", 1536 << 10, 256)[1] > model.fitted_mib("6.12", 16 << 10, 8)[1]


def test_a_large_archive_counts_while_it_is_unpacked() -> None:
    model = Model(points())
    assert model.boot_mib == {"6.1 cloud": pytest.approx(30), "6.12": pytest.approx(50)}
    small, large = (
        model.predict(Request(memory_mib=1024, vcpus=1, kernel="6.12", packed_mib=packed, unpacked_mib=100))
        for packed in (5, 200)
    )
    assert large.low_mib > small.low_mib + 150
    assert (small.dominant.name, large.dominant.name) == ("capture initramfs", "unpacking")


def test_a_point_that_does_not_fit_is_seen_when_it_is_left_out() -> None:
    given = points()
    given[3] = replace(given[3], need_kib=given[3].need_kib + (30 << 10))
    assert max(abs(one.error_mib) for one in Model(given).left_out()) > 25


def test_the_measured_points_are_predicted_without_themselves() -> None:
    left_out = list(shipped_model().left_out())
    assert len(left_out) >= 8
    for one in left_out:
        assert abs(one.error_mib) <= 12 or one.error_share <= 0.1, one


def test_a_prediction_has_a_range_its_largest_part_and_a_parameter() -> None:
    request = Request(memory_mib=1536 << 10, vcpus=256, kernel="6.12.9-amd64", parts=("nfs", "mlx5_core"))
    (found,) = predict(points(), [request]).machines
    assert found.low_mib < found.high_mib
    assert found.dominant.name == "mlx5_core"
    assert found.crashkernel.endswith("M")
    (luks,) = predict(points(), [replace(request, parts=("luks2",))]).machines
    assert luks.dominant.name == "luks2"
    assert ",high crashkernel=72M,low" in luks.crashkernel
    words = {one.name: one.word for one in found.vendors()}
    assert (words["Debian 12"], words["Ubuntu 24.04"]) == ("too small", "enough")


@pytest.mark.parametrize(
    ("release", "like"),
    [
        ("6.12.1-a", ["6.12"]),
        ("6.12.95-amd64", ["6.12"]),
        ("6.1.0-57-cloud-amd64", ["6.1 cloud"]),
        ("7.2.0-cloud-amd64", ["6.1 cloud"]),
        ("5.14.0-503.el9.x86_64", ["6.12"]),
        ("", ["6.1 cloud", "6.12"]),
    ],
)
def test_a_release_is_like_the_measured_kernels_of_its_version_and_flavour(release: str, like: list[str]) -> None:
    assert Model(points()).kernels_like(release) == like


def test_a_system_that_boots_its_root_filesystem_frees_the_initramfs() -> None:
    model = Model(points())
    asked = Request(memory_mib=1024, vcpus=1, kernel="6.12", packed_mib=5, unpacked_mib=100, parts=("kdump-utils",))
    other = model.predict(replace(asked, parts=("kdump-tools",)))
    assert "capture initramfs" in {one.name for one in model.predict(asked).estimates}
    assert {one.name for one in other.estimates} == {"kernel", "memory and processors", "kdump-tools", "unpacking"}


def test_sizes_that_failed_in_public_are_below_what_the_model_advises() -> None:
    """The initramfs of Fedora CoreOS was not packed by squashfs, and its size is not known."""
    model = shipped_model()
    for report in load_table().report:
        if "CoreOS" in report.machine:
            continue
        found = model.predict(report.request)
        advised_mib = int(found.crashkernel.partition("M")[0])
        assert advised_mib > report.too_small_mib, (report, found)
        if report.enough_mib:
            assert found.low_mib <= report.enough_mib, (report, found)


def test_a_point_is_what_a_capture_kernel_reported_and_survives_its_table(tmp_path: Path) -> None:
    verdict = Verdict(
        image="k", family="userland", trigger="c", target="raw-disk", accelerator="tcg", memory_mib=1024, vcpus=2
    )
    verdict.kernel, verdict.level, verdict.verified = "6.1", 31, True
    point = point_of(verdict, CONSOLE, drivers=("nouveau",))
    assert point is not None
    assert (point.initramfs_kib, point.need_kib) == (9000, 196608 - 138000)
    assert point.boot_kib == 196608 - 140000 + 9000 + 2000
    assert point_of(verdict, CONSOLE.replace("capture memory", "x")) is None
    verdict.verified = False
    assert point_of(verdict, CONSOLE) is None
    path = tmp_path / "points.toml"
    path.write_text(to_toml(point) + "\n" + to_toml(replace(point, drivers=())), encoding="utf-8")
    assert load_points(path) == (point, replace(point, drivers=()))


def test_the_verb_prints_and_writes_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = ["--memory", "64G", "--vcpus", "8,64", "--target", "nfs", "--json", str(tmp_path / "model.json")]
    assert main(["size", "--model", *machine]) == 0
    printed = capsys.readouterr().out
    assert "64 GiB, 8 CPUs  crashkernel=" in printed
    found: dict[str, Any] = json.loads((tmp_path / "model.json").read_text())
    assert [one["request"]["vcpus"] for one in found["machines"]] == [8, 64]
    assert found["fit"]["points"] == len([point for point in load_points() if not point.drivers])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "size needs an IMAGE, or --model"),
        (["debian-12", "--model"], "--model predicts without a guest: leave debian-12 out"),
        (["--model", "--initramfs", "80"], "invalid --initramfs: got '80'"),
        (["--model", "--part", "mlx9"], "unknown part 'mlx9' of the size model (known: "),
        (["--model", "--target", "tape"], "unknown target 'tape'"),
        (["--model", "--points", "/nowhere/points.toml"], "/nowhere/points.toml: cannot be read"),
        (["--model", "--points", str(POINTS.with_name("model.toml"))], "model.toml: unknown part (known: point)"),
    ],
)
def test_bad_input_of_the_model_is_one_sentence(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["size", *arguments]) == 2
    printed = capsys.readouterr().err
    assert why in printed
    assert len(printed.splitlines()) == 1


def test_a_program_of_a_distribution_adds_to_its_default_up_to_a_limit() -> None:
    row = next(row for row in load_table().vendor if row.most_more_mib)
    small, large, huge = (row.reserved_mib(gib << 10) for gib in (1, 256, 4096))
    assert small < large < huge == row.reserved_mib(8192 << 10)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UsageError, match="1 points are too few for a model: expected 3"):
        Model(points()[:1])
