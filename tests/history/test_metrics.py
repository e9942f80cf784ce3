"""Metrics: what Prometheus reads, and the alert rules and the dashboard that use them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from history_factory import drill, failed
from kdump_harness.base.errors import UsageError
from kdump_harness.history.database import DRILL, History
from kdump_harness.history.metrics import _HELP, render, write_metrics

DOCS = Path(__file__).parents[2] / "docs"
LABELS = 'image="debian-12",arch="x86_64",scenario="drill",trigger="sysrq-c",target="local"'
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus has it)"
)
_SAMPLE = re.compile(r'(kdump_drill_\w+)\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+)\} [0-9.e+]+')


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    """A week of drills, the last one slower, and a failure with a hostile name."""
    with History(tmp_path / "h.sqlite") as made:
        for day in range(8):
            made.add(DRILL, drill(day, kernel=f"6.1.0-{55 + day // 7}", slower_by=2.0 if day == 7 else 1.0))
        made.add(DRILL, failed(9, image='ev"il\\\n', trigger="nmi", known_issue="https://x"))
        made.add(DRILL, drill(9, target="nfs"), scenario="scenarios/test_smoke.py::test_dump")
        yield made


def _samples(past: History) -> list[str]:
    return [line for line in render(past).splitlines() if not line.startswith("#")]


def test_the_file_is_replaced_as_a_whole(past: History, tmp_path: Path) -> None:
    write_metrics(past, tmp_path / "m.prom")
    assert (tmp_path / "m.prom").read_text() == render(past)
    assert (tmp_path / "m.prom").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.glob(".m.prom*")] == []


def test_trigger_target_and_architecture_are_labels_in_ascii(past: History) -> None:
    samples = _samples(past)
    assert all(_SAMPLE.fullmatch(line) for line in samples)
    assert all(line.isascii() for line in samples)
    assert f'kdump_drill_worse{{{LABELS},figure="panic_to_login"}} 1' in samples
    assert f"kdump_drill_reserved_bytes{{{LABELS}}} 268435456" in samples
    evil = 'image="ev\\"il\\\\\\n",arch="x86_64",scenario="drill",trigger="nmi",target="local"'
    assert f"kdump_drill_known_issue{{{evil}}} 1" in samples
    assert not any("success" in line and "ev" in line for line in samples)
    test = LABELS.replace("drill", "test_dump").replace("local", "nfs")
    assert f"kdump_drill_verified{{{test}}} 1" in samples


def test_the_kernel_is_a_label_of_the_info_alone(past: History) -> None:
    """A series that ends with each update of the kernel has no past."""
    with_kernel = [line for line in _samples(past) if "kernel=" in line]
    assert {line.partition("{")[0] for line in with_kernel} == {"kdump_drill_info"}
    assert any(f'{LABELS},kernel="6.1.0-56",' in line for line in with_kernel)


def test_a_sum_over_the_phases_counts_nothing_twice(past: History) -> None:
    values = dict(line.rsplit(" ", 1) for line in _samples(past))
    named = {name: float(value) for name, value in values.items() if f"phase_seconds{{{LABELS}" in name}
    after_boot = sum(value for name, value in named.items() if 'phase="boot"' not in name)
    whole = float(values[f"kdump_drill_panic_to_login_seconds{{{LABELS}}}"])
    parts = drill(7, slower_by=2.0)["phases_s"]
    assert after_boot == pytest.approx(sum(parts[name] for name in parts if name not in ("boot", "panic_to_login")))
    assert not any("panic_to_login" in name for name in named)
    assert whole == parts["panic_to_login"]


def test_two_tests_of_one_name_do_not_give_the_same_line_twice(past: History) -> None:
    past.add(DRILL, drill(10, target="nfs"), scenario="other/test_smoke.py::test_dump")
    names = [line.rsplit(" ", 1)[0] for line in _samples(past)]
    assert len(names) == len(set(names))


@needs_promtool
def test_promtool_has_nothing_against_the_metrics(past: History) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=render(past), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
def test_promtool_reads_the_alert_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(DOCS / "alerts.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_rules_and_dashboard_use_metrics_and_labels_that_exist(past: History, name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    used = set(re.findall(r"\bkdump_drill_\w+", text))
    assert used
    assert used <= set(_HELP)
    labels = {label for line in _samples(past) for label in re.findall(r'(\w+)="', line)}
    for words in re.findall(r"(?:\bby|\bon|group_left) ?\(([\w, ]+)\)", text):
        assert {word.strip() for word in words.split(",")} <= labels
    labels |= {"host", "crash"}  # of the store
    named = {name for pair in re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", text) for name in pair if name}
    assert named <= labels


def test_each_panel_of_the_dashboard_has_a_query_and_a_separate_place() -> None:
    board = json.loads((DOCS / "dashboard.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
def test_promtool_reads_each_query_of_the_dashboard(tmp_path: Path) -> None:
    board = json.loads((DOCS / "dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = [{"record": f"query_{number}", "expr": _plain(query)} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _plain(query: str) -> str:
    """Return a query with a value for each variable of the dashboard."""
    return re.sub(r"\$\w+", "x", query)


def test_metrics_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    with History(tmp_path / "h.sqlite") as past, pytest.raises(UsageError, match="cannot be written"):
        write_metrics(past, tmp_path / "no" / "m.prom")
