"""The guest's makedumpfile on this host is copied completely, and is killed if it hangs."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.base.clock import now_s
from kdump_harness.base.errors import CommandFailed
from kdump_harness.campaigns.sweep.refilter import CannotRun, Parts, Refilter, find_parts
from kdump_harness.vm.shells.shell import CommandResult
from kdump_harness.vmcore import inspect

DATA = Path(__file__).parents[1] / "data" / "vmcore"
LISTING = """\
/usr/bin/makedumpfile
\tlinux-vdso.so.1 (0x00007f1b08dfa000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1b08c79000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1b08a97000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1b08dfc000)
"""
PARTS = Parts(
    tool="/usr/bin/makedumpfile",
    loader="/lib64/ld-linux-x86-64.so.2",
    libraries={"libz.so.1": "/lib/x86_64-linux-gnu/libz.so.1"},
)
needs_makedumpfile = pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="makedumpfile is not installed")
needs_tools = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("setpriv", "prlimit", "unshare")), reason="util-linux is not installed"
)


class ThisHost:
    """A Shell whose guest is the host that the tests run on."""

    def __init__(self, program: str = "makedumpfile") -> None:
        self.program = program

    def run(self, command: str, *arguments: object, check: bool = True) -> CommandResult:
        made = subprocess.run(self._ours(command), shell=True, capture_output=True, text=True, check=False)
        return CommandResult(command=command, status=made.returncode, out=made.stdout, err=made.stderr, took_s=0.0)

    def save(self, command: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        data = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
        to.write_bytes(data)
        if progress is not None:
            progress(len(data))
        return len(data)

    def _ours(self, command: str) -> str:
        return command.replace("command -v makedumpfile", f"command -v {shlex.quote(self.program)}")


@pytest.fixture
def refilter(tmp_path: Path) -> Refilter:
    return Refilter(tmp_path / "refilter", PARTS, memory_mib=64)


def tar_of(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A tar of files, and of links where the content is the text of one."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


GOOD: tuple[tuple[str, bytes | str], ...] = (
    ("lib/x86_64-linux-gnu/libz.so.1", b"z"),
    ("lib64/ld-linux-x86-64.so.2", b"loader"),
    ("usr/bin/makedumpfile", b"tool"),
)


# ---------------------------------------------------------------- what it consists of


def test_ldd_lists_the_loader_and_the_libraries() -> None:
    parts = find_parts(LISTING)
    assert parts.tool == "/usr/bin/makedumpfile"
    assert parts.loader == "/lib64/ld-linux-x86-64.so.2"
    assert sorted(parts.libraries) == ["libc.so.6", "libz.so.1"]


def test_a_loader_that_is_a_link_is_known_by_its_path() -> None:
    listing = LISTING.replace("\t/lib64/ld-linux", "\t/lib64/ld-linux-x86-64.so.2 => /usr/lib64/ld-linux")
    assert find_parts(listing).loader == "/usr/lib64/ld-linux-x86-64.so.2"


@pytest.mark.parametrize(
    ("listing", "why"),
    [
        (
            LISTING.replace("=> /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1b08c79000)", "=> not found"),
            "is missing there",
        ),
        ("/usr/bin/makedumpfile\n\tstatically linked\n", "does not list the files"),
        ("", "does not list the files"),
    ],
    ids=["missing-library", "static", "silent"],
)
def test_missing_parts_are_reported(listing: str, why: str) -> None:
    with pytest.raises(CannotRun, match=why):
        find_parts(listing)


def test_the_parts_come_out_of_the_tar_under_our_own_names(refilter: Refilter, tmp_path: Path) -> None:
    packed = tar_of(tmp_path / "t.tar", *GOOD)
    refilter.unpack(packed)
    tool = refilter.directory / "root" / "tool"
    assert {path.name: path.read_bytes() for path in tool.iterdir()} == {
        "libz.so.1": b"z",
        "ld-linux-x86-64.so.2": b"loader",
        "makedumpfile": b"tool",
    }
    assert not packed.exists()


@pytest.mark.parametrize(
    "member",
    [
        ("../../../../../../tmp/evil", b"x"),
        ("/etc/cron.d/evil", b"x"),
        ("usr/bin/other", b"x"),
        ("usr/bin/makedumpfile", "/etc/shadow"),
        ("lib64/../usr/bin/makedumpfile", b"x"),
    ],
    ids=["up", "absolute", "more", "link", "sideways"],
)
def test_files_that_were_not_requested_are_refused(
    refilter: Refilter, tmp_path: Path, member: tuple[str, bytes | str]
) -> None:
    with pytest.raises(CommandFailed, match="which was not requested"):
        refilter.unpack(tar_of(tmp_path / "t.tar", *GOOD[:2], member))
    names = {path.name for path in (refilter.directory / "root" / "tool").iterdir()}
    assert names == {"libz.so.1", "ld-linux-x86-64.so.2"}


def test_a_part_that_does_not_come_is_missed(refilter: Refilter, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"did not send /usr/bin/makedumpfile$"):
        refilter.unpack(tar_of(tmp_path / "t.tar", *GOOD[:2]))


@pytest.mark.parametrize("size", [0, 100, 600])
def test_an_invalid_tar_is_refused(refilter: Refilter, tmp_path: Path, size: int) -> None:
    packed = tmp_path / "t.tar"
    packed.write_bytes(os.urandom(size))
    with pytest.raises(CommandFailed):
        refilter.unpack(packed)


def test_a_file_that_claims_to_be_endless_is_refused(refilter: Refilter, tmp_path: Path) -> None:
    member = tarfile.TarInfo("usr/bin/makedumpfile")
    member.size = 1 << 40
    packed = tmp_path / "t.tar"
    packed.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(CommandFailed):
        refilter.unpack(packed)


# ---------------------------------------------------------------- running it


@needs_makedumpfile
@needs_tools
def test_a_flattened_dump_is_put_together(tmp_path: Path) -> None:
    """Use the makedumpfile of this host as if it were a guest's."""
    made = Refilter.of_guest(ThisHost(), tmp_path / "refilter", memory_mib=64)
    assert "makedumpfile: version" in made.version()
    made.load(DATA / "lzo.flat", flattened=True)
    assert inspect(tmp_path / "refilter" / "root" / "capture").whole
    # The sample holds a few pages only, and makedumpfile does not find the kernel in it.
    with pytest.raises(CommandFailed, match=r"makedumpfile -F -c -d 31 .* ended with status 1: "):
        made.compute(tmp_path / "out", level=31, compress="zlib", flattened=True)
    made.remove()
    assert not (tmp_path / "refilter").exists()


@needs_tools
def test_a_program_that_does_not_run_on_this_host_is_reported_and_removed(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"makedumpfile -v on this host ended with status \d+: "):
        Refilter.of_guest(ThisHost("sleep"), tmp_path / "refilter", memory_mib=64)
    assert not (tmp_path / "refilter").exists()


def test_a_guest_without_makedumpfile_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="cannot list the libraries"):
        Refilter.of_guest(ThisHost("no-such-program"), tmp_path / "refilter", memory_mib=64)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lock it in")
@needs_tools
def test_makedumpfile_runs_unprivileged_and_sees_no_other_file(tmp_path: Path) -> None:
    """A shell in the place of makedumpfile reports its abilities."""
    listing = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    parts = find_parts(f"/bin/sh\n{listing}")
    refilter = Refilter(tmp_path / "refilter", parts, memory_mib=64)
    packed = tmp_path / "t.tar"
    subprocess.run(["tar", "-ch", "--hard-dereference", "-f", packed, "--", *parts.names()], check=True)
    refilter.unpack(packed)
    script = tmp_path / "script"
    script.write_text("test ! -e /etc/passwd && test ! -e /proc/1 && ! (: > /bin/x) && : > /tmp/mine\n")
    said: list[CommandResult] = []
    with script.open("rb") as stdin:
        refilter._on_result = said.append
        refilter._run("-s", stdin=stdin)
    mine = refilter.directory / "root" / "tmp" / "mine"
    assert mine.stat().st_uid not in (0, os.geteuid())
    assert said[0].status == 0


def test_a_hanging_makedumpfile_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refilter, "_command", lambda self, arguments: ["sh", "-c", "sleep 600 & sleep 600"])
    refilter = Refilter(tmp_path / "refilter", PARTS, memory_mib=64, stretch=lambda: 0.01)
    started_s = now_s()
    with pytest.raises(CommandFailed, match=r"makedumpfile -R .* did not finish within 1 s on this host"):
        refilter.load(DATA / "lzo.flat", flattened=True)
    assert now_s() - started_s < 300  # the processes keep the pipe open for 600 s, unless they are ended


def test_the_last_line_of_output_is_in_the_error(
    refilter: Refilter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(
        Refilter, "_command", lambda self, arguments: ["sh", "-c", "echo one >&2; echo two >&2; exit 3"]
    )
    refilter._on_result = said.append
    with pytest.raises(CommandFailed, match=r"makedumpfile -F -d 16 .* ended with status 3: two$"):
        refilter.compute(tmp_path / "out", level=16, compress="none", flattened=True)
    assert said[0].err == "one\ntwo\n"


def test_a_dump_that_is_not_a_file_is_refused(
    refilter: Refilter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files from a guest may try to make the harness read another file of the host."""
    link = refilter.directory / "root" / "out"
    monkeypatch.setattr(Refilter, "_command", lambda self, arguments: ["ln", "-s", "/etc/hostname", str(link)])
    with pytest.raises(CommandFailed, match="wrote no file"):
        refilter.compute(tmp_path / "out", level=16, compress="none", flattened=False)
    assert not (tmp_path / "out").exists()
