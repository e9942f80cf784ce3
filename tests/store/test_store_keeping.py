"""Management of stored dumps: patterns, pruning and holds, bundles, copies to a central store."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.redaction.texts import kinds
from kdump_harness.store import push
from kdump_harness.store.bundles import bundle, filtering
from kdump_harness.store.bundles.bundle import Request, make_bundle
from kdump_harness.store.index import Dump
from kdump_harness.store.intake.signature import signature, traits
from kdump_harness.store.patterns import find_patterns, seen_before
from kdump_harness.store.policy import Policy
from kdump_harness.store.push import Central
from kdump_harness.store.remote import SourceMachine
from kdump_harness.store.retention import decide, prune
from kdump_harness.store.store import Store
from kdump_harness.store.watching import Watcher
from kdump_harness.triage import CrashedTask, Module, Triage
from store_factory import LOGS, admit, examine_once, make_dump, put

DAY_S = 86400.0
NOW_S = 1_800_000_000.0


@pytest.fixture(autouse=True)
def one_look_at_each_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of this file share the results of the examining process."""
    monkeypatch.setattr("kdump_harness.store.store.examine", examine_once)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store(tmp_path / "store", create=True) as made:
        yield made


# ---------------------------------------------------------------- signatures


def _crash(*stack: str, **facts: Any) -> Triage:
    fields: dict[str, Any] = dict.fromkeys(
        ("kernel", "panic", "reason", "rip", "taint_flags"),
    )
    fields |= dict.fromkeys(("taints", "modules", "call_trace", "remarks"), ())
    return Triage(source="", task=CrashedTask(comm="x", pid=1, cpu=0), stack=stack, **{**fields, **facts})


def _text(crash: Triage) -> str:
    found = signature(crash)
    assert found is not None
    return found.text


def test_builds_of_one_function_are_the_same_crash() -> None:
    log = _crash(
        "dump_stack+0x6b/0x83", "panic+0x1/0x2", "bar.cold+0x44/0x11c", "baz.isra.0+0x1/0x9 [ext4]", "kthread+0x1/0x2"
    )
    drgn = _crash(
        "crash_kexec+0x1/0x2 (kernel/kexec_core.c:1)",
        "panic+0x9/0x22 (kernel/panic.c:1)",
        "helper (inc.h:3, inlined)",
        "bar+0x40/0x99 (fs/x.c:3)",
        "baz+0x3/0x9 (fs/x.c:9)",
        "kthread+0x1/0x2",
    )
    assert _text(log) == _text(drgn) == "bar < baz"


def test_the_log_s_oops_and_drgn_s_begin_at_the_same_function() -> None:
    log = _crash("caller+0x1/0x9", "upper+0x1/0x9", rip="RIP: 0010:faulty+0x17/0x20 [mod]")
    drgn = _crash(
        "oops_end+0x1/0x2", "page_fault_oops+0x1/0x2", "asm_exc_page_fault+0x1/0x2",
        "faulty+0x17/0x20 (a.c:1)", "caller+0x1/0x9 (a.c:2)", "upper+0x1/0x9",
        rip="RIP: 0010:faulty+0x17/0x20 [mod]",
    )  # fmt: skip
    assert _text(log) == _text(drgn) == "faulty < caller < upper"


def test_crashes_by_the_watchdog_are_distinguished_by_their_reason() -> None:
    stack = ("panic+0x1/0x2", "watchdog.cold+0x1/0x2", "kthread+0x1/0x2", "ret_from_fork+0x1/0x2")
    hung = _crash(*stack, panic="Kernel panic - not syncing: hung_task: blocked tasks")
    assert _text(hung) == "hung_task: blocked tasks < watchdog"


def test_numbers_do_not_make_another_crash() -> None:
    one, other = (_crash(reason=f"BUG: unable to handle page at 00000000{n:08x}, CPU {n}") for n in (7, 12))
    assert signature(one) == signature(other)
    assert signature(_crash()) is None


def test_traits_come_from_the_log() -> None:
    log = (
        "[    0.000000] DMI: Acme Frobnicator/X1, BIOS 2.19.1 06/04/2023\n"
        "[    1.000000][    T1] mlx5_core 0000:3b:00.0: firmware version: 16.32.1010\n"
        "[    1.100000] i40e 0000:3b:00.0: fw 8.5.67516 api 1.15 nvm 8.50\n"
        "[    1.200000] ixgbe: Intel(R) 10 Gigabit PCI Express Network Driver - version 5.1.0-k\n"
        "[    1.300000] NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n"
        "[    1.400000] microcode: Current revision: 0x0b000040\n"
    )
    assert traits(log, _crash(modules=(Module(name="zfs", taints="POE"), Module(name="ext4", taints="")))) == {
        "hardware": "Acme Frobnicator/X1",
        "firmware": "2.19.1",
        "firmware of mlx5_core": "16.32.1010",
        "firmware of i40e": "8.5.67516",
        "driver ixgbe": "5.1.0-k",
        "driver nvidia": "535.104.05",
        "microcode": "0x0b000040",
        "module zfs": "POE",
    }


# ---------------------------------------------------------------- patterns


def test_properties_of_only_the_crashing_machines_stand_out(kept: Store) -> None:
    for number in range(6):
        fw = {"firmware": "2.19", "hardware": "X1"}
        put(kept, make_dump(number, host=f"bad{number}", signature="s" * 10), fw)
    for number in range(10, 20):
        fw = {"firmware": "2.21" if number > 10 else "2.19", "hardware": "X1"}
        put(kept, make_dump(number, host=f"good{number}", signature=f"other{number}"), fw)
    (pattern,) = find_patterns(kept.index)
    assert len(pattern.dumps) == len(pattern.hosts) == 6
    (suspect,) = pattern.suspects
    assert (suspect.name, suspect.value, suspect.share, suspect.elsewhere) == ("firmware", "2.19", 1.0, 0.1)


def test_seen_before_counts_the_others_only(kept: Store) -> None:
    first = put(kept, make_dump(1, host="a"), {"firmware": "1"})
    put(kept, make_dump(2, host="b", kernel="other"), {"firmware": "1"})
    put(kept, make_dump(3, host="a", signature="else"), {"firmware": "2"})
    found = {one.what: (one.count, one.hosts) for one in seen_before(kept.index, first)}
    assert found == {"signature": (1, 1), "host": (1, 1), "kernel": (1, 1), "firmware": (1, 1)}


# ---------------------------------------------------------------- retention


def _gone(dumps: list[Dump], policy: Policy, now_s: float = NOW_S) -> set[int]:
    ids = {dump.id: number for number, dump in enumerate(dumps)}
    return {ids[one.dump.id] for one in decide(dumps[::-1], policy, now_s=now_s) if not one.kept_because}


def test_the_newest_of_each_host_stay() -> None:
    dumps = [make_dump(number, host="a" if number < 5 else "b") for number in range(8)]
    assert _gone(dumps, Policy(keep_per_host=2)) == {0, 1, 2, 5}


def test_age_never_takes_the_last_dump_of_a_host() -> None:
    dumps = [make_dump(number, added_s=NOW_S - (100 - number) * DAY_S, host="a") for number in range(3)]
    assert _gone(dumps, Policy(keep_days=7)) == {0, 1}
    kept = [one for one in decide(dumps[::-1], Policy(keep_days=7), now_s=NOW_S) if one.kept_because]
    assert [(one.dump, one.kept_because) for one in kept] == [(dumps[2], "it is the last one of its host")]


def test_the_budget_takes_the_oldest_first() -> None:
    dumps = [make_dump(number, host="a" if number % 2 else "b") for number in range(8)]
    assert _gone(dumps, Policy(budget_mib=5)) == {0, 1, 2}
    assert _gone(dumps, Policy(budget_mib=1)) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("changes", "policy", "because"),
    [
        ({"hold": "INC-1"}, {}, "it is held: INC-1"),
        ({"state": "untriaged"}, {}, "it is not triaged yet"),
        ({}, {"central": "hub:/srv"}, "no verified copy of it is in hub:/srv"),
        ({"central": "old:/srv"}, {"central": "hub:/srv"}, "no verified copy of it is in hub:/srv"),
    ],
)
def test_the_protected_stay(changes: dict[str, Any], policy: dict[str, Any], because: str) -> None:
    dumps = [make_dump(0, **changes), make_dump(1)]
    (decision,) = decide(dumps[::-1], Policy(keep_per_host=1, **policy), now_s=NOW_S)
    assert decision.kept_because == because


def test_dumps_of_no_known_host_are_not_counted_as_one_host_s() -> None:
    dumps = [make_dump(number, host="unknown") for number in range(5)]
    assert _gone(dumps, Policy(keep_per_host=1)) == set()


def test_a_crash_time_in_the_future_makes_no_dump_the_newest() -> None:
    dumps = [make_dump(0, crash_s=int(NOW_S + 400 * DAY_S)), make_dump(1, crash_s=int(NOW_S))]
    assert _gone(dumps, Policy(keep_per_host=1)) == {0}


def test_prune_removes_files_and_rows_and_lists_them_before(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = put(kept, make_dump(0)), put(kept, make_dump(1))
    told = prune(kept, Policy(keep_per_host=1), dry_run=True)
    assert [one.dump for one in told] == [old]
    assert kept.place_of(old).exists()
    assert main(["store", "prune", "--keep-per-host", "1", "--store", str(kept.directory), "--json", "-"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["decisions"]] == [old.id]
    assert not kept.place_of(old).exists()
    assert kept.index.dumps() == [new]


def test_a_hold_that_comes_in_between_is_seen(kept: Store) -> None:
    old, _ = put(kept, make_dump(0)), put(kept, make_dump(1))
    kept.hold(old.id, "INC-2")
    assert not kept.remove(old, why="", unless=lambda dump: bool(dump.hold))
    assert kept.place_of(old).exists()


def test_a_hold_that_comes_while_a_dump_is_triaged_stays(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    look = kept._examine

    def look_meanwhile(*arguments: Any) -> Any:
        kept.hold(dump.id, "INC-3")
        return look(*arguments)

    monkeypatch.setattr(kept, "_examine", look_meanwhile)
    assert kept.triage_again(dump).hold == "INC-3"
    assert kept.index.find(dump.id).hold == "INC-3"


def test_a_dump_that_goes_while_it_is_triaged_does_not_come_back(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dump, _ = admit(kept, LOGS / "6.1.0.kdump"), admit(kept, LOGS / "6.12.107.kdump")
    describe = kept._described

    def describe_meanwhile(*arguments: Any, **named: Any) -> Dump:
        fresh = describe(*arguments, **named)
        assert kept.remove(dump, why="old", unless=lambda _: False)
        return fresh

    monkeypatch.setattr(kept, "_described", describe_meanwhile)
    with pytest.raises(UsageError, match="the store has no dump"):
        kept.triage_again(dump)
    assert [one.host for one in kept.index.dumps()] == ["witness"]


def test_two_that_prune_at_once_leave_the_last_one(kept: Store) -> None:
    """Each of two processes decides while the host still has two dumps."""
    one, other = put(kept, make_dump(0)), put(kept, make_dump(1))
    assert kept.remove(one, why="", unless=lambda _: False)
    assert not kept.remove(other, why="", unless=lambda _: False)


def test_prune_without_a_limit_is_refused(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "prune", "--store", str(kept.directory)]) == 2
    assert "nothing limits the store: set a limit in " in capsys.readouterr().err


# ---------------------------------------------------------------- bundles


def _unpacked(path: Path, to: Path) -> Path:
    to.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", to], check=True)
    (top,) = to.iterdir()
    return top


def test_a_bundle_s_checksums_hold(kept: Store, tmp_path: Path) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    (tmp_path / "change.md").write_text("CHG-17: new kernel\n")
    request = Request(to=tmp_path / "b.tar", machine=SourceMachine(None), change=str(tmp_path / "change.md"))
    manifest = make_bundle(kept, dump, request)
    top = _unpacked(request.to, tmp_path / "out")
    assert request.to.stat().st_mode & 0o777 == 0o600
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=top, check=True)
    names = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}
    assert names == {one["name"] for one in manifest["files"]} | {"manifest.json", "SHA256SUMS"}
    assert {"vmcore", "kernel.log", "triage.json", "triage.txt", "change.txt", "host/uname.txt"} <= names
    assert hashlib.sha256((top / "vmcore").read_bytes()).hexdigest() == dump.sha256 == manifest["vmcore"]["sha256"]
    assert (top / "change.txt").read_text() == "CHG-17: new kernel\n"
    assert "sysrq_handle_crash" in (top / "triage.txt").read_text()
    assert json.loads((top / "manifest.json").read_text()) == manifest


def test_without_vmcore_the_bundle_names_path_and_checksum(kept: Store, tmp_path: Path) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    manifest = make_bundle(kept, dump, Request(to=tmp_path / "b.tar", with_vmcore=False))
    assert manifest["vmcore"] == {
        "file": None,
        "place": str(kept.place_of(dump) / "vmcore"),
        "size_bytes": dump.size_bytes,
        "sha256": dump.sha256,
    }
    assert {one["what"] for one in manifest["left_out"]} >= {"vmcore", "package versions", "uname -a"}


def test_a_redacted_bundle_has_no_secret_and_says_what_it_lacks(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    log = kept.place_of(dump) / "kernel.log"
    secret = "root=/dev/vda1 luks.key=5ecret"
    log.write_text(log.read_text() + f"[    8.0] Kernel command line: {secret}\n")
    request = Request(to=tmp_path / "b.tar", redacted=True, change="nfs://u:hunter2@h/x and API_TOKEN='abc def'")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))  # no makedumpfile
        manifest = make_bundle(kept, dump, request)
    top = _unpacked(request.to, tmp_path / "out")
    for path in top.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_text() for word in ("5ecret", "hunter2", "abc def")), path
    left_out = {one["what"]: one["why"] for one in manifest["left_out"]}
    assert "could not be filtered again: prlimit is not installed" in left_out["vmcore"]
    assert "kernel command lines in kernel.log" in left_out
    assert left_out["passwords and tokens in URLs in change.txt"] == "1 times"
    assert manifest["vmcore"]["file"] is None
    assert manifest["still_in"] == ["secrets in forms that no rule knows may be in any text"]
    assert manifest["looked_for"] == kinds()


def test_a_redacted_vmcore_is_filtered_again_and_looked_at(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    fake = tmp_path / "bin" / "makedumpfile"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\nfor to; do :; done\nfor from; do [ "$from" = "$to" ] || last=$from; done\ncp "$last" "$to"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    # The output of makedumpfile may contain as many user pages as its input.
    manifest = make_bundle(kept, dump, Request(to=tmp_path / "bad.tar", redacted=True))
    assert manifest["vmcore"]["file"] is None
    assert any("still has user pages, or its level is unknown" in one["why"] for one in manifest["left_out"])
    seen = iter((False, True))
    monkeypatch.setattr(filtering, "is_filtered", lambda _: next(seen))
    manifest = make_bundle(kept, dump, Request(to=tmp_path / "good.tar", redacted=True))
    assert manifest["vmcore"]["file"] == "vmcore"
    assert manifest["still_in"]


@pytest.mark.parametrize(
    ("inspection", "filtered"),
    [
        ({"level": 31, "classes": {"user": {"kept": 0, "total": 9}, "free": {"kept": 0, "total": 3}}}, True),
        ({"level": 31, "classes": {"user": {"kept": 1, "total": 9}}}, False),
        ({"level": 31, "classes": {"free": {"kept": 138390, "total": 138390}}}, False),
        ({"level": 1, "classes": {"user": {"kept": 0, "total": 0}}}, False),
        ({"level": 31, "classes": {}}, False),
    ],
)
def test_a_level_alone_is_not_believed(inspection: dict[str, Any], filtered: bool) -> None:
    assert filtering.is_filtered(inspection) is filtered


def test_a_bundle_overwrites_nothing_and_leaves_nothing(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    request = Request(to=tmp_path / "mine.tar")
    request.to.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        make_bundle(kept, dump, request)
    assert request.to.read_text() == "mine"
    request.to.unlink()
    (kept.place_of(dump) / "vmcore").write_bytes(b"changed")
    with pytest.raises(HostError, match="has changed since it was taken in"):
        make_bundle(kept, dump, request)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert list(kept.incoming.iterdir()) == []


def test_no_attached_file_is_lost(kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    files = [tmp_path / name / "notes.txt" for name in ("a", "b")]
    for path in files:
        path.parent.mkdir()
        path.write_text("text")
    with pytest.raises(UsageError, match=r"two attached files are called notes\.txt"):
        make_bundle(kept, dump, Request(to=tmp_path / "b.tar", attach=files))
    monkeypatch.setattr(bundle, "_MAX_TEXT_BYTES", 3)
    with pytest.raises(UsageError, match="is larger than 3 bytes"):
        make_bundle(kept, dump, Request(to=tmp_path / "b.tar", attach=files[:1]))


def test_a_bundle_that_is_made_is_not_swept(kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filtering a large dump may take longer than unfinished files are protected from removal."""
    dump = admit(kept, LOGS / "6.1.0.kdump")
    filtered = []

    def filter_slowly(path: Path, to: Path, _inspection: object) -> None:
        to.write_bytes(path.read_bytes())
        monkeypatch.setattr("kdump_harness.store.store._STARTING_S", -1.0)
        Store(kept.directory).close()  # any other action
        filtered.append(to.exists())

    monkeypatch.setattr(filtering, "is_filtered", lambda _: False)
    monkeypatch.setattr(filtering, "filter_again", filter_slowly)
    make_bundle(kept, dump, Request(to=tmp_path / "b.tar", redacted=True))
    assert filtered == [True]


def test_facts_that_the_machine_does_not_report_are_left_out(kept: Store, tmp_path: Path) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    manifest = make_bundle(kept, dump, Request(to=tmp_path / "b.tar", machine=SourceMachine(None), with_vmcore=False))
    why = {one["what"]: one["why"] for one in manifest["left_out"]}
    assert why["kdump's configuration (/etc/sysconfig/kdump)"] == "it is empty"
    assert manifest["schema"] == bundle.SCHEMA


# ---------------------------------------------------------------- two tiers


@pytest.fixture
def over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake ssh that runs the command on this host, as a remote shell would; returns the log of its arguments."""
    log = tmp_path / "ssh.log"
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >>{log}\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nexec sh -c "$*"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    return log


def _central(tmp_path: Path, text: str) -> Central:
    (tmp_path / "central dir").mkdir()
    return Central.parse(text.format(tmp_path / "central dir"))


@pytest.mark.parametrize("form", ["{}", "collector:{}"])
def test_a_push_is_verified_and_lets_the_local_dump_go(kept: Store, tmp_path: Path, over_ssh: Path, form: str) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    admit(kept, LOGS / "6.12.107.kdump")
    central = _central(tmp_path, form)
    policy = Policy(keep_per_host=1, central=central.name)
    (before,) = prune(kept, policy, dry_run=True)
    assert before.kept_because == f"no verified copy of it is in {central.name}"
    assert push.push(kept, dump, central)
    assert not push.push(kept, dump, central)  # it is there
    (copy,) = (tmp_path / "central dir").iterdir()
    assert copy.name == f"witness-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime(dump.added_s))}-{dump.id}"
    assert (copy / "vmcore").read_bytes() == (LOGS / "6.1.0.kdump").read_bytes()
    assert (copy / "vmcore").stat().st_mode & 0o777 == 0o600
    assert [(one.dump.id, one.kept_because) for one in prune(kept, policy, dry_run=False)] == [(dump.id, "")]
    assert over_ssh.exists() is form.startswith("collector:")


def test_the_central_store_takes_a_pushed_dump_for_the_same_host_s(kept: Store, tmp_path: Path) -> None:
    """A dump has the name of an unfinished one while it is copied, until it is verified."""
    dump = admit(kept, LOGS / "6.1.0.kdump")
    central = _central(tmp_path, "{}")
    with Store(tmp_path / "hub", create=True) as hub:
        object.__setattr__(hub.policy, "settle_s", 0.0)
        watcher = Watcher(hub, tmp_path / "central dir", remove=True)
        part = tmp_path / "central dir" / push._directory_name(dump) / "vmcore-incomplete"
        part.parent.mkdir()
        part.write_bytes((LOGS / "6.1.0.kdump").read_bytes())
        assert [one.outcome for one in watcher.look()] == ["waiting"]
        push.push(kept, dump, central)
        (outcome,) = watcher.look()
        assert outcome.outcome == "stored"
        assert outcome.dump is not None
        assert (outcome.dump.id, outcome.dump.host) == (dump.id, "witness")
        assert list((tmp_path / "central dir").rglob("vmcore")) == []


def test_a_push_resumes_where_it_was_interrupted(kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    central = _central(tmp_path, "{}")
    to = tmp_path / "central dir" / push._directory_name(dump)
    to.mkdir()
    whole = (LOGS / "6.1.0.kdump").read_bytes()
    part = to / "vmcore-incomplete"
    part.write_bytes(whole[:50_000])
    inode = part.stat().st_ino
    assert push.push(kept, dump, central)
    assert (to / "vmcore").stat().st_ino == inode
    assert (to / "vmcore").read_bytes() == whole


@pytest.mark.parametrize("remains", [b"something else", b"x" * 200_000])
def test_remains_that_do_not_fit_are_replaced(kept: Store, tmp_path: Path, remains: bytes) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    central = _central(tmp_path, "{}")
    to = tmp_path / "central dir" / push._directory_name(dump)
    to.mkdir()
    (to / "vmcore-incomplete").write_bytes(remains)
    assert push.push(kept, dump, central)
    assert (to / "vmcore").read_bytes() == (LOGS / "6.1.0.kdump").read_bytes()


def test_a_copy_that_comes_out_wrong_is_not_believed(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    central = _central(tmp_path, "{}")
    monkeypatch.setattr(push, "_sum", lambda _central, path: "0" * 64 if path.endswith("-incomplete") else "")
    assert main(["store", "push", "--to", central.name, "--store", str(kept.directory)]) == 3
    assert "has the checksum 000" in capsys.readouterr().out
    assert kept.index.find(dump.id).central is None
    assert [path.name for path in (tmp_path / "central dir").rglob("*")] == [push._directory_name(dump)]


def test_the_name_of_a_directory_is_not_run_as_a_command(tmp_path: Path, kept: Store) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    name = f"{tmp_path}/none; touch {tmp_path}/made; :"
    with pytest.raises(HostError, match="no such directory"):
        push.push(kept, dump, Central.parse(name))
    assert not (tmp_path / "made").exists()


def test_a_second_push_does_not_write_into_the_first_one_s_copies(kept: Store, tmp_path: Path) -> None:
    arguments = ["store", "push", "--to", str(tmp_path), "--store", str(kept.directory)]
    with push.alone(kept):
        assert main(arguments) == 3
    assert main(arguments) == 0


def test_the_central_place_of_the_policy_may_be_written_with_a_slash(kept: Store, tmp_path: Path) -> None:
    dump, _ = admit(kept, LOGS / "6.1.0.kdump"), admit(kept, LOGS / "6.12.107.kdump")
    push.push(kept, dump, _central(tmp_path, "{}/"))
    policy = Policy(keep_per_host=1, central=str(tmp_path / "central dir") + "/")
    assert [one.kept_because for one in prune(kept, policy, dry_run=True)] == [""]


def test_a_place_that_is_not_mounted_is_not_written_to(kept: Store, tmp_path: Path) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    with pytest.raises(HostError, match="no such directory"):
        push.push(kept, dump, Central.parse(str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", ["-oProxyCommand=x:/srv", "host:relative", ":/srv"])
def test_a_central_place_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Central.parse(text)


# ---------------------------------------------------------------- many


def test_two_thousand_dumps_are_looked_through_at_once(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with kept.index.database.writing():
        for number in range(2000):
            dump = make_dump(number, host=f"h{number % 300}", signature=f"{number % 40:010}")
            traits = {"firmware": str(number % 7), "hardware": "X1", **{f"driver d{n}": str(n) for n in range(8)}}
            kept.index.put(dump, traits)
            kept.place_of(dump).mkdir()
    for action in (["list"], ["patterns"], ["prune", "--dry-run", "--keep-per-host", "3"]):
        started_s = time.process_time()
        assert main(["store", *action, "--store", str(kept.directory)]) == 0
        assert time.process_time() - started_s < 3.0, action  # about 0.1 s on an idle machine
    assert "2000 of 2000 dumps" in capsys.readouterr().out
