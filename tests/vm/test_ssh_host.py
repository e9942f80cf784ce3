"""A remote host over ssh: its URI, refused logins, commands and files."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kdump_harness.base.errors import CommandFailed, HostError, UsageError
from kdump_harness.vm.hosts.ssh_host import SshHost, by_command, where_of
from ssh_factory import uri_of, write_ssh

HOLD = 'echo "ready $1"; cat >/dev/null; echo over > "$1"; echo ended'


@pytest.mark.parametrize(
    ("uri", "host", "options"),
    [
        ("qemu+ssh://host/system", "host", ()),
        ("qemu+ssh://root@My-Alias:2222/system", "My-Alias", ("-l", "root", "-p", "2222")),
        ("qemu+ssh://[fd00::1]:22/system", "fd00::1", ("-p", "22")),
        ("qemu+ssh://host/system?keyfile=/k%20y&no_verify=1", "host", ("-i", "/k y", "-o", "StrictHostKeyChecking=no")),
        ("qemu+ssh://host/system?known_hosts=/k%20h", "host", ("-o", 'UserKnownHostsFile="/k h"')),
        ("qemu+ssh://host/system?no_verify=0&no_tty=1", "host", ("-o", "BatchMode=yes")),
    ],
)
def test_a_uri_says_how_ssh_reaches_its_host(uri: str, host: str, options: tuple[str, ...]) -> None:
    where = where_of(uri)
    assert (where.host, where.options, where.binary) == (host, options, "ssh")


@pytest.mark.parametrize("uri", ["qemu://host/system", "qemu+tls://host/system", "qemu+libssh2://host/system"])
def test_a_host_that_ssh_has_no_part_in_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"a remote hypervisor without ssh: expected qemu\+ssh://host/system"):
        where_of(uri)


@pytest.mark.parametrize("uri", ["qemu+ssh:///system", "qemu+ssh://-oProxyCommand=x/system", "qemu+ssh://h:p/system"])
def test_what_names_no_host_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="does not name a host"):
        where_of(uri)


def test_libvirt_is_given_our_command_and_keeps_its_parameters() -> None:
    told = by_command("qemu+ssh://me@host/system?keyfile=/a%26b&command=/theirs", Path("/run dir/ssh"))
    assert told == "qemu+ssh://me@host/system?keyfile=/a%26b&command=/run%20dir/ssh"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[SshHost]:
    """A connection to a fake remote host, which is this one."""
    (tmp_path / "run").mkdir()
    host = SshHost(where_of(uri_of(write_ssh(tmp_path))), tmp_path / "run")
    assert host.hold(HOLD, str(tmp_path / "mark")) == f"ready {tmp_path / 'mark'}"
    yield host
    host.close()


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("stranger", "stranger has an unknown host key .*: Host key verification failed."),
        ("closed", "closed refuses the ssh login: me@closed: Permission denied"),
        ("nowhere", "nowhere cannot be reached by ssh: ssh: Could not resolve hostname nowhere"),
    ],
)
def test_who_does_not_let_us_in_is_told_in_one_sentence(tmp_path: Path, host: str, sentence: str) -> None:
    refused = SshHost(where_of(uri_of(write_ssh(tmp_path), host)), tmp_path)
    with pytest.raises(HostError, match=sentence):
        refused.hold(HOLD, "x")


def test_a_host_without_ssh_says_so(tmp_path: Path) -> None:
    lonely = SshHost(where_of("qemu+ssh://host/system?command=/nowhere/ssh"), tmp_path)
    with pytest.raises(HostError, match="not found"):
        lonely.hold(HOLD, "x")


def test_commands_take_arguments_as_they_are_and_make_files_that_others_can_read(far: SshHost, tmp_path: Path) -> None:
    odd = "a 'b' \"c\" $d\n;e"
    assert far.run("printf", "%s", odd) == odd
    assert far.shell('printf %s "$2"; : > "$1"', tmp_path / "new", odd) == odd
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


def test_a_command_that_fails_is_told_by_its_last_word(far: SshHost) -> None:
    with pytest.raises(CommandFailed, match=r"^far: no such thing$"):
        far.shell("echo first >&2; echo no such thing >&2; exit 3")
    assert far.run("false", check=False) == ""
    with pytest.raises(HostError, match="no disk space left on far"):
        far.shell("echo 'tar: disk: Cannot write: No space left on device' >&2; exit 2")


def test_files_go_both_ways(far: SshHost, tmp_path: Path) -> None:
    data, sent, fetched = bytes(range(256)) * 10_000, [0], [0]
    far.feed(io.BytesIO(data), 'cat > "$1"', tmp_path / "there", progress=sent.append)
    far.fetch(tmp_path / "there", tmp_path / "back", progress=fetched.append)
    assert (tmp_path / "back").read_bytes() == data
    assert sent[-1] == fetched[-1] == len(data)
    far.feed(io.BytesIO(data), "exit 0", progress=lambda _: None)  # it need not read everything
    with pytest.raises(CommandFailed, match="cannot take it"):
        far.feed(io.BytesIO(data), "echo cannot take it >&2; exit 1", progress=lambda _: None)


def test_a_tunnel_is_a_socket_whose_carrier_ends_with_it(far: SshHost, tmp_path: Path) -> None:
    (tmp_path / "guest-192.0.2.7:22").write_text("SSH-2.0-guest")
    with far.connect("192.0.2.7", 22) as tunnel:
        assert tunnel.recv(4) == b"SSH-"
        carrier = tunnel.carrier
        assert carrier is not None
    assert carrier.returncode is not None
    with far.connect("192.0.2.8", 22) as refused:
        assert refused.recv(4) == b""


def test_a_host_that_forwards_nothing_is_told_when_a_guest_is_tried_again(far: SshHost) -> None:
    with far.connect("forbidden", 22) as refused:
        assert refused.recv(4) == b""
    with pytest.raises(HostError, match=r"far does not forward connections to its guests \(enable AllowTcpForwarding"):
        far.connect("forbidden", 22)


def test_the_script_that_is_held_comes_to_its_end_when_we_hang_up(far: SshHost, tmp_path: Path) -> None:
    assert far.alive()
    far.close()
    assert (tmp_path / "mark").read_text() == "over\n"
    assert not far.alive()


def test_whoever_has_a_copy_of_the_descriptor_keeps_the_connection(far: SshHost, tmp_path: Path) -> None:
    assert far._master is not None
    assert far._master.stdin is not None
    heir = subprocess.Popen(["sleep", "60"], pass_fds=(far.life,))
    far._master.stdin.close()  # as the end of the harness would
    time.sleep(0.2)
    assert not (tmp_path / "mark").exists()
    heir.kill()
    heir.wait()
    assert far._line(10.0) == "ended\n"
    assert (tmp_path / "mark").exists()


def test_a_connection_that_broke_is_told_and_not_made_anew(far: SshHost) -> None:
    assert far._master is not None
    far._master.kill()
    far._master.wait()
    with pytest.raises(HostError, match="SSH connection to far lost"):
        far.run("true")


def test_libvirts_command_goes_by_the_same_connection(far: SshHost, tmp_path: Path) -> None:
    ran = subprocess.run([far.command, "-T", "-e", "none", "--", "far", "echo $PWD"], capture_output=True, text=True)
    assert ran.stdout == f"{tmp_path / 'run'}\n"
    asked = (tmp_path / "asked").read_text().splitlines()[-1]
    assert asked == "-S control -o ControlMaster=no -l me -p 2222 -T -e none -- far echo $PWD"
