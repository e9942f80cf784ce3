"""Every benchmark explains its usage and can be checked without a guest."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))
NEED_GUESTS = ("kernel", "overhead", "warm")


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_has_a_usage_and_a_smoke_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"\n\nUsage: python benchmarks/{path.name} " in text
    assert 'add_argument("--smoke"' in text.replace("(\n        ", "(")


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("name", NEED_GUESTS)
def test_a_benchmark_of_guests_passes_its_smoke_run(name: str) -> None:
    """`make check` runs those of all benchmarks; the others take seconds."""
    (path,) = (path for path in BENCHMARKS if path.stem == name)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        assert module.main(["--smoke"]) == 0
