"""The local and the remote guest host; a fake ssh runs the commands for the remote one here."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import CommandFailed, HostError, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.images.state import State
from kdump_harness.vm import host_check
from kdump_harness.vm.hosts import remote_scripts
from kdump_harness.vm.hosts.guest_host import open_guest_host
from kdump_harness.vm.hosts.local_host import LocalHost
from kdump_harness.vm.hosts.qemu_img import backing_chain
from kdump_harness.vm.hosts.remote_host import TOOLS, RemoteHost
from ssh_factory import uri_of, write_ssh

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
MIB = 1 << 20


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A URI of a remote hypervisor."""
    return uri_of(write_ssh(tmp_path))


@pytest.fixture
def reach(tmp_path: Path, uri: str) -> Iterator[Callable[..., RemoteHost]]:
    """Open the remote host, for a run or for inspection."""
    with contextlib.ExitStack() as stack:

        def make(run: str = "") -> RemoteHost:
            here = tmp_path / f"here-{run}"
            here.mkdir()
            made = RemoteHost(uri, here, state=tmp_path / "far", run=run, tools=TOOLS, progress=Progress(quiet=True))
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def there(reach: Callable[..., RemoteHost]) -> RemoteHost:
    return reach("aaa111")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A sparse disk of this host."""
    path = tmp_path / "base.raw"
    with path.open("wb") as file:
        file.write(b"boot".ljust(MIB, b"!"))
        file.truncate(64 * MIB)
    path.chmod(0o644)
    return path


def content(disk: Path) -> bytes:
    """Return the content of a qcow2 as a guest sees it."""
    back = disk.with_suffix(".content")
    subprocess.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", disk, back], check=True)
    return back.read_bytes()


def write_into(disk: Path, data: str) -> None:
    """Write data at 2 MiB, as a guest would."""
    with disk.with_suffix(".data").open("wb") as file:
        file.write(data.encode() * 512)
    whole = disk.with_suffix(".whole")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, whole], check=True)
    with whole.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(disk.with_suffix(".data").read_bytes())
    below = backing_chain(disk, "qcow2")[1]
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-B", below[0], "-F", below[1], whole, disk], check=True
    )


def test_a_run_has_a_directory_over_there_that_goes_with_it(reach: Callable[..., RemoteHost], tmp_path: Path) -> None:
    there = reach("aaa111")
    assert there.directory == tmp_path / "far" / "runs" / "aaa111"
    assert there.directory.stat().st_mode & 0o777 == 0o711
    look = reach()
    assert (look.active_runs(), look.stale_runs()) == ({"aaa111"}, {})
    assert look.is_held(there.directory)
    assert not look.is_held(tmp_path)
    there.close()
    assert not there.directory.exists()
    assert look.active_runs() == frozenset()


def test_a_run_that_is_killed_leaves_nothing_over_there(there: RemoteHost) -> None:
    (there.directory / "disk-1.qcow2").touch()
    assert there._ssh._master is not None
    assert there._ssh._master.stdin is not None
    there._ssh._master.stdin.close()  # as the end of the harness would
    assert there._ssh._line(10.0) == "ended\n"
    assert not there.directory.exists()


def test_what_a_host_that_lost_power_has_left_goes_with_the_next_run(
    reach: Callable[..., RemoteHost], tmp_path: Path
) -> None:
    dead = tmp_path / "far" / "runs" / "dead00"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "disk-1.qcow2").touch()
    look = reach()
    assert [left.what for left in look.leftovers()] == ["files of the stale run dead00 on far"]
    assert dead.exists(), "a look removes nothing"
    reach("aaa111")
    assert not dead.exists()


def test_a_disk_is_sent_once_with_its_holes_and_what_it_rests_on(
    reach: Callable[..., RemoteHost], raw: Path, tmp_path: Path
) -> None:
    there = reach("aaa111")
    armed = tmp_path / "armed.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", armed], check=True)
    write_into(armed, "armed")
    armed.chmod(0o644)  # QEMU runs as another user, whatever the umask
    first = there.directory / "disk-1.qcow2"
    there.overlay(first, armed, base_format="qcow2")
    assert content(first) == content(armed)
    layers = there.layers(first)
    assert [layer.format for layer in layers] == ["qcow2", "raw"]
    assert all(layer.path.is_relative_to(tmp_path / "far" / "copies") and not layer.private for layer in layers)
    assert layers[1].path.stat().st_blocks * 512 < 8 * MIB, "holes stay holes"
    before = {layer.path: layer.path.stat().st_mtime_ns for layer in layers}
    again = reach("bbb222")
    again.overlay(again.directory / "disk-1.qcow2", armed, base_format="qcow2")
    assert {layer.path: layer.path.stat().st_mtime_ns for layer in again.layers(first)} == before
    raw.touch()  # another content, as far as its metadata shows
    other = reach("ccc333")
    other.overlay(other.directory / "disk-1.qcow2", armed, base_format="qcow2")
    assert not {layer.path for layer in other.layers(other.directory / "disk-1.qcow2")} & set(before)


def test_a_disk_that_its_owner_alone_can_read_is_not_put_where_others_can(there: RemoteHost, raw: Path) -> None:
    raw.chmod(0o600)
    with pytest.raises(UsageError, match="is readable by its owner only"):
        there.overlay(there.directory / "disk-1.qcow2", raw, base_format="raw")
    assert not list((there.state / "copies").glob("*/disk"))


def test_a_disk_that_stops_coming_is_no_copy(there: RemoteHost, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = there._ssh.feed

    def cut(source: Any, *arguments: Any, **others: Any) -> None:
        feed(io.BytesIO(source.read(9000)), *arguments, **others)

    monkeypatch.setattr(there._ssh, "feed", cut)
    with pytest.raises(CommandFailed, match="far: tar: "):
        there.overlay(there.directory / "disk-1.qcow2", raw, base_format="raw")
    assert not [path for path in (there.state / "copies").iterdir() if path.suffix != ".lock"]


def test_a_disk_that_is_finished_over_there_is_kept_here_and_there(
    there: RemoteHost, raw: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "armed" / "disk.qcow2"
    kept.parent.mkdir()
    with there.kept_overlay(kept, raw, base_format="raw") as disk:
        assert disk.is_relative_to(there.directory)
        assert disk.parent != there.directory, "guests of the run remove their own disks when they end"
        write_into(disk, "armed")
    assert [path for path, _ in backing_chain(kept, "qcow2")] == [kept, raw]
    assert content(kept)[2 * MIB :].startswith(b"armed")
    kept.parent.rename(tmp_path / "key")  # as make_once does
    there._ssh.feed = None  # type: ignore[assignment, method-assign]  # nothing is sent any more
    overlay = there.directory / "disk-1.qcow2"
    there.overlay(overlay, tmp_path / "key" / "disk.qcow2", base_format="qcow2")
    assert content(overlay)[2 * MIB :].startswith(b"armed")


def test_a_disk_that_is_not_finished_is_kept_nowhere(there: RemoteHost, raw: Path, tmp_path: Path) -> None:
    kept = tmp_path / "disk.qcow2"
    with (
        pytest.raises(HostError, match="no"),
        there.kept_overlay(kept, raw, base_format="raw") as disk,
    ):
        raise HostError("no")
    assert not kept.exists()
    assert not disk.parent.exists()


def test_a_disk_of_a_guest_is_read_here_with_all_that_it_rests_on(there: RemoteHost, raw: Path) -> None:
    saved, disk = there.directory / "disk-1.qcow2", there.directory / "disk-2.qcow2"
    there.overlay(saved, raw, base_format="raw")
    write_into(saved, "saved")
    there.overlay(disk, saved, base_format="qcow2")
    taken = there.take_disk(disk)
    paths = [path for path, _ in backing_chain(taken, "qcow2")]
    assert len(paths) == 3
    assert not any(path.is_relative_to(there.state) for path in paths)
    assert content(taken)[2 * MIB :].startswith(b"saved")
    blank = there.directory / "disk-3.qcow2"
    there.blank(blank, "1M")
    there.overlay(there.directory / "disk-4.qcow2", blank, base_format="qcow2")
    assert len(backing_chain(there.take_disk(there.directory / "disk-4.qcow2"), "qcow2")) == 2


def test_what_was_read_of_a_disk_goes_with_it_and_its_base_is_fetched_once(
    there: RemoteHost, raw: Path, tmp_path: Path
) -> None:
    saved = there.directory / "disk-1.qcow2"
    there.overlay(saved, raw, base_format="raw")
    before = set(there._local.iterdir())
    taken = []
    for number in (2, 3, 4):  # drills of one saved guest
        disk = there.directory / f"disk-{number}.qcow2"
        there.overlay(disk, saved, base_format="qcow2")
        taken.append(backing_chain(there.take_disk(disk), "qcow2"))
        there.remove(disk)
    assert {chain[1] for chain in taken} == {taken[0][1]}
    assert set(there._local.iterdir()) - before == {taken[0][1][0]}
    there.remove(saved)
    assert set(there._local.iterdir()) == before


def test_small_files_go_to_the_run_and_come_back(there: RemoteHost, tmp_path: Path) -> None:
    seed = tmp_path / "seed.iso"
    seed.write_bytes(b"seed")
    put = there.put(seed)
    assert put == there.directory / "seed.iso"
    assert put.stat().st_mode & 0o777 == 0o644
    memory = there.directory / "guest.memory"
    there.private(memory)
    assert memory.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandFailed):
        there.private(memory)
    memory.write_bytes(b"memory")
    assert there.take(memory).read_bytes() == b"memory"
    assert not memory.exists()
    there.copy(put, there.directory / "copy")
    there.remove(put, there.directory / "copy", there.directory / "never was")
    assert [path.name for path in there.directory.iterdir()] == ["lock"]


def test_room_and_memory_are_asked_for_over_there(there: RemoteHost) -> None:
    there.require_space(1, "nearly nothing")
    with pytest.raises(HostError, match=r"far on far for the drill: 999999999 MiB needed.*--remote-state DIR"):
        there.require_space(999_999_999, "the drill")
    there.require_memory(1, "nearly nothing")
    with pytest.raises(HostError, match="not enough memory on far for big: 999999999 MiB needed"):
        there.require_memory(999_999_999, "big")


def test_what_can_only_be_had_on_the_host_of_the_guests_is_refused_elsewhere(there: RemoteHost) -> None:
    with pytest.raises(HostError, match="a disk that fails works only on the guest host: run kdump-harness on far"):
        there.require_local("a disk that fails")


def test_a_host_without_the_tools_is_unfit(tmp_path: Path) -> None:
    bare = uri_of(write_ssh(tmp_path), "bare")
    with pytest.raises(HostError, match=r"bare cannot run guests: it lacks qemu-img tar flock$"):
        RemoteHost(bare, tmp_path, run="aaa111", tools=TOOLS, progress=Progress(quiet=True))


def test_a_state_that_cannot_be_made_is_told(tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        HostError, match=f"its state directory {tmp_path}/file/state cannot be used .*Not a directory[)]$"
    ):
        RemoteHost(uri, tmp_path, state=tmp_path / "file" / "state", run="aaa111", progress=Progress(quiet=True))


def test_a_login_shell_that_talks_is_told(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_scripts, "HOLD", "echo Welcome to far")
    with pytest.raises(HostError, match="its login shell prints 'Welcome to far'"):
        RemoteHost(uri, tmp_path, run="aaa111", progress=Progress(quiet=True))


def test_clean_removes_over_there_what_dead_runs_left_and_copies_when_asked(
    reach: Callable[..., RemoteHost], raw: Path, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: object, **__: object) -> None:
        raise HostError("libvirt is not what is tested here")

    monkeypatch.setattr("kdump_harness.vm.hypervisor.connection.Hypervisor", refuse)
    options = ["--uri", uri, "--remote-state", str(tmp_path / "far")]
    there = reach("aaa111")
    there.overlay(there.directory / "disk-1.qcow2", raw, base_format="raw")
    (there.state / "runs" / "dead00").mkdir()
    (there.state / "runs" / "dead00" / "lock").touch()
    (there.state / "copies" / "cut.part").mkdir()
    assert main(["clean", "--caches", *options]) == 0
    removed = "removed files of the stale run dead00 on far\nremoved unfinished copy cut on far\n"
    assert capsys.readouterr().out == removed, "copies stay while a run is active"
    there.close()
    built = State().directory / "built" / "k1" / "meta.json"
    built.parent.mkdir()
    built.touch()
    assert main(["clean", "--caches", *options]) == 0
    assert capsys.readouterr().out.startswith("removed copy ")
    assert built.exists(), "the caches of this host are not meant"
    assert not [path for path in (there.state / "copies").iterdir() if path.name != "cut.lock"]


@pytest.mark.parametrize(
    ("uri", "status", "sentence"),
    [
        ("qemu+tls://far/system", 2, "is a remote hypervisor without ssh: expected qemu+ssh://host/system"),
        ("qemu+ssh://stranger/system?command={ssh}", 3, "stranger has an unknown host key"),
        ("qemu+ssh://bare/system?command={ssh}", 3, "bare cannot run guests: it lacks qemu-img"),
    ],
)
def test_a_host_that_cannot_be_used_is_told_in_one_sentence(
    uri: str, status: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = uri.format(ssh=write_ssh(tmp_path))
    assert main(["drill", "debian-12", "--uri", address, "--evidence", str(tmp_path / "evidence")]) == status
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not list((Path(os.environ["KDUMP_HARNESS_STATE"]) / "runs").iterdir())


def test_doctor_says_what_the_other_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = uri_of(write_ssh(tmp_path))
    monkeypatch.setattr(
        host_check, "_mirror", lambda: host_check.HostFinding(name="package mirror", ok=True, seen="there")
    )
    monkeypatch.setattr(remote_scripts, "LACKING", 'for name in "$@"; do test "$name" = apt-get || echo "$name"; done')
    found = {one.name: one for one in host_check.examine(uri=far, state_directory=None, remote_state=tmp_path / "far")}
    assert found["ssh to far"].ok
    assert not found["QEMU on far"].ok
    assert found["QEMU on far"].remedy == "apt-get install --no-install-recommends qemu-system-x86 on far"
    assert found["tools on far"].seen == "missing: qemu-img, tar, flock"
    assert "QEMU" not in found, "guests do not run here"
    assert not list((tmp_path / "far" / "runs").iterdir())


def test_doctor_says_why_nobody_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host_check, "_mirror", lambda: host_check.HostFinding(name="package mirror", ok=True, seen="there")
    )
    found = host_check.examine(uri=uri_of(write_ssh(tmp_path), "closed"), state_directory=None)
    refused = next(one for one in found if one.name == "ssh to closed")
    assert not refused.ok
    assert "Permission denied" in refused.seen


def test_on_this_host_files_are_where_they_are_made(tmp_path: Path, raw: Path) -> None:
    state = State(tmp_path / "state")
    with (
        state.run() as directory,
        open_guest_host("qemu:///system", state, directory, remote_state=None, progress=Progress(quiet=True)) as here,
    ):
        assert isinstance(here, LocalHost)
        assert (here.address, here.directory, here.connection_fds) == ("qemu:///system", directory.path, ())
        overlay = here.directory / "disk-1.qcow2"
        here.overlay(overlay, raw, base_format="raw")
        assert here.put(overlay) == here.take(overlay) == here.take_disk(overlay) == overlay
        assert [layer.path for layer in here.layers(overlay)] == [raw]
        assert here.is_held(directory.path)
        with here.kept_overlay(tmp_path / "kept.qcow2", raw, base_format="raw") as kept:
            assert kept == tmp_path / "kept.qcow2"
        here.remove(overlay, tmp_path / "never was")
        assert not overlay.exists()
        here.require_local("a disk that fails")


def test_a_connection_to_a_guest_is_made_over_there(there: RemoteHost, tmp_path: Path) -> None:
    (tmp_path / "guest-192.0.2.7:22").write_text("SSH-2.0-guest")
    with there.connect("192.0.2.7", 22, 5.0) as connection:
        assert connection.recv(4) == b"SSH-"
