"""The parts of a fleet: evidence from untrusted workers, disks of peers, the estimate, the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from kdump_harness.base.board import Board, duration
from kdump_harness.base.clock import Deadline
from kdump_harness.base.errors import EXIT_FAILED, HostError
from kdump_harness.fleet import service
from kdump_harness.fleet.protocol import archive, tasks
from kdump_harness.fleet.protocol.needs import Needs, guest_needs, host_resources, slots
from kdump_harness.fleet.protocol.results import BadResult, TaskResult, read_result, write_result
from kdump_harness.fleet.worker.peer_server import PIECE_BYTES, NoCopy, PeerServer, copy_entry, entries
from kdump_harness.fleet.worker.task_runner import Host
from kdump_harness.images import peer_cache
from kdump_harness.images.state import State

MIB = 1 << 20

# ---------------------------------------------------------------- evidence


def packed(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, more in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in more.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))
    return zstandard.compress(out.getvalue())


def test_evidence_arrives_without_its_vmcores(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "place"
    (source / "deep" / "er").mkdir(parents=True)
    place.mkdir()
    (source / "deep" / "er" / "console.log").write_bytes(b"x" * 5000)
    (source / "dump.1").write_bytes(b"KDUMP   " + bytes(100))
    (source / "flat").write_bytes(b"makedumpfile\0" + bytes(100))
    (source / "large").write_bytes(os.urandom(2 * MIB))
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    data, left = archive.pack(source, limit_bytes=MIB, vmcores=False)
    assert [one.partition(" (")[0] for one in left] == ["dump.1", "flat", "large"]
    assert archive.unpack(data, place, limit_bytes=MIB) == 1
    assert (place / "deep" / "er" / "console.log").read_bytes() == b"x" * 5000
    data, left = archive.pack(source, limit_bytes=4 * MIB, vmcores=True)
    assert left == []


def test_a_log_that_is_still_written_to_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    log = tmp_path / "source" / "log"
    log.write_bytes(b"a" * 100)
    for size in (50, 200):
        real = archive._Exactly.__init__

        def then(self: Any, file: Any, known: int, size: int = size, real: Any = real) -> None:
            os.truncate(log, size)
            real(self, file, known)

        with monkeypatch.context() as patch:
            patch.setattr(archive._Exactly, "__init__", then)
            data, _ = archive.pack(tmp_path / "source", limit_bytes=MIB, vmcores=False)
        place = tmp_path / f"place{size}"
        place.mkdir()
        assert archive.unpack(data, place, limit_bytes=MIB) == 1


@pytest.mark.parametrize(
    "data",
    [
        packed(("../out", b"x", {})),
        packed(("/tmp/out", b"x", {})),
        packed(("a/../../out", b"x", {})),
        packed(("a//b", b"x", {})),
        packed(("./a", b"x", {})),
        packed(("a", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("a/out", b"x", {})),
        packed(("good", b"x", {}), ("a", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})),
        packed(("a", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
        packed(("a", b"", {"type": tarfile.FIFOTYPE})),
        packed(("a", b"x", {}), ("a", b"y", {})),
        packed(("a", b"x", {}), ("a/b", b"y", {})),
        packed(("a\nb", b"x", {})),
        packed(("/".join("abcdefghijklmn"), b"x", {})),
        packed(("a" * 300, b"x", {})),
        packed(("a", bytes(3 * MIB), {})),
        packed(*((f"a{number}", bytes(MIB // 2), {}) for number in range(3))),
        packed(("good", b"x", {}))[:-9],
        zstandard.compress(b"no archive at all, but long enough to be read as the first block of one" * 20),
        zstandard.compress(bytes(300 * MIB)),
        b"nothing",
    ],
    ids=[
        "up", "absolute", "up within", "empty part", "dot", "symlink", "hard link", "device", "pipe", "twice",
        "file as directory", "newline", "deep", "long", "large", "large in all", "cut", "no tar", "bomb", "no zstd",
    ],
)  # fmt: skip
def test_hostile_evidence_leaves_no_file(data: bytes, tmp_path: Path) -> None:
    place = tmp_path / "in" / "place"
    place.mkdir(parents=True)
    with contextlib.suppress(archive.BadArchive):
        # A bomb of zeros is an empty archive, and reads no further than its end.
        assert archive.unpack(data, place, limit_bytes=MIB) == 0
    assert [path for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()] == []


def test_more_files_than_evidence_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FILES_MAX", 3)
    with pytest.raises(archive.BadArchive, match="more than 3 files"):
        archive.unpack(packed(*((f"a{n}", b"x", {}) for n in range(5))), tmp_path, limit_bytes=MIB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 8, (10**9).to_bytes(8, "big") + b"{}", (2).to_bytes(8, "big") + b"{}", "text", None,
        (4).to_bytes(8, "big") + b"null",
        write_result(TaskResult(worker="one", reports=["x"])),  # type: ignore[list-item]
        write_result(TaskResult(worker=3)),  # type: ignore[arg-type]
        (200_000).to_bytes(8, "big") + b"[" * 200_000,
    ],
    ids=range(10),
)  # fmt: skip
def test_an_invalid_result_is_refused(data: object) -> None:
    with pytest.raises(BadResult):
        read_result(data)


def test_a_result_cannot_drive_a_terminal() -> None:
    found, rest = read_result(write_result(TaskResult(worker="\x1b[2Jone", problem="a\x07b\nc"), b"archive"))
    assert (found.worker, found.problem, bytes(rest)) == ("\ufffd[2Jone", "a\ufffdb\nc", b"archive")


# ---------------------------------------------------------------- disks of neighbours

KEY, ARMED = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def states(tmp_path: Path) -> tuple[State, State]:
    """Two states: one with a base disk and, if qemu-img is installed, an overlay on it; one that is empty."""
    there, here = State(tmp_path / "there"), State(tmp_path / "here")
    built = there.directory / "built" / KEY
    built.mkdir()
    with (built / "disk.raw").open("wb") as file:
        file.truncate(64 * MIB)
        for offset, size in ((0, 4096), (20 * MIB, PIECE_BYTES + 12288), (63 * MIB, 4096)):
            file.seek(offset)
            file.write(os.urandom(size))
    (built / "meta.json").write_text(json.dumps({"identity": "abc"}))
    return there, here


def asker(giver: PeerServer, change: Callable[[str, dict[str, Any]], None] = lambda name, answer: None) -> Any:
    async def ask(name: str, **what: Any) -> Any:
        if name == "kdump_entry_done":
            return giver.done(**what)
        answer = (giver.describe if name == "kdump_entry" else giver.piece)(**what, now_s=0.0)
        change(name, answer)
        return answer

    return ask


def copy(ask: Any, state: State, cache: str, key: str, **more: Any) -> Any:
    part = state.directory / cache / f"{key}.part"
    part.mkdir(exist_ok=True)
    return asyncio.run(copy_entry(ask, state, cache, key, me="here", **more))


def test_a_disk_is_copied_with_its_holes(states: tuple[State, State]) -> None:
    there, here = states
    assert entries(there) == [f"built/{KEY}"]
    copied = copy(asker(PeerServer(there)), here, "built", KEY)
    disk = here.directory / "built" / f"{KEY}.part" / "disk.raw"
    assert disk.read_bytes() == (there.directory / "built" / KEY / "disk.raw").read_bytes()
    assert copied.meta == {"identity": "abc"}
    assert disk.stat().st_blocks * 512 < 8 * MIB < disk.stat().st_size


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
def test_a_copied_overlay_rests_on_the_base_that_is_here(states: tuple[State, State]) -> None:
    there, here = states
    armed = there.directory / "armed" / ARMED
    armed.mkdir()
    base = there.directory / "built" / KEY / "disk.raw"
    qemu_img = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*qemu_img, "-b", base, "-F", "raw", armed / "disk.qcow2"], check=True)
    (armed / "meta.json").write_text(json.dumps({"kernel": "6.1", "base": {"path": str(base), "format": "raw"}}))
    ask = asker(PeerServer(there))
    with pytest.raises(NoCopy, match="backing file of its overlay is missing"):
        copy(ask, here, "armed", ARMED)
    here.make_once("built", KEY, lambda part: copy(ask, here, "built", KEY).meta, report=print, what="it")
    copied = copy(ask, here, "armed", ARMED)
    mine = here.directory / "built" / KEY / "disk.raw"
    assert copied.meta == {"kernel": "6.1", "base": {"path": str(mine), "format": "raw"}}
    part = here.directory / "armed" / f"{ARMED}.part"
    told = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", part / "disk.qcow2"]))
    assert told["backing-filename"] == str(mine)

    # An overlay with a file of this host as its data file, and one with another backing file.
    shutil.rmtree(part)
    secret = there.directory / "secret"
    secret.write_bytes(b"x" * MIB)
    (armed / "disk.qcow2").unlink()
    subprocess.run([*qemu_img, "-o", f"data_file={secret}", armed / "disk.qcow2", "1M"], check=True)
    with pytest.raises(NoCopy, match="not a plain overlay"):
        copy(ask, here, "armed", ARMED)

    def elsewhere(name: str, answer: dict[str, Any]) -> None:
        if name == "kdump_entry":
            answer["base"] = "built/../secret"

    with pytest.raises(NoCopy, match=r"does not name|is missing"):
        copy(asker(PeerServer(there), elsewhere), here, "armed", ARMED)
    assert list(part.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("kdump_entry", {"files": {"../x": 3}}, "answer is invalid"),
        ("kdump_entry", {"files": {}}, "answer is invalid"),
        ("kdump_entry", {"files": {"meta.json": 3}}, "answer is invalid"),
        ("kdump_entry", {"files": {"disk.raw": -3}}, "answer is invalid"),
        ("kdump_entry", {"meta": "[]"}, "answer is invalid"),
        ("kdump_entry", {"busy": True}, "serves others"),
        ("kdump_piece", {"data": b"other"}, "damaged in transfer"),
        ("kdump_piece", {"offset": 64 * MIB}, "outside the file"),
        ("kdump_piece", {"offset": -1}, "outside the file"),
        ("kdump_piece", {"offset": "x"}, "outside the file"),
    ],
)
def test_disks_of_a_peer_that_lies_are_not_copied(
    name: str, changes: dict[str, Any], why: str, states: tuple[State, State]
) -> None:
    there, here = states

    def lie(asked: str, answer: dict[str, Any]) -> None:
        answer.update(changes if asked == name else {})

    with pytest.raises(NoCopy, match=why):
        copy(asker(PeerServer(there), lie), here, "built", KEY)
    assert list((here.directory / "built" / f"{KEY}.part").iterdir()) == []


def test_a_disk_above_the_limit_and_a_request_to_a_busy_peer_are_refused(states: tuple[State, State]) -> None:
    there, here = states
    with pytest.raises(NoCopy, match="not enough space"):
        copy(asker(PeerServer(there)), here, "built", KEY, limit_mib=2)
    giver = PeerServer(there)
    assert all("files" in giver.describe("built", KEY, by=by, now_s=0.0) for by in ("a", "b"))
    assert giver.describe("built", KEY, by="c", now_s=1.0) == {"busy": True}
    assert "files" in giver.describe("built", KEY, by="c", now_s=40.0)  # the others went away
    for cache, key in (("runs", KEY), ("built", "../x"), ("built", "f" * 16), ("images", KEY)):
        assert giver.describe(cache, key, by="a", now_s=99.0) == {}
    assert giver.piece("built", KEY, "../../secret", 0, by="a", now_s=99.0) == {}


def test_a_disk_is_asked_for_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path / "state")
    said: list[str] = []
    line = socket.socket(socket.AF_UNIX)
    line.bind(str(tmp_path / "disks"))
    line.listen()

    def answer() -> None:
        for reply in ('{"say": "copied"}\n{"done": true, "meta": {"from": "there"}}\n', '{"done": true}\n', ""):
            connection, _ = line.accept()
            with connection:
                asked = json.loads(connection.makefile().readline())
                assert asked["cache"] == "armed"
                connection.sendall(reply.encode())

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setenv(peer_cache.VARIABLE, str(tmp_path / "disks"))
    found = []
    for key in ("a" * 16, "b" * 16, "c" * 16):
        made = state.make_once("armed", key, lambda part: {"from": "here"}, report=said.append, what="it")
        found.append(json.loads((made / "meta.json").read_text())["from"])
    thread.join()
    line.close()
    assert found == ["there", "here", "here"]
    assert said == ["copied"]


# ---------------------------------------------------------------- the rest


def test_an_estimate_is_made_of_what_was_seen() -> None:
    now = 0.0
    board = Board(["short"] * 6 + ["long"] * 2, quiet=True, clock=lambda: now)
    assert board.left_s() is None
    assert "known after the first one" in board.summary()
    for key in ("a", "b"):
        board.began(key, label=key, kind="short", worker="one", address=f"tcp://{key}")
    now = 60.0
    board.ended("a", "short", took_s=60, ok=True)
    # Half a minute of what is unknown: the long ones are taken to be like the others, two at a time.
    assert board.left_s() == pytest.approx((0 + 6 * 60) / 2)
    board.began("c", label="c", kind="long", worker="one", address="tcp://c")
    now = 180.0
    board.ended("c", "long", took_s=120, ok=False)
    assert board.left_s() == pytest.approx((4 * 60 + 1 * 120) / 2)
    assert board.summary() == "2 of 8 done, 1 of them not good, 1 running; about 3:00 min left, by the 2 before"
    assert list(board.lines()) == ["  3:00 min  one  b"]
    assert board.lost("tcp://b") == ["b"]  # it waits again
    assert board.left_s() == pytest.approx(5 * 60 + 120)
    board.ended("b", "short", took_s=60, ok=True)
    board.ended("b2", "short", took_s=0, ok=False)
    assert (board.finished, board.failed) == (4, 2)
    assert [duration(seconds) for seconds in (4.4, 59.6, 3599.9)] == ["4 s", "1:00 min", "1:00 h"]


def _runs(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_processes_of_a_group_end_with_the_worker(tmp_path: Path) -> None:
    # The task ignores SIGTERM and forks a child.
    program = (
        "import os, signal, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('terminated').touch())\n"
        "child = os.fork()\n"
        "pathlib.Path(f'pid-{os.getpid()}').touch()\n"
        "while True: time.sleep(0.01)\n"
    )
    keeper = (
        "import os, sys\nfrom kdump_harness.fleet.worker import supervisor\n"
        "supervisor.GRACE_S = 0.2\nos._exit(supervisor.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", keeper, sys.executable, "-S", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as process:
        while len(list(tmp_path.glob("pid-*"))) < 2:
            assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    assert (tmp_path / "terminated").exists()
    pids = [path.name.removeprefix("pid-") for path in tmp_path.glob("pid-*")]
    deadline = Deadline(30)  # a killed process ends when it gets a turn
    while any(_runs(pid) for pid in pids):
        assert deadline.left_s > 0, pids
    with subprocess.Popen(
        [sys.executable, "-m", "kdump_harness.fleet.worker.supervisor",
         sys.executable, "-S", "-c", "raise SystemExit(3)"],
        stdin=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.wait(60) == 3


def test_a_host_offers_the_architectures_that_it_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "qemu-system-ppc64" else None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    hypervisor: Any = SimpleNamespace(lacks=lambda *_: None, firmware=lambda: ("bios",))
    found = host_resources(hypervisor, "tcg", memory_mib=3000, cores=3)
    assert {name for name in found if name.startswith("ARCH-")} == {"ARCH-x86_64", "ARCH-ppc64le"}
    ppc64el = tasks.drill_needs(tasks.parse_drill(["debian-12", "--arch", "ppc64el"]))
    assert ppc64el.lacking(found) == []
    assert ppc64el.mib == guest_needs(2048, level=None, firmware="slof", more=()).mib
    arm64 = tasks.drill_needs(tasks.parse_drill(["debian-13", "--arch", "arm64"]))
    assert arm64.lacking(found) == ["ARCH-aarch64", "UEFI"]


def test_a_host_says_what_it_has() -> None:
    hypervisor: Any = SimpleNamespace(
        lacks=lambda accelerator, level: "avx2" if level == 3 else None, firmware=lambda: ("bios", "uefi")
    )
    found = host_resources(hypervisor, "tcg", memory_mib=3000, cores=3)
    assert {name for name, value in found.items() if value == 1} >= {"TCG", "CPU-1", "CPU-2", "UEFI", "HARNESS-0.1.0"}
    assert not {"KVM", "CPU-3", "UEFI-SECURE"} & set(found)
    assert slots(found) == 2
    assert "KVM" in host_resources(hypervisor, "kvm", memory_mib=3000, cores=3)
    needs = guest_needs(2048, level=3, firmware="uefi-secure", more=["NMI"])
    assert needs.lacking(found)[0] == "CPU-3"
    assert {"UEFI-SECURE", "CPU-3"} <= set(needs.lacking(found))
    assert Needs(mib=2000, cores=2).lacking(found) == []
    assert Needs(mib=2000, cores=4).lacking(found) == ["4 CORES"]
    with pytest.raises(HostError, match="not enough for one"):
        host_resources(hypervisor, "tcg", memory_mib=1000, cores=1)


def test_one_worker_for_a_directory(tmp_path: Path) -> None:
    with (
        service.locked(tmp_path / "x"),
        pytest.raises(HostError, match="another worker uses"),
        service.locked(tmp_path / "x"),
    ):
        pass


def test_a_worker_tidies_up_before_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("task-dead", "kept-1", "dask-scratch-space"):
        (tmp_path / name).mkdir()
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        ran.append(command)
        return SimpleNamespace(stdout="removed domain kdh-1\nnothing else\n", stderr="", returncode=EXIT_FAILED)

    monkeypatch.setattr(service.subprocess, "run", run)
    said: list[str] = []
    service.clean_up(Host(name="one", uri="qemu:///x", state=tmp_path / "s", evidence=tmp_path), said.append)
    # --own keeps the runs of other state directories on this host.
    assert ran[0][4:] == ["clean", "--own", "--uri", "qemu:///x", "--state", str(tmp_path / "s")]
    assert said == ["removed domain kdh-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept-1"]
