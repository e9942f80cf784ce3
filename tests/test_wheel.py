"""Tests of the files that a build adds to the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_man_page_and_the_completions_name_every_verb(tmp_path: Path) -> None:
    """They are made from the parsers alone: a build environment has none of the package's dependencies."""
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
