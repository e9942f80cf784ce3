"""Intake of untrusted dumps: finished and whole files are stored, others refused; no other file is touched."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import HostError, TableError, UsageError
from kdump_harness.store import store, watching
from kdump_harness.store.intake import copying
from kdump_harness.store.intake.arrivals import place_of, shown
from kdump_harness.store.intake.copying import NoRoom
from kdump_harness.store.intake.examine import Examination, examine
from kdump_harness.store.store import KNOWN, REFUSED, STORED, WAITING, IntakeOutcome, Store, host_of
from kdump_harness.store.watching import Watcher
from kdump_harness.vmcore.inspection import UNJUDGED
from store_factory import LOGS, examine_here, examine_once, make_dump, put
from vmcore_factory import Kdump, flat_stream, flatten

DATA = LOGS.parent
WHOLE = DATA / "zlib.kdump"


@pytest.fixture(autouse=True)
def one_look_at_each_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of this file share the examinations of small dumps, which this process makes."""
    monkeypatch.setattr("kdump_harness.store.store.examine", examine_once)


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """The directory that senders write to."""
    path = tmp_path / "incoming"
    path.mkdir()
    return path


def _patient(directory: Path, **policy: float) -> Store:
    directory.mkdir(mode=0o700, exist_ok=True)
    settings = {"settle_s": 0.0, "free_mib": 0, **policy}
    (directory / "store.toml").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    return Store(directory, create=True)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store that does not wait for files to settle."""
    with _patient(tmp_path / "store") as made:
        yield made


def _look(kept: Store, top: Path) -> dict[str, IntakeOutcome]:
    return {Path(outcome.path).name: outcome for outcome in Watcher(kept, top).look()}


def _add(kept: Store, path: Path) -> IntakeOutcome:
    with place_of(path) as (place, name):
        return kept.admit(place, name)


# ---------------------------------------------------------------- what is taken in


def test_a_dump_is_triaged_and_private_when_it_is_in(kept: Store, incoming: Path) -> None:
    sent = incoming / "10.1.2.3-2026-11-22-10:11:12"
    sent.mkdir()
    shutil.copyfile(LOGS / "6.1.0.kdump", sent / "vmcore")
    (sent / "vmcore-dmesg.txt").write_text("[    0.0] Linux\n")
    outcome = _look(kept, incoming)["vmcore"]
    dump = outcome.dump
    assert outcome.outcome == STORED
    assert dump is not None
    assert (dump.host, dump.kernel, dump.state) == ("witness", "6.1.0-50-cloud-amd64", "triaged")
    assert dump.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert dump.signature_text == "sysrq_handle_crash < __handle_sysrq < write_sysrq_trigger < proc_reg_write"
    assert dump.uptime_s == pytest.approx(7.9, abs=0.1)
    assert kept.index.traits_of(dump.id)["firmware"] == "1.16.2-debian-1.16.2-1"
    place = kept.place_of(dump)
    assert (place / "vmcore").read_bytes() == (LOGS / "6.1.0.kdump").read_bytes()
    assert (place / "sender" / "vmcore-dmesg.txt").read_text() == "[    0.0] Linux\n"
    for path in kept.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path.name == "store.toml" or mode == (0o700 if path.is_dir() else 0o600), path


def test_the_process_finds_what_other_tests_find_without_it(tmp_path: Path) -> None:
    """The dump is damaged, so that each kind of fact is there."""
    path = tmp_path / "vmcore"
    path.write_bytes((LOGS / "6.1.0.kdump").read_bytes()[:-4096])
    logs = tmp_path / "log", tmp_path / "log-here"
    found, found_here = examine(path, log_to=logs[0]), examine_here(path, log_to=logs[1])
    assert found == found_here
    assert found.inspection is not None
    assert found.inspection["damage"] != []
    assert found.signature is not None
    assert logs[0].read_bytes() == logs[1].read_bytes() != b""


def test_the_same_crash_has_one_signature_in_every_kernel(kept: Store) -> None:
    dumps = [_add(kept, path).dump for path in sorted(LOGS.glob("*.kdump"))]
    assert len(dumps) == 4
    assert len({dump.signature for dump in dumps if dump}) == 1


@pytest.mark.parametrize("name", ["dump.202611221011", "vmcore", "vmcore.flat", "backup of monday (2).bin"])
def test_the_senders_names_do_not_matter(kept: Store, incoming: Path, name: str) -> None:
    shutil.copyfile(WHOLE, incoming / name)
    assert _look(kept, incoming)[name].outcome == STORED


def test_a_flattened_dump_is_rearranged(kept: Store) -> None:
    dump = _add(kept, DATA / "lzo.flat").dump
    assert dump is not None
    assert (kept.place_of(dump) / "vmcore").read_bytes() == (DATA / "lzo.kdump").read_bytes()


def test_the_same_bytes_are_kept_once(kept: Store, tmp_path: Path) -> None:
    first, again = _add(kept, DATA / "lzo.kdump"), _add(kept, DATA / "lzo.flat")
    assert (first.outcome, again.outcome) == (STORED, KNOWN)
    assert again.dump == first.dump


def test_a_dump_whose_file_was_lost_is_taken_again(kept: Store, incoming: Path) -> None:
    """Otherwise --remove would remove the last copy."""
    dump = _add(kept, WHOLE).dump
    assert dump is not None
    kept.hold(dump.id, "INC-4")
    (kept.place_of(dump) / "vmcore").unlink()
    shutil.copyfile(WHOLE, incoming / "vmcore")
    (outcome,) = Watcher(kept, incoming, remove=True).look()
    assert (outcome.outcome, outcome.reason) == (STORED, "its file was lost, and is there again")
    assert (kept.place_of(dump) / "vmcore").read_bytes() == WHOLE.read_bytes()
    assert kept.index.find(dump.id).hold == "INC-4"


def test_two_at_once_bring_one_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(tmp_path / "store").close()
    both_examined = threading.Barrier(2, timeout=60)

    def examine_both(dump: Path, **more: Any) -> Examination:
        found = examine_once(dump, **more)
        both_examined.wait()
        return found

    def add(_: int) -> str:
        with Store(tmp_path / "store") as own:
            return _add(own, WHOLE).outcome

    monkeypatch.setattr("kdump_harness.store.store.examine", examine_both)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(add, range(2))) == [KNOWN, STORED]
    with Store(tmp_path / "store") as kept:
        assert len(kept.index.dumps()) == len(list(kept.dumps.iterdir())) == 1
        assert list(kept.incoming.iterdir()) == []


def test_a_damaged_dump_is_refused_unless_it_is_wanted(
    kept: Store, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = incoming / "vmcore"
    cut.write_bytes(WHOLE.read_bytes()[:-4096])
    outcome = _look(kept, incoming)["vmcore"]
    assert outcome.outcome == REFUSED
    assert outcome.reason.startswith("damaged: descriptor: the page has its data outside the file")
    assert kept.index.refused()[0]["path"] == str(cut)
    assert _look(kept, incoming) == {}  # reported only once
    assert main(["store", "add", "--store", str(kept.directory), str(cut)]) == 1
    assert main(["store", "add", "--store", str(kept.directory), str(cut), "--damaged"]) == 0
    assert [dump.state for dump in kept.index.dumps()] == ["damaged"]


def test_a_dump_that_cannot_be_judged_is_set_aside_and_not_called_damaged(
    kept: Store, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (incoming / "dump.202611221011.lz4").write_bytes(b"\x04\x22\x4d\x18" + bytes(99))
    (incoming / "guest").write_bytes(b"LibvirtQemudSave" + bytes(99))
    found = _look(kept, incoming)
    assert {name: (one.outcome, one.reason) for name, one in found.items()} == {
        "dump.202611221011.lz4": (UNJUDGED, "the file is lz4-compressed (unpack it with lz4 -d first)"),
        "guest": (UNJUDGED, "the file is the saved state of a guest (take a dump with virsh dump --memory-only)"),
    }
    assert _look(kept, incoming) == {}
    path, store_arguments = str(incoming / "dump.202611221011.lz4"), ["--store", str(kept.directory)]
    assert main(["store", "add", path, *store_arguments]) == 5
    assert capsys.readouterr().out.startswith(f"not judged {path}: the file is lz4-compressed")
    assert main(["store", "list", "--refused", *store_arguments]) == 0
    assert capsys.readouterr().out.count(" not judged ") == 2
    assert main(["store", "add", path, "--damaged", *store_arguments]) == 0
    assert [(dump.state, dump.remark) for dump in kept.index.dumps()] == [
        ("not judged", "not judged: the file is lz4-compressed (unpack it with lz4 -d first)")
    ]


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_a_compressed_dump_is_stored_as_the_dump_that_it_is(kept: Store, incoming: Path, suffix: str) -> None:
    """Debian's KDUMP_COMPRESSION compresses the whole flattened stream."""
    pack = {"gz": gzip.compress, "xz": lzma.compress}[suffix]
    path = incoming / f"dump.202611221011.{suffix}"
    path.write_bytes(pack((DATA / "lzo.flat").read_bytes()))
    (incoming / "dmesg.202611221011").write_text("log")
    dump = _look(kept, incoming)[path.name].dump
    assert dump is not None
    place = kept.place_of(dump)
    assert (place / "vmcore").read_bytes() == (DATA / "lzo.kdump").read_bytes()
    assert sorted(found.name for found in place.iterdir()) == [
        "inspection.json", "kernel.log", "record.json", "sender", "triage.json", "vmcore",
    ]  # fmt: skip
    assert [found.name for found in (place / "sender").iterdir()] == ["dmesg.202611221011"]
    assert _add(kept, DATA / "lzo.kdump").outcome == KNOWN
    path.write_bytes(path.read_bytes()[:-99])
    outcome = _look(kept, incoming)[path.name]
    assert outcome.outcome == REFUSED
    assert outcome.reason.startswith("damaged: truncated: the ")


def test_a_compressed_dump_waits_for_the_room_that_it_needs(
    kept: Store, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = incoming / "dump.202611221011.gz"
    path.write_bytes(gzip.compress(WHOLE.read_bytes() + bytes(2 << 20)))
    object.__setattr__(kept.policy, "budget_mib", 1)
    assert _look(kept, incoming)[path.name].outcome == WAITING
    assert list(kept.incoming.iterdir()) == []
    object.__setattr__(kept.policy, "budget_mib", 3)
    assert _look(kept, incoming)[path.name].outcome == STORED


def test_an_unfinished_compressed_dump_waits(kept: Store, incoming: Path) -> None:
    (incoming / "dump-incomplete.gz").write_bytes(gzip.compress(WHOLE.read_bytes()))
    assert _look(kept, incoming)["dump-incomplete.gz"].reason == "its name is that of an unfinished dump"


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", UNJUDGED, "its examination ended with status -9"),
        ("import time; time.sleep(99)", UNJUDGED, "its examination took more than 1 s"),
        ("raise SystemExit('no such module')", WAITING, "could not be examined: its examination ended with status 1"),
    ],
)
def test_a_dump_that_ends_its_examination_is_not_tried_again(
    kept: Store, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, outcome: str, reason: str
) -> None:
    """But where the examination cannot even begin, the next look may be luckier."""
    began = "" if outcome == WAITING else 'print(\'{"fact": "started", "value": true}\', flush=True); '
    (tmp_path / "worker").write_text(f"{began}{body}\n")
    popen = subprocess.Popen
    monkeypatch.setattr(
        "kdump_harness.store.intake.examine.subprocess.Popen",
        lambda _command, **more: popen([sys.executable, str(tmp_path / "worker")], **more),
    )
    monkeypatch.setattr("kdump_harness.store.intake.examine._LIMIT_S", 1 if "sleep" in body else 60)
    monkeypatch.setattr("kdump_harness.store.store.examine", examine)
    shutil.copyfile(WHOLE, incoming / "vmcore")
    found = _look(kept, incoming)["vmcore"]
    assert found.outcome == outcome
    assert reason in found.reason
    assert bool(_look(kept, incoming)) == (outcome == WAITING)
    assert list(kept.incoming.iterdir()) == []


def test_a_dump_cut_short_is_not_rearranged(kept: Store, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(flatten(Kdump().build())[:-30])
    assert "end-marker" in _add(kept, path).reason


# ---------------------------------------------------------------- when a sender is done


def test_a_growing_dump_waits(kept: Store, incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(watching, "now_s", lambda: clock[0])
    object.__setattr__(kept.policy, "settle_s", 30.0)
    path, watcher = incoming / "vmcore", Watcher(kept, incoming)
    whole = WHOLE.read_bytes()
    said = []
    for look in range(10):  # for ever, as far as it goes
        path.write_bytes(whole[: 1000 + look])
        said += list(watcher.look())
        clock[0] += 40.0
    assert [one.outcome for one in said] == [WAITING]
    path.write_bytes(whole)
    os.utime(path, (0, 0))  # the file's own times are the sender's word
    assert list(watcher.look()) == []
    clock[0] += 29.0
    assert list(watcher.look()) == []
    clock[0] += 1.0
    assert [one.outcome for one in watcher.look()] == [STORED]


@pytest.mark.parametrize(
    ("name", "readme", "sign"),
    [
        ("vmcore-incomplete", None, "its name is that of an unfinished dump"),
        ("dump-incomplete", None, "its name is that of an unfinished dump"),
        ("vmcore", "This crash dump is likely incomplete\n", "README.txt: crash dump is likely incomplete"),
        ("vmcore", "vmcore status: error while saving\n", "README.txt: vmcore status: error while saving"),
        ("vmcore", "", "README.txt is empty"),
    ],
)
def test_a_family_s_own_signs_are_waited_for(
    kept: Store, incoming: Path, name: str, readme: str | None, sign: str
) -> None:
    shutil.copyfile(WHOLE, incoming / name)
    if readme is not None:
        (incoming / "README.txt").write_text(readme)
    outcome = _look(kept, incoming)[name]
    assert (outcome.outcome, outcome.reason) == (WAITING, sign)
    object.__setattr__(kept.policy, "abandoned_s", 0.0)
    outcome = _look(kept, incoming)[name]
    assert outcome.outcome == STORED
    assert outcome.reason == f"taken although {sign}"


def test_suse_s_finished_dump_is_taken_at_once(kept: Store, incoming: Path) -> None:
    shutil.copyfile(WHOLE, incoming / "vmcore")
    (incoming / "README.txt").write_text("Kernel crash dump\nvmcore status: saved successfully\n")
    assert _look(kept, incoming)["vmcore"].outcome == STORED


def test_a_file_that_changes_while_it_is_copied_waits(
    kept: Store, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = incoming / "vmcore"
    shutil.copyfile(WHOLE, path)
    write = copying._write

    def write_and_grow(out: int, chunk: bytes, at: int) -> None:
        write(out, chunk, at)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(copying, "_write", write_and_grow)
    outcome = _look(kept, incoming)["vmcore"]
    assert outcome.outcome == WAITING
    assert outcome.reason == "it changed while it was read: its sender still writes to it"
    assert list(kept.incoming.iterdir()) == []


def test_add_does_not_take_what_was_just_written(
    tmp_path: Path, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _patient(tmp_path / "store", settle_s=3600.0).close()
    shutil.copyfile(WHOLE, incoming / "vmcore")
    assert main(["store", "add", "--store", str(tmp_path / "store"), str(incoming)]) == 0
    assert "waiting" in capsys.readouterr().out


# ---------------------------------------------------------------- hostile arrivals


def test_links_and_special_files_are_refused(kept: Store, incoming: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    shutil.copyfile(WHOLE, secret)
    (incoming / "vmcore").symlink_to(secret)
    os.mkfifo(incoming / "dump.1")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(incoming / "vmcore.flat"))
    bound.close()
    found = _look(kept, incoming)
    assert {name: one.outcome for name, one in found.items()} == dict.fromkeys(found, REFUSED)
    assert {name: one.reason for name, one in found.items()} == {
        "vmcore": "not a regular file but a symbolic link",
        "dump.1": "not a regular file but a FIFO",
        "vmcore.flat": "not a regular file but a socket",
    }
    assert list(kept.dumps.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_opened(kept: Store, incoming: Path) -> None:
    os.mknod(incoming / "vmcore", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert _look(kept, incoming)["vmcore"].reason == "not a regular file but a device"


def test_linked_directories_are_not_entered(kept: Store, incoming: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(WHOLE, elsewhere / "vmcore")
    (incoming / "host").symlink_to(elsewhere)
    (incoming / "loop").symlink_to(incoming)
    assert _look(kept, incoming) == {}


def test_a_tree_without_a_bottom_ends(kept: Store, incoming: Path) -> None:
    descriptor = os.open(incoming, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    shutil.copyfile(WHOLE, incoming / "vmcore")
    try:
        assert _look(kept, incoming)["vmcore"].outcome == STORED
    finally:
        subprocess.run(["rm", "-rf", str(incoming / "d")], check=True)  # too deep for Python's own way


@pytest.mark.parametrize("size_bytes", [1 << 30, 1 << 42])
def test_a_bomb_of_zeros_is_refused(kept: Store, incoming: Path, size_bytes: int) -> None:
    path = incoming / "vmcore"
    path.touch()
    os.truncate(path, size_bytes)
    assert _look(kept, incoming)["vmcore"].outcome == REFUSED


def test_a_sound_dump_blown_up_with_a_hole_is_refused(kept: Store, incoming: Path) -> None:
    path = incoming / "vmcore"
    shutil.copyfile(WHOLE, path)
    os.truncate(path, 1 << 39)
    reason = _look(kept, incoming)["vmcore"].reason
    assert reason.startswith("of its 549,755,813,888 bytes only 1")
    assert reason.endswith(" are there: the rest is a hole")


def test_zeros_that_are_really_there_take_no_room(kept: Store, incoming: Path) -> None:
    path = incoming / "vmcore"
    shutil.copyfile(WHOLE, path)
    with path.open("ab") as file:
        file.write(bytes(6 << 20))
    dump = _look(kept, incoming)["vmcore"].dump
    assert dump is not None
    assert dump.size_bytes > 6 << 20
    assert dump.disk_bytes < 3 << 20


def test_a_flattened_stream_of_holes_is_refused(kept: Store, tmp_path: Path) -> None:
    whole = Kdump().build()
    path = tmp_path / "vmcore"
    path.write_bytes(flat_stream([(0, whole), (1 << 45, b"far away")]))
    outcome = _add(kept, path)
    assert outcome.outcome == REFUSED
    assert list(kept.incoming.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../../etc", "a/b", "x" * 64])
def test_a_host_that_is_called_like_a_path_is_only_a_text(kept: Store, tmp_path: Path, name: str) -> None:
    data = bytearray(Kdump().build())
    at = data.index(b"testhost")
    data[at : at + 64] = name.encode().ljust(64, b"\0")
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    before = {found for found in tmp_path.rglob("*") if kept.directory not in (found, *found.parents)}
    dump = _add(kept, path).dump
    assert dump is not None
    assert dump.host == name
    assert kept.place_of(dump).parent == kept.dumps
    after = {found for found in tmp_path.rglob("*") if kept.directory not in (found, *found.parents)}
    assert before == after


def test_names_of_any_bytes_are_taken_and_shown(kept: Store, incoming: Path) -> None:
    name = b"vmcore\xff\x1b[31m\n"
    shutil.copyfile(WHOLE, os.path.join(os.fsencode(incoming), name))
    (outcome,) = Watcher(kept, incoming).look()
    assert outcome.outcome == STORED
    assert outcome.path.endswith("vmcore\\xff\\x1b[31m\\n")
    assert outcome.path.isprintable()
    assert "\x1b" not in json.dumps(outcome.to_json())


def test_an_unreadable_text_in_the_header_is_damage(kept: Store, tmp_path: Path) -> None:
    data = bytearray(Kdump().build())
    at = data.index(b"testhost")
    data[at : at + 4] = b"\x1b[2J"
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    assert "utsname.nodename is not a text" in _add(kept, path).reason


def test_other_dumps_logs_do_not_come_along(kept: Store, incoming: Path) -> None:
    """Debian may save many dumps in one directory."""
    shutil.copyfile(WHOLE, incoming / "dump.202611221011")
    for stamp in ("202611221011", "202611221012", "1"):
        (incoming / f"dmesg.{stamp}").write_text(stamp)
    dump = _look(kept, incoming)["dump.202611221011"].dump
    assert dump is not None
    assert [path.name for path in (kept.place_of(dump) / "sender").iterdir()] == ["dmesg.202611221011"]


def test_a_huge_file_next_to_a_dump_is_ignored(kept: Store, incoming: Path) -> None:
    shutil.copyfile(WHOLE, incoming / "vmcore")
    (incoming / "vmcore-dmesg.txt").write_bytes(os.urandom(17 << 20))
    (incoming / "dmesg.202611221011").symlink_to("/etc/passwd")
    dump = _look(kept, incoming)["vmcore"].dump
    assert dump is not None
    assert not (kept.place_of(dump) / "sender").exists() or not list((kept.place_of(dump) / "sender").iterdir())


def test_a_file_exchanged_for_a_link_is_not_followed(kept: Store, incoming: Path, tmp_path: Path) -> None:
    """While an attacker swaps a file for a link and back, only the file itself is ever stored."""
    secret, path = tmp_path / "secret", incoming / "vmcore"
    shutil.copyfile(DATA / "lzo.kdump", secret)
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            fresh = incoming / "fresh"
            fresh.symlink_to(secret)
            fresh.replace(path)
            shutil.copyfile(WHOLE, fresh)
            fresh.replace(path)

    shutil.copyfile(WHOLE, path)
    thief = threading.Thread(target=exchange)
    thief.start()
    try:
        for _ in range(8):
            with place_of(path) as (place, name):
                kept.admit(place, name)
    finally:
        stop.set()
        thief.join()
    assert {(kept.place_of(dump) / "vmcore").read_bytes() for dump in kept.index.dumps()} <= {WHOLE.read_bytes()}


# ---------------------------------------------------------------- room, owners, remains


def test_a_full_disk_refuses_and_keeps_what_is_there(
    kept: Store, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _add(kept, WHOLE).dump
    object.__setattr__(kept.policy, "free_mib", 1 << 40)
    shutil.copyfile(DATA / "lzo.kdump", incoming / "vmcore")
    outcome = _look(kept, incoming)["vmcore"]
    assert outcome.outcome == WAITING
    assert "MiB free" in outcome.reason
    assert kept.index.dumps() == [first]
    object.__setattr__(kept.policy, "free_mib", 0)
    assert _look(kept, incoming)["vmcore"].outcome == STORED  # as soon as there is room


@pytest.mark.parametrize(
    "where", ["intake.copying._write", "store.rearrange", "store.Store._write_facts", "intake.copying.sha256_of"]
)
def test_a_disk_that_fills_meanwhile_makes_the_dump_wait(
    kept: Store, incoming: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    shutil.copyfile(DATA / "lzo.flat", incoming / "vmcore")
    with monkeypatch.context() as patch:
        patch.setattr(f"kdump_harness.store.{where}", full)
        outcome = _look(kept, incoming)["vmcore"]
        assert (outcome.outcome, outcome.dump) == (WAITING, None)
        assert outcome.reason.startswith("the store's disk is full (No space left on device)")
    assert list(kept.incoming.iterdir()) == []
    assert list(kept.dumps.iterdir()) == []
    assert _look(kept, incoming)["vmcore"].outcome == STORED


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_not_a_fault_of_the_dump(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="the store's disk is full"):
        examine(LOGS / "6.1.0.kdump", log_to=Path("/dev/full"))


def test_the_budget_refuses_what_is_too_much(kept: Store, tmp_path: Path) -> None:
    object.__setattr__(kept.policy, "budget_mib", 1)
    path = tmp_path / "vmcore"
    path.write_bytes(WHOLE.read_bytes() + bytes(1 << 20))
    with pytest.raises(NoRoom, match="the budget of 1 MiB has 1 MiB left, the dump needs 2"):
        _add(kept, path)


def test_no_room_is_exit_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _patient(tmp_path / "store", free_mib=1 << 40).close()
    assert main(["store", "add", "--store", str(tmp_path / "store"), str(WHOLE)]) == 3
    assert "the store keeps its dumps" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory away")
def test_another_user_s_store_is_left_alone(kept: Store) -> None:
    os.chown(kept.directory, 4321, 4321)
    with pytest.raises(HostError, match="belongs to user 4321"):
        Store(kept.directory)


def test_another_user_is_refused_with_the_owner_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user without access to the directory must not read that the store does not exist."""
    (tmp_path / "store").mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert main(["store", "list", "--store", str(tmp_path / "store")]) == 3
    assert f"belongs to user {owner}: run as that user" in capsys.readouterr().err


def test_leftovers_of_a_killed_process_are_removed(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (kept.incoming / "abandoned").mkdir()
    going, _ = put(kept, make_dump(0)), put(kept, make_dump(1))
    with monkeypatch.context() as patch:
        patch.setattr(store, "remove_tree", lambda _: None)  # it dies before
        assert kept.remove(going, why="old", unless=lambda _: False)
    assert kept.place_of(going).exists()
    monkeypatch.setattr(store, "_STARTING_S", -1.0)
    with Store(kept.directory):
        assert list(kept.incoming.iterdir()) == []
        assert not kept.place_of(going).exists()


def test_an_index_older_than_the_dumps_does_not_cost_them(kept: Store) -> None:
    """An index from a backup does not list newer dumps: they stay until a person decides."""
    (kept.dumps / "0123456789ab").mkdir()
    with Store(kept.directory):
        assert (kept.dumps / "0123456789ab").exists()


@pytest.mark.parametrize("there", ["dumps/precious/vmcore", "incoming/mail", "letters", "index.sqlite-journal"])
def test_a_store_is_made_in_no_directory_that_has_something(tmp_path: Path, there: str) -> None:
    """A directory of dumps without an index is refused too: its dumps would be removed."""
    path = tmp_path / "home" / there
    path.mkdir(parents=True)
    (tmp_path / "home").chmod(0o755)
    with pytest.raises(UsageError, match="a store begins in an empty directory"):
        Store(tmp_path / "home", create=True)
    assert path.exists()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("top", [".", "store", "store/dumps"])
def test_a_store_does_not_take_in_itself(kept: Store, capsys: pytest.CaptureFixture[str], top: str) -> None:
    """With --remove, the dumps of the store would be removed as known files."""
    dump = _add(kept, WHOLE).dump
    assert dump is not None
    path = kept.directory.parent / top
    assert main(["store", "watch", str(path), "--once", "--remove", "--store", str(kept.directory)]) == 2
    assert main(["store", "add", str(path), "--store", str(kept.directory)]) == 2
    assert "must not lie in one another" in capsys.readouterr().err
    assert (kept.place_of(dump) / "vmcore").read_bytes() == WHOLE.read_bytes()


def test_a_dump_is_not_taken_for_another_of_the_same_id(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ID_CHARACTERS", 0)
    first = _add(kept, WHOLE).dump
    outcome = _add(kept, DATA / "lzo.kdump")
    assert (outcome.outcome, outcome.reason) == (REFUSED, "another dump is called , though its bytes are others")
    assert kept.index.dumps() == [first]


def test_a_dump_that_comes_again_while_it_is_removed_stays(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = _add(kept, WHOLE).dump
    assert dump is not None
    put(kept, make_dump(1, host=dump.host))
    forget = kept.index.remove

    def forget_and_wait(*arguments: Any, **named: Any) -> None:
        forget(*arguments, **named)
        monkeypatch.setattr(kept.index, "by_id", lambda _: dump)  # as it is when another process took it in

    monkeypatch.setattr(kept.index, "remove", forget_and_wait)
    assert kept.remove(dump, why="old", unless=lambda _: False)
    assert (kept.place_of(dump) / "vmcore").exists()


def test_a_dump_on_a_full_disk_can_be_looked_at_and_removed(tmp_path: Path) -> None:
    """The temporary files of SQLite need space, too."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with _patient(disk / "store") as kept:
            for name in ("zlib.kdump", "lzo.kdump"):
                _add(kept, DATA / name)
        with (disk / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert os.statvfs(disk).f_bavail == 0
        arguments = ["--store", str(disk / "store")]
        assert main(["store", "list", *arguments]) == 0
        assert main(["store", "prune", "--keep-days", "1", *arguments]) == 0
        with Store(disk / "store") as kept:
            old, _ = kept.index.dumps()
            assert kept.remove(old, why="no room", unless=lambda _: False)
            assert len(kept.index.dumps()) == 1
    finally:
        subprocess.run(["umount", disk], check=True)


def test_input_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmcore"
    shutil.copyfile(WHOLE, path)
    assert main(["store", "add", str(path), "--json", str(path), "--store", str(tmp_path / "store")]) == 2
    assert "is what is read" in capsys.readouterr().err
    assert path.read_bytes() == WHOLE.read_bytes()


def test_a_process_killed_at_work_leaves_a_whole_store(tmp_path: Path) -> None:
    _patient(tmp_path / "store").close()
    code = (
        "import os, signal, sys\n"
        "from kdump_harness.store import index, store\n"
        "from store_factory import examine_here\n"
        "from kdump_harness.__main__ import main\n"
        "store.examine = examine_here\n"
        "index.Index.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(['store', 'add', '--store', sys.argv[1], sys.argv[2]])\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "store", WHOLE]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(DATA.parents[1])})
    assert done.returncode == -9
    with Store(tmp_path / "store") as kept:
        assert kept.index.dumps() == []
        assert _add(kept, WHOLE).outcome == STORED
        assert len(list(kept.dumps.iterdir())) == 1


def test_remove_takes_only_what_is_in_the_store(kept: Store, incoming: Path) -> None:
    shutil.copyfile(WHOLE, incoming / "vmcore")
    (incoming / "dump.2").write_bytes(WHOLE.read_bytes()[:-1])
    outcomes = {Path(one.path).name: one.outcome for one in Watcher(kept, incoming, remove=True).look()}
    assert outcomes == {"vmcore": STORED, "dump.2": REFUSED}
    assert [path.name for path in incoming.iterdir()] == ["dump.2"]


def test_watch_once_looks_twice_and_prunes(tmp_path: Path, incoming: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _patient(tmp_path / "store", settle_s=0.1, keep_per_host=2).close()
    for path in LOGS.glob("*.kdump"):
        shutil.copy(path, incoming)
    (incoming / "vmcore").write_bytes(b"KDUMP   and nothing else")
    assert main(["store", "watch", str(incoming), "--once", "--store", str(tmp_path / "store")]) == 1
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert words == ["waiting"] * 5 + ["stored"] * 4 + ["refused"] + ["removed"] * 2
    with Store(tmp_path / "store") as kept:
        assert len(kept.index.dumps()) == 2


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("nodename", "sender", "host"),
    [
        ("db7", "10.0.0.1-2026-11-22-10:11:12", "db7"),
        ("(none)", "10.0.0.1-2026-11-22-10:11:12", "10.0.0.1"),
        (None, "web-3-202611221011", "web-3"),
        ("localhost", "node9-2026-11-22-10-11", "node9"),
        ("", "127.0.0.1-2026-11-22-10:11:12", "unknown"),
        ("", "2026-11-22-10-11", "unknown"),
        ("", "incoming", "unknown"),
    ],
)
def test_a_dump_is_put_down_to_its_host(nodename: str | None, sender: str, host: str) -> None:
    assert host_of(nodename, sender) == host


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("keep_days = -1\n", "store.toml: keep_days must not be negative"),
        ("keep = 1\n", "store.toml: unknown keep"),
        ('keep_days = "7"\n', "store.toml: keep_days must be a whole number, not '7'"),
        ("keep_days\n", "store.toml: not valid TOML"),
        ("settle_s = nan\n", "store.toml: settle_s must not be negative"),
        ('central = "here"\n', "store.toml: central must be HOST:DIR or an absolute path, not 'here'"),
    ],
)
def test_a_slip_in_the_policy_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "store.toml").write_text(text)
    with pytest.raises(TableError, match=sentence):
        Store(tmp_path, create=True)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["list"], " has no store (store add or store watch makes one)"),
        (["add", "no-such-file"], "no-such-file does not exist"),
        (["watch", "no-such-directory"], "no-such-directory cannot be read"),
        (["prune"], " has no store (store add or store watch makes one)"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    assert main(["store", *argv, "--store", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_file_that_is_not_an_index_is_reported(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database at all, but long enough for a header" * 50)
    with pytest.raises(UsageError, match="is not a database, or is damaged"):
        Store(tmp_path)


def test_shown_leaves_nothing_that_drives_a_terminal() -> None:
    assert shown("a\x1b]0;x\x07b\u202e") == "a\\x1b]0;x\\x07b\\u202e"
