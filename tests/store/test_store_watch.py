"""A watched store calls the hook, and writes its metrics and its page, for each file that arrives."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.report.store_page import gather_store, render_store
from kdump_harness.store import watching
from kdump_harness.store.describe import outcome_event
from kdump_harness.store.metrics import HELP, render
from kdump_harness.store.store import Store
from kdump_harness.store.watching import Watcher
from store_factory import LOGS, examine_once, make_dump, put

DOCS = Path(__file__).parents[2] / "docs"
WHOLE = LOGS / "6.1.0.kdump"
EVIL = '<script>alert(1)</script>"\\\n'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine the dumps in this process."""
    monkeypatch.setattr("kdump_harness.store.store.examine", examine_once)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store with some crashes, one of them new."""
    day_s = 86400.0
    now_s = time.time()
    with Store(tmp_path / "store", create=True) as made:
        for number in range(6):
            old_s = now_s - (60 - number) * day_s
            put(made, make_dump(number, host=f"db{number % 3}", added_s=old_s, crash_s=int(old_s)), {"firmware": "F7"})
        other = {"signature": "9999999999", "signature_text": "other_crash < caller", "panic": "BUG: oops"}
        put(made, make_dump(7, host="web1", added_s=now_s - 60, crash_s=int(now_s - 90), **other), {"firmware": "F9"})
        yield made


def _settle_at_once(store: Path) -> None:
    store.mkdir(mode=0o700, exist_ok=True)
    (store / "store.toml").write_text("settle_s = 0\nfree_mib = 0\n")


def test_an_arrival_calls_the_hook_and_writes_metrics_and_page(tmp_path: Path) -> None:
    store, incoming = tmp_path / "store", tmp_path / "incoming"
    _settle_at_once(store)
    (incoming / "db7-202611221011").mkdir(parents=True)
    shutil.copyfile(WHOLE, incoming / "db7-202611221011" / "vmcore")
    (incoming / "broken").mkdir()
    (incoming / "broken" / "vmcore").write_bytes(WHOLE.read_bytes()[:50_000])
    calls, prom, page = tmp_path / "calls", tmp_path / "store.prom", tmp_path / "store.html"
    outputs = ["--hook", f"cat >> {calls}", "--metrics", str(prom), "--report", str(page)]
    assert main(["store", "watch", str(incoming), "--once", "--store", str(store), *outputs]) == 1
    events = {event["event"]: event for event in map(json.loads, calls.read_text().splitlines())}
    assert set(events) == {"refused", "stored"}  # with settle_s = 0 nothing waits
    crash = events["stored"]
    assert crash["new"] is True
    assert crash["dump"]["signature_text"] in crash["text"]
    assert re.fullmatch(r"\S+ crashed: .* \(not seen before; store show [0-9a-f]{12}\)", crash["text"])
    assert events["refused"]["text"].startswith(f"refused {incoming}/broken/vmcore: damaged")
    assert 'kdump_store_dumps{state="triaged"} 1' in prom.read_text()
    assert crash["dump"]["id"] in page.read_text()
    assert "broken/vmcore" in page.read_text()


def test_the_same_crash_again_is_not_new(kept: Store, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    shutil.copyfile(WHOLE, incoming / "vmcore")
    object.__setattr__(kept.policy, "settle_s", 0.0)
    object.__setattr__(kept.policy, "free_mib", 0)
    (outcome,) = Watcher(kept, incoming).look()
    assert outcome.dump is not None
    dated = dataclasses.replace(outcome, dump=dataclasses.replace(outcome.dump, crash_s=1_790_000_000))
    put(kept, make_dump(8, signature=outcome.dump.signature, host="elsewhere", added_s=1.8e9, crash_s=1_800_000_000))
    event = outcome_event(kept.index, "stored", dated)
    assert event["new"] is False
    assert "crashed at 2026-09-21 14:13:20Z: sysrq_handle_crash" in event["text"]
    assert "seen 1 times before, last 2027-01-15 08:00:00Z" in event["text"]


def test_the_next_look_is_when_the_file_has_settled(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump is in the store within settle_s and the time between two looks, so within a minute by default."""
    clock = [0.0]
    monkeypatch.setattr(watching, "now_s", lambda: clock[0])
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    watcher = Watcher(kept, incoming)
    assert list(watcher.look()) == []
    assert watcher.settles_in_s() is None
    shutil.copyfile(WHOLE, incoming / "vmcore")
    assert [one.outcome for one in watcher.look()] == ["waiting"]
    clock[0] = 10.0
    assert watcher.settles_in_s() == pytest.approx(kept.policy.settle_s - 10)
    clock[0] = kept.policy.settle_s + 5
    assert watcher.settles_in_s() == 0  # at once
    (incoming / "vmcore").rename(incoming / "vmcore-incomplete")
    list(watcher.look())
    clock[0] += kept.policy.settle_s
    assert next(one.reason for one in watcher.look()).startswith("its name is that of an unfinished dump")
    assert watcher.settles_in_s() is None  # a look sooner than usual would not help


def test_a_crash_is_reported_soon_after_it_arrives(tmp_path: Path) -> None:
    """The real clock, with a policy in seconds: the hook comes at settle_s, not at the next of rare looks."""
    store, incoming, calls = tmp_path / "store", tmp_path / "incoming", tmp_path / "calls"
    store.mkdir(mode=0o700)
    (store / "store.toml").write_text("settle_s = 0.4\nfree_mib = 0\n")
    incoming.mkdir()
    shutil.copyfile(WHOLE, incoming / "vmcore")
    stop = f"cat >> {calls}; ! grep -q stored {calls} || kill -TERM $PPID"
    script = (
        "import sys\nfrom kdump_harness.store import store\nfrom store_factory import examine_once\n"
        "store.examine = examine_once\nfrom kdump_harness.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    command = ["store", "watch", str(incoming), "--store", str(store), "--every", "60", "--hook", stop]
    tests = str(Path(__file__).parents[1])
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        env={**os.environ, "PYTHONPATH": f"{tests}:{os.environ.get('PYTHONPATH', '')}"},
        timeout=50,
        check=False,
    )
    assert done.returncode == 130
    heard = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [event["event"] for event in heard] == ["arriving", "stored"]
    assert heard[0]["text"] == f"arriving {incoming}/vmcore: it must be unchanged for 0 s"
    assert time.monotonic() - began_s < 45


def test_metrics_count_hosts_states_and_signatures(kept: Store) -> None:
    samples = dict(line.rsplit(" ", 1) for line in render(kept.index).splitlines() if not line.startswith("#"))
    assert samples['kdump_store_dumps{state="triaged"}'] == "7"
    assert samples['kdump_store_host_dumps{host="db1"}'] == "2"
    crash = 'signature="0123456789",crash="crash_here < and_there"'
    assert samples[f"kdump_store_signature_dumps{{{crash}}}"] == "6"
    assert float(samples["kdump_store_last_arrival_timestamp_seconds"]) == pytest.approx(time.time() - 60, abs=30)
    assert {name.partition("{")[0] for name in samples} == set(HELP)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_against_the_metrics(kept: Store) -> None:
    put(kept, make_dump(9, host=EVIL, signature_text=EVIL, signature="1"))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=render(kept.index), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_alert_rules_use_metrics_that_exist() -> None:
    for name in ("alerts.yaml", "dashboard.json"):
        used = set(re.findall(r"\bkdump_store_\w+", (DOCS / name).read_text(encoding="utf-8")))
        assert used
        assert used <= set(HELP)


def test_the_page_has_new_crashes_patterns_and_hosts(kept: Store) -> None:
    page = gather_store(kept.index)
    assert [dump.host for dump in page.new] == ["web1"]
    assert [(host.name, host.dumps, host.crashes) for host in page.hosts] == [
        ("web1", 1, 1), ("db2", 2, 1), ("db1", 2, 1), ("db0", 2, 1),
    ]  # fmt: skip
    text = render_store(kept.index)
    assert text.index("New in the last 7 days") < text.index("Patterns") < text.index("Hosts")
    assert "firmware F7: 100 % of these dumps, 0 % of all others" in text
    assert "1 new crash in 7 days" in text


def test_nothing_in_a_dump_acts_on_the_reader_of_the_page(kept: Store) -> None:
    put(kept, make_dump(9, host=EVIL, panic=EVIL, kernel=EVIL, signature_text=EVIL, signature="1", added_s=time.time()))
    text = render_store(kept.index)
    assert "<script>alert" not in text
    open_tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "br", "input"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser().feed(text)
    assert open_tags == []


def test_what_a_page_leaves_out_is_counted(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdump_harness.report.store_page._MOST_DUMPS", 3)
    monkeypatch.setattr("kdump_harness.report.store_page._MOST_HOSTS", 1)
    text = render_store(kept.index)
    assert "4 more dumps are left out" in text
    assert "3 more hosts are left out" in text


def test_an_empty_store_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "store", create=True).close()
    page = tmp_path / "page.html"
    assert main(["store", "report", "--store", str(tmp_path / "store"), "--out", str(page)]) == 0
    assert "The store has no dumps." in page.read_text()
    assert main(["store", "report", "--store", str(tmp_path / "store"), "--out", "/proc/x.html"]) == 2
    assert "/proc/x.html cannot be written" in capsys.readouterr().err


def test_trouble_with_the_page_does_not_stop_the_intake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, incoming, pages = tmp_path / "store", tmp_path / "incoming", tmp_path / "pages"
    _settle_at_once(store)
    for path in (incoming, pages):
        path.mkdir()
    shutil.copyfile(WHOLE, incoming / "vmcore")
    options = ["--report", str(pages / "store.html"), "--hook", f"rm -r {pages}"]
    assert main(["store", "watch", str(incoming), "--once", "--store", str(store), *options]) == 0
    said = capsys.readouterr().out
    assert "stored" in said
    assert "cannot be written" in said
