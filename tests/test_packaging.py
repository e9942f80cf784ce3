"""The distribution packages have the project's version and recommend what drills need."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from layers import ROOT

PACKAGING = ROOT / "packaging"
spec = importlib.util.spec_from_file_location("build_packages", PACKAGING / "build.py")
assert spec is not None
assert spec.loader is not None
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.mark.parametrize(
    ("template", "key", "package"),
    [("debian/control", "packages", "qemu-utils"), ("kdump-harness.spec", "redhat", "qemu-img")],
)
def test_a_template_recommends_the_packages_of_the_table(tmp_path: Path, template: str, key: str, package: str) -> None:
    build.fill(PACKAGING / template, tmp_path / "filled", key)
    text = (tmp_path / "filled").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("Recommends:"))
    assert package in line.removeprefix("Recommends:").replace(" ", "").split(",")
    assert "@" not in text.replace("@localhost", "")


def test_the_packages_have_the_version_of_the_project(tmp_path: Path) -> None:
    build.fill(PACKAGING / "debian" / "changelog", tmp_path / "changelog", "packages")
    assert (tmp_path / "changelog").read_text().startswith(f"kdump-harness ({build.PROJECT['version']}) ")
