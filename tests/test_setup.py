"""The set-up reads the table that the doctor reads, and the documented make targets are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from kdump_harness.base import tables
from kdump_harness.vm.host_check import load_needs

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "harness" / "kdump_harness" / "vm" / "setup_host.sh"
TARGETS = ("setup", "drill", "test", "scenarios", "check", "release", "bench", "docs", "clean", "help")


def test_the_set_up_is_shell() -> None:
    made = subprocess.run(["sh", "-n", str(SETUP)], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")


def test_the_set_up_finds_every_package_of_the_table() -> None:
    """It reads TOML with sed, because there may be no Python that can."""
    (line,) = re.findall(r"^packages=.*$", SETUP.read_text(encoding="utf-8"), flags=re.MULTILINE)
    script = f'here={SETUP.parent}; key=packages; {line}; for package in $packages; do echo "$package"; done'
    found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert found == [package for need in load_needs() for package in need.packages]


def test_every_need_brings_what_it_looks_for() -> None:
    for need in load_needs():
        assert need.packages, need.name
        assert need.commands or need.files, need.name


def test_the_package_names_are_ones_that_a_shell_takes_as_they_are() -> None:
    for need in load_needs():
        for package in need.packages:
            assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package), package


@pytest.mark.parametrize("target", TARGETS)
def test_the_make_target_is_there_and_explains_itself(target: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \S", text, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony
    assert target in phony.group(1).split()


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ((), ""),
        (
            ("IMAGES=debian-* rocky-9", "JOBS=2", "STRICT=1"),
            "--image debian-* --image rocky-9 -n 2 --strict-images",
        ),
        (("IMAGES=debian-12", "JOBS=1", "STRICT=0"), "--image debian-12"),
    ],
    ids=["plain", "all", "off"],
)
def test_make_scenarios_hands_globs_on_as_they_are(tmp_path: Path, settings: tuple[str, ...], arguments: str) -> None:
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "debian-in-the-way").touch()
    told = subprocess.run(
        ["make", "--no-print-directory", "-n", "scenarios", *settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (line for line in told.stdout.splitlines() if "pytest" in line)
    show = line.replace(".venv/bin/pytest", "printf '%s ' pytest").replace("id -u", "echo 0")  # the shell's view of it
    seen = subprocess.run(["sh", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["pytest", "scenarios", *arguments.split()]


def test_every_make_target_of_the_readme_is_there() -> None:
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= set(TARGETS)


def test_the_tables_lie_where_the_package_looks_for_them() -> None:
    for name in ("vm/host.toml", "kdump/triggers.toml", "diagnosis/symptoms.toml", "distro/families"):
        assert tables.package_path(name).exists(), name
    assert tables.data_path("images", "catalog.toml").exists()
