"""The control line of a kernel drill: the shell of this host obeys the loop of the init."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kdump_harness.base.errors import CommandFailed, ConsoleLost, GuestError, WaitedInVain
from kdump_harness.base.tables import package_path
from kdump_harness.kernel.plan import userland_family
from kdump_harness.vm.hypervisor.byte_queue import ByteQueue
from kdump_harness.vm.shells import serial_shell
from kdump_harness.vm.shells.serial_shell import PART_BYTES, ControlLine, SerialShell

INIT = package_path("kernel", "init")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[ControlLine]:
    """A control line whose other end is the loop of the init."""
    pack, _, rest = INIT.read_text().partition("pack() {")[2].partition("\n")
    loop = f"pack() {{{pack}\nwhile read" + rest.rpartition("while read")[2].partition("\ndone\n")[0] + "\ndone"
    ours, theirs = socket.socketpair()
    script = "exec 3<&0\n" + loop.replace("/run/", f"{tmp_path}/").replace("/dev/console", "/dev/null")
    process = subprocess.Popen(["sh", "-c", script], stdin=theirs)
    theirs.close()
    source = ByteQueue()

    def pump() -> None:
        while data := ours.recv(65536):
            source.put(data)
        source.put(b"")

    thread = threading.Thread(target=pump)
    thread.start()
    yield ControlLine(source, ours.sendall)
    ours.shutdown(socket.SHUT_RDWR)
    process.wait()
    thread.join()
    ours.close()


def test_the_init_is_a_script_without_slips() -> None:
    subprocess.run(["sh", "-n", INIT], check=True)


def test_commands_are_obeyed_and_their_outputs_kept_apart(line: ControlLine, tmp_path: Path) -> None:
    shell = SerialShell("guest", line)
    seen: list[str] = []
    shell.subscribe(lambda result: seen.append(result.command))
    result = shell.run("printf 'out %%s\\n' %s\necho err >&2; exit 3", "of 'it' \\n\t \u00e9", check=False)
    assert (result.status, result.out, result.err) == (3, "out of 'it' \\n\t \u00e9\n", "err\n")
    assert seen == [result.command]
    with pytest.raises(CommandFailed, match="ended with status 1"):
        shell.run("false")
    assert not shell.succeeds("false")
    assert shell.save("head -c 300000 /dev/zero", tmp_path / "zeros") == 300000
    (tmp_path / "local").write_bytes(bytes(range(256)) * (PART_BYTES // 200))
    shell.put(tmp_path / "local", str(tmp_path / "copied"))
    assert (tmp_path / "copied").read_bytes() == (tmp_path / "local").read_bytes()


def test_a_started_command_is_not_waited_for(line: ControlLine, tmp_path: Path) -> None:
    shell = SerialShell("guest", line)
    shell.start(f"sleep 0.1; touch {tmp_path}/done")
    assert shell.run("echo now").out == "now\n"
    shell.run(f"while [ ! -e {tmp_path}/done ]; do sleep 0.05; done")


def test_a_line_that_says_nothing_or_ends_is_told() -> None:
    source = ByteQueue()
    line = ControlLine(source, lambda _data: None)
    with pytest.raises(CommandFailed, match="did not end within 0 s"):
        SerialShell("guest", line).run("true", timeout_s=0.01)
    source.put(b"noise\nvmcore 0 12\n")
    assert line.wait_for("vmcore", timeout_s=5) == ["0", "12"]
    with pytest.raises(WaitedInVain):
        line.wait_for("ready", timeout_s=0.01)
    source.put(b"")
    with pytest.raises(ConsoleLost):
        line.read(timeout_s=1)


def test_a_capture_kernel_without_the_disk_says_so_and_writes_nothing(tmp_path: Path) -> None:
    text = INIT.read_text()
    report = "report() {" + text.partition("report() {")[2].partition("\n}\n")[0] + "\n}\n"
    _, start, rest = text.partition('    if [ ! -b "$disk" ]; then\n')
    block = start + rest.partition("    fi\n")[0] + "fi\n"
    stubs = f'say() {{ echo "kdump-harness: $*"; }}; reboot() {{ exit 7; }}; exec 3<>{tmp_path}/line\n{report}'
    done = subprocess.run(
        ["sh", "-c", f"{stubs} disk={tmp_path}/vda\n{block}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert re.search(userland_family().console.failed, done.stdout)
    assert (tmp_path / "line").read_text() == "vmcore 1 0\n"
    assert [path.name for path in tmp_path.iterdir()] == ["line"]


def test_a_capture_kernel_that_has_reported_waits_to_be_switched_off() -> None:
    """With a clock of instructions a pause of the guest takes no time, and the last lines of its console were lost."""
    report = INIT.read_text().partition("report() {")[2].partition("\n}\n")[0]
    ours, theirs = socket.socketpair()
    script = f"exec 3<&0; reboot() {{ exit 7; }}\nreport() {{{report}\n}}\nreport 0 12"
    process = subprocess.Popen(["sh", "-c", script], stdin=theirs)
    theirs.close()
    assert ours.recv(100) == b"vmcore 0 12\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    ours.close()
    assert process.wait(60) == 7


@pytest.mark.parametrize("answer", ["1 0 !!! -", "1 0 YQ", "1 zero - -"])
def test_a_damaged_answer_is_refused(answer: str) -> None:
    source = ByteQueue()
    source.put(f"{answer}\n".encode())
    with pytest.raises(GuestError, match="the answer to 'true' is damaged"):
        SerialShell("guest", ControlLine(source, lambda _data: None)).run("true", timeout_s=5)


def test_a_line_that_is_longer_than_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ByteQueue()
    monkeypatch.setattr(serial_shell, "LINE_MAX_BYTES", 1000)
    source.put(bytes(2000))
    with pytest.raises(GuestError, match="a line of more than 1,000 bytes"):
        ControlLine(source, lambda _data: None).read(timeout_s=5)
