"""Tests of docs/configuration.md: its examples are valid, and it names each environment variable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kdump_harness.__main__ import make_parser
from kdump_harness.cli.defaults import SHARED
from kdump_harness.diagnosis.table import all_symptoms
from kdump_harness.distro.family import find_family
from kdump_harness.drill.budgets import load_budgets
from kdump_harness.drill.known_issues import load_known_issues
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump.trigger import find_trigger
from layers import ROOT, sources

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
# Set for other programs, or by pytest itself.
NOT_OURS = {"LC_ALL", "PATH", "PYTHONPATH", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_AUTO_NUM_WORKERS"}


def test_the_examples_are_valid_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    families = tmp_path / "kdump-harness.d" / "families"
    families.mkdir(parents=True)
    (family,) = [example for example in examples if "\nlike " in example]
    (families / "lab.toml").write_text(family, encoding="utf-8")
    rows = "\n".join(example for example in examples if example != family)
    (tmp_path / "kdump-harness.toml").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_catalog().find("lab-12").login == "lab"
    assert find_family("lab").crashkernel == "320M"
    assert find_trigger("lab-crash").command == "lab-tool --crash"
    assert all_symptoms().row("lab-switch-down").stage == "CAPTURING"
    assert load_known_issues()[0].tracker == "https://bugs.lab.example/7"
    assert load_budgets()[0].panic_to_login_s == 90
    given = make_parser.__wrapped__("drill").parse_args(["drill", "lab-12"])
    assert (given.uri, given.memory, given.level) == ("qemu+ssh://lab1/system", 2048, 1)


def test_the_page_lists_the_options_that_verbs_share() -> None:
    assert all(f"`{name}`" in PAGE for name in SHARED)


def test_each_environment_variable_that_is_read_is_explained() -> None:
    pattern = r"(?:environ(?:\.get\(|\[)|getenv\(|VARIABLE = )\"([A-Z_]+)\""
    read = {name for path in sources() for name in re.findall(pattern, path.read_text(encoding="utf-8"))}
    assert len(read) > 8
    assert [name for name in sorted(read - NOT_OURS) if f"`{name}`" not in PAGE] == []
