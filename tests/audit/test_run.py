"""Audits of several hosts side by side, with programs in place of ssh."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from audit_factory import SOUND
from history_factory import drill
from kdump_harness.audit import run
from kdump_harness.audit.asking.inventory import Host
from kdump_harness.audit.asking.questions import _initramfs
from kdump_harness.audit.changes import with_changes
from kdump_harness.audit.past import last_audits, read_past, remember
from kdump_harness.audit.result import Answer, HostAudit, Success
from kdump_harness.audit.run import Options, audit
from kdump_harness.base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_OK, UsageError
from kdump_harness.distro.family import fill, find_family, load_families
from kdump_harness.history.database import History
from kdump_harness.store.index import TRIAGED, UNTRIAGED, Dump
from kdump_harness.store.store import Store


class Replay:
    """A connection that gives recorded answers, by the name of the host."""

    hosts: ClassVar[dict[str, dict[str, str]]] = {}
    open_now = most = opened = 0
    lock = threading.Lock()
    meet = threading.Barrier(1)

    def __init__(self, host: Host, **_: object) -> None:
        self._answers = self.hosts[host.name]

    def __enter__(self) -> Replay:
        with self.lock:
            Replay.open_now += 1
            Replay.opened += 1
            Replay.most = max(Replay.most, Replay.open_now)
        self.meet.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            Replay.open_now -= 1

    def ask(self, commands: dict[str, str]) -> dict[str, str]:
        return {name: self._answers.get(name, "") for name in commands}


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> type[Replay]:
    """Replace the connections by recorded answers."""
    monkeypatch.setattr(run, "Connection", Replay)
    Replay.open_now = Replay.most = Replay.opened = 0
    Replay.meet = threading.Barrier(1)
    Replay.hosts = {}
    return Replay


def test_hosts_are_asked_side_by_side_over_one_connection_each(replay: type[Replay]) -> None:
    hosts = [Host(name=f"h{number}") for number in range(8)]
    replay.hosts = {host.name: SOUND for host in hosts}
    replay.meet = threading.Barrier(4)  # no host gets further before four are connected
    seen: list[HostAudit] = []
    result = audit(hosts, Options(side_by_side=4), on_host=seen.append)
    assert (replay.most, replay.opened) == (4, 8)
    assert [host.host for host in result.hosts] == [host.name for host in hosts]
    assert {host.host for host in seen} == set(replay.hosts)
    assert result.ok
    assert result.exit_status == EXIT_OK


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({}, "it is not a Linux host with a POSIX shell: uname -s printed 'nothing'"),
        ({**SOUND, "system": "FreeBSD"}, "it is not a Linux host with a POSIX shell: uname -s printed 'FreeBSD'"),
        ({**SOUND, "os_release": "ID=alpine"}, "alpine is not of a known family (known: debian, redhat, suse)"),
        ({**SOUND, "clock_s": "late"}, "its answers are not those of a Linux host: could not convert"),
        ({**SOUND, "crash_size_bytes": "9" * 5000}, "its answers are not those of a Linux host: Exceeds the limit"),
    ],
)
def test_a_host_that_is_not_understood_says_so(replay: type[Replay], answers: dict[str, str], why: str) -> None:
    replay.hosts = {"odd": answers, "good": SOUND}
    result = audit([Host(name="odd"), Host(name="good"), Host(name="x", slip="line 3: a slip")], Options())
    assert [host.answer for host in result.hosts] == [Answer.NOT_AUDITED, Answer.READY, Answer.NOT_AUDITED]
    assert result.hosts[0].why.startswith(why)
    assert result.hosts[2].why == "line 3: a slip"
    assert result.exit_status == EXIT_BROKEN


def test_a_host_that_fails_decides_the_exit_status(replay: type[Replay]) -> None:
    replay.hosts = {"bad": {**SOUND, "loaded": "0", "says": ""}, "odd": {}}
    result = audit([Host(name="bad"), Host(name="odd")], Options())
    assert result.hosts[0].answer is Answer.WILL_FAIL
    assert result.hosts[0].headline.startswith("capture-kernel-unloaded: kexec_crash_loaded is 0")
    assert result.exit_status == EXIT_FAILED
    assert result.to_json()["hosts"][0]["reasons"][0]["severity"] == "failure"


@pytest.mark.parametrize(("machine", "crashkernel"), [("ppc64le", "512M"), ("aarch64", "320M"), ("none\nsuch", "256M")])
def test_the_remedies_are_those_of_the_machine(replay: type[Replay], machine: str, crashkernel: str) -> None:
    replay.hosts = {"web1": {**SOUND, "machine": machine, "entries": "linux /boot/vmlinuz-6.1 root=/dev/vda1"}}
    (host,) = audit([Host(name="web1")], Options()).hosts
    (remedy,) = (reason.remedy for reason in host.reasons if reason.name == "next-boot-without-reservation")
    assert f"crashkernel={crashkernel}'" in remedy or f"crashkernel={crashkernel}\"'" in remedy


def test_an_interrupt_ends_the_audit_and_its_threads(replay: type[Replay]) -> None:
    replay.hosts = {f"h{number}": SOUND for number in range(3)}

    def interrupt(_host: HostAudit) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit([Host(name=name) for name in replay.hosts], Options(side_by_side=1), on_host=interrupt)
    assert replay.open_now == 0


def test_the_last_verified_drill_is_found_by_machine_id(replay: type[Replay], tmp_path: Path) -> None:
    path, machine = tmp_path / "history.sqlite", SOUND["machine_id"]
    with History(path) as history:
        first = history.add("drill", drill(1, machine_id=machine))
        history.add("drill", drill(2, machine_id=machine, verified=False, reached="CRASHED"))
        history.add("drill", drill(3, machine_id="f" * 32))
        history.add("drill", drill(4))
    assert first is not None
    past = read_past(str(path), None, None)
    assert past.success(machine, "web1") == Success(at_s=first.at_s, seen="verified drill")
    assert read_past(None, tmp_path / "nowhere", None).success(machine, "web1") is None
    assert read_past("none", None, None).success(machine, "web1") is None
    with pytest.raises(UsageError, match="is not a database"):
        read_past(__file__, None, None)
    replay.hosts = {"web1": SOUND}
    (host,) = audit([Host(name="web1")], Options(), past=past).hosts
    assert host.facts["last_success_s"] == first.at_s


def test_the_last_dump_in_the_store_is_found_by_host_name(tmp_path: Path) -> None:
    with Store(tmp_path / "store", create=True) as store:
        for number, (state, crash_s) in enumerate([(TRIAGED, 900), (UNTRIAGED, 800), ("damaged", 1000)]):
            store.index.put(dump(number, state=state, crash_s=crash_s), {})
    past = read_past("none", None, tmp_path / "store")
    assert past.success("f" * 32, "web1") == Success(at_s=900.0, seen="dump in the store")
    with pytest.raises(UsageError, match="store"):
        read_past("none", None, tmp_path / "missing")


def dump(number: int, **changes: Any) -> Dump:
    """Return a dump of the store."""
    name = f"{number:064x}"
    facts = {"size_bytes": 1, "disk_bytes": 1, "added_s": 2000.0, "origin": "o", "sender": "s", "host": "web1"}
    return Dump(**{"id": name, "sha256": name, **facts, **changes})


def test_audits_are_recorded_and_their_changes_and_firmware_are_found(replay: type[Replay], tmp_path: Path) -> None:
    path, said = tmp_path / "history.sqlite", []
    replay.hosts = {"web1": SOUND}
    first = audit([Host(name="web1")], Options())
    remember(path, first, log=said.append)
    remember(None, first, log=said.append)
    machine, before = SOUND["machine_id"], last_audits(str(path), None)
    assert before["web1"]["answer"] == Answer.READY
    replay.hosts = {"web1": {**SOUND, "firmware": "1.17\n02/02/2026", "notifiers": "Y"}}
    (now,) = audit([Host(name="web1")], Options()).hosts
    assert with_changes(now, before["web1"]).changes == (
        "ready became at risk",
        "new: notifiers-before-dump",
        "firmware: 1.16.2 04/01/2014 became 1.17 02/02/2026",
    )
    with History(path) as history:
        history.add("drill", {**drill(1, machine_id=machine), "started": "2090-01-01T00:00:00+00:00"})
    success = read_past(str(path), None, None).success(machine, "web1")
    assert success is not None
    assert success.firmware == "1.16.2 04/01/2014"
    assert not said
    remember(tmp_path, first, log=said.append)
    assert said[0].startswith("this audit was not recorded: ")


@pytest.mark.parametrize("name", load_families())
def test_the_capture_initramfs_of_each_family_is_found(name: str, tmp_path: Path) -> None:
    """On RHEL the release is followed by a word, which the shell took for a part of the variable's name."""
    family = find_family(name)
    commands = dataclasses.replace(family.commands, kernels="echo 6.1.0-57-amd64")
    for place in family.capture_initramfs:
        here = dataclasses.replace(family, commands=commands, capture_initramfs=(f"{tmp_path}{place}",))
        path = Path(fill(f"{tmp_path}{place}", kernel="6.1.0-57-amd64"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"070701")
        seen = subprocess.run(["sh", "-c", _initramfs(here)], capture_output=True, text=True, check=True).stdout
        assert seen.split()[0] == "6.1.0-57-amd64"
        assert seen.split()[-1] == str(path)
