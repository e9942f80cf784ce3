"""Tests of the files that a build adds to the wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_man_page_and_the_completions_name_every_verb(tmp_path: Path) -> None:
    """They are made from the parsers alone."""
    for tool in ("argparse_manpage", "hatchling", "shtab"):
        pytest.importorskip(tool)
    script = "import hatch_build, json; print(json.dumps(hatch_build.pages()))"
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = json.loads(made.stdout)
    for verb in ("drill", "inspect", "fleet"):
        assert f"kdump-harness {verb}" in pages["kdump-harness.1"].replace(r"\-", "-")
        assert verb in pages["kdump-harness.bash"]
        assert verb in pages["_kdump-harness"]
    checked = tmp_path / "completion.bash"
    checked.write_text(pages["kdump-harness.bash"], encoding="utf-8")
    subprocess.run(["bash", "-n", str(checked)], check=True)


def test_a_build_environment_has_the_packages_that_the_parsers_import() -> None:
    script = """
import sys
before = set(sys.modules)
from kdump_harness.__main__ import make_parser
make_parser()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
from importlib.metadata import packages_distributions
print(*{name for module, names in packages_distributions().items() if module in new for name in names})
"""
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = {re.split(r"[<>=!~; ]", one)[0] for one in table["build-system"]["requires"]}
    assert set(made.stdout.split()) - {table["project"]["name"]} <= required
