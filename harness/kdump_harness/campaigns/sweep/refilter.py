"""Filters a dump of everything once more on this host, with the guest's own makedumpfile.

The guest's, because a newer one would not have its faults. Its program and libraries come from a guest that nobody
needs to trust, so they run as nobody, locked into their directory, without network, and within limits. (For an
ordinary user that is not possible: then they run as that user, with the limits and without new privileges.)
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ...base.clock import Deadline
from ...base.errors import CommandFailed, HarnessError
from ...base.units import MIB
from ...distro.family import COMPRESS_FLAGS
from ...vm.shell import CommandResult

TOOL_MAX_BYTES = 256 * MIB  # makedumpfile with its libraries is 7 MiB
ADDRESS_SPACE_BYTES = 4096 * MIB  # it keeps bitmaps in memory, no pages
MIN_TIMEOUT_S = 60.0
SLOWEST_MIB_PER_S = 5.0  # zlib on an old processor does five times that
HEADERS_MIB = 64  # the most that a dump is larger than the pages in it
NOBODY = 65534
_TICK_S = 0.5
_ENDED = -1000  # no status that a process can have
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# makedumpfile keeps temporary files in /tmp whatever TMPDIR says (its open_dump_bitmap() and copy_vmcoreinfo()).
_TMP = "tmp"
_TOOL = "tool"
_CAPTURE = "capture"
_OUT = "out"

_LDD_LINE = re.compile(r"\s*(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)")


class GuestShell(Protocol):
    """What is needed of a guest's Shell."""

    def run(self, command: str, *arguments: object, check: bool = True) -> CommandResult: ...

    def save(self, command: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int: ...


class CannotRun(HarnessError):
    """The guest's makedumpfile does not run on this host; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The files that makedumpfile consists of in the guest."""

    tool: str
    loader: str
    libraries: Mapping[str, str]  # paths by the name that the loader looks for

    def names(self) -> dict[str, str]:
        """Path in the guest to the name of our copy."""
        found = {path: name for name, path in self.libraries.items()}
        return found | {self.loader: PurePosixPath(self.loader).name, self.tool: "makedumpfile"}


def find_parts(listing: str) -> Parts:
    """Read the path of the program and what ldd says of it; CannotRun when it cannot be put together from that."""
    tool, _, rest = listing.strip().partition("\n")
    loader = None
    libraries = {}
    for line in rest.splitlines():
        if "not found" in line:
            raise CannotRun(f"a library of the guest's makedumpfile is missing there ({line.strip()})")
        if match := _LDD_LINE.fullmatch(line):
            name, path = match["name"], match["path"]
            if name is None or "/" in name:  # the loader is the only one that is asked for by its path
                loader = path
            else:
                libraries[name] = path
    if not tool.startswith("/") or loader is None:
        raise CannotRun("the guest's ldd does not tell of which files makedumpfile consists")
    return Parts(tool=tool, loader=loader, libraries=libraries)


class Refilter:
    """The guest's makedumpfile on this host, and the capture it works on, in one directory."""

    def __init__(
        self,
        directory: Path,
        parts: Parts,
        *,
        memory_mib: int,
        stretch: Callable[[], float] = lambda: 1.0,
        tick: Callable[[], None] = lambda: None,
        on_result: Callable[[CommandResult], None] = lambda _: None,
    ) -> None:
        """memory_mib is that of the guest: no dump can be larger, and the time allowed goes with it."""
        self.directory = directory
        self._parts = parts
        self._locked = os.geteuid() == 0
        self._root = directory / "root"
        self._memory_mib = memory_mib
        self._stretch = stretch
        self._tick = tick
        self._on_result = on_result
        directory.mkdir(mode=0o700)
        for path in (self._root, self._root / _TOOL, self._root / _TMP):
            path.mkdir(mode=0o700)
            self._give(path)

    @classmethod
    def of_guest(
        cls,
        shell: GuestShell,
        directory: Path,
        *,
        memory_mib: int,
        stretch: Callable[[], float] = lambda: 1.0,
        tick: Callable[[], None] = lambda: None,
        on_result: Callable[[CommandResult], None] = lambda _: None,
    ) -> Refilter:
        """Bring it here from a running guest; CannotRun when it would not run."""
        listed = shell.run(
            'tool=$(readlink -f "$(command -v makedumpfile)") && echo "$tool" && ldd "$tool"', check=False
        )
        if not listed.ok:
            said = (listed.err or listed.out).strip().splitlines()
            raise CannotRun(
                f"the guest cannot list the libraries of makedumpfile ({said[-1] if said else 'no output'})"
            )
        parts = find_parts(listed.out)
        made = cls(
            directory,
            parts,
            memory_mib=memory_mib,
            stretch=stretch,
            tick=tick,
            on_result=on_result,
        )
        try:
            packed = directory / "tool.tar"
            # The links are followed: each file comes under the name that it was asked for.
            command = "tar -ch --hard-dereference -f - -- " + " ".join(shlex.quote(path) for path in parts.names())
            shell.save(command, packed, progress=_no_more_than(TOOL_MAX_BYTES))
            made.unpack(packed)
            made.version()
        except BaseException:
            made.remove()
            raise
        return made

    @property
    def timeout_s(self) -> float:
        """What a run of it is allowed that begins now."""
        return (MIN_TIMEOUT_S + self._memory_mib / SLOWEST_MIB_PER_S) * self._stretch()

    def unpack(self, packed: Path) -> None:
        """Take the parts out of a tar; CommandFailed unless it holds these files and nothing else."""
        wanted = self._parts.names()
        try:
            with tarfile.open(packed, "r:") as tar:
                left = TOOL_MAX_BYTES
                for member in tar:
                    name = wanted.pop("/" + member.name.lstrip("/"), None)
                    left -= member.size
                    if name is None or not member.isreg() or left < 0:
                        raise CommandFailed(f"the guest sent {member.name!r}, which is not a file that was asked for")
                    self._take(tar, member, self._root / _TOOL / name)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise CommandFailed(f"what the guest sent of makedumpfile is no tar that can be read: {error}") from None
        finally:
            packed.unlink(missing_ok=True)
        if wanted:
            raise CommandFailed(f"the guest did not send {', '.join(wanted)}")

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
        source = tar.extractfile(member)
        assert source is not None  # a regular file
        with source, to.open("xb") as out:
            shutil.copyfileobj(source, out)
        to.chmod(0o755)
        self._give(to)

    def version(self) -> str:
        """What makedumpfile -v prints; CannotRun when it does not run here."""
        path = self.directory / "version"
        try:
            with path.open("w+b") as out:
                self._run("-v", stdout=out)
                out.seek(0)
                return out.read(4096).decode(errors="replace")
        except CommandFailed as error:
            raise CannotRun(str(error)) from None
        finally:
            path.unlink(missing_ok=True)

    def need_mib(self, dump: Path) -> int:
        """The room that load() and then one dump at a time take."""
        return dump.stat().st_size // MIB + self._memory_mib + 2 * HEADERS_MIB

    def load(self, dump: Path, *, flattened: bool) -> None:
        """Take the capture that everything is computed from; a flattened one is put together first."""
        capture = self._root / _CAPTURE
        if flattened:
            with dump.open("rb") as stream:
                self._run("-R", self._inside(capture), stdin=stream)
        else:
            shutil.copyfile(dump, capture)
            capture.chmod(0o600)
            self._give(capture)

    def compute(self, to: Path, *, level: int, compress: str, flattened: bool) -> None:
        """Write the dump that the level and the compression would have given; CommandFailed says what went wrong."""
        options = [*COMPRESS_FLAGS[compress].split(), "-d", str(level), "--message-level", "6"]
        capture = self._inside(self._root / _CAPTURE)
        if flattened:
            with to.open("xb") as out:
                self._run("-F", *options, capture, stdout=out)
            return
        made = self._root / _OUT
        try:
            self._run(*options, capture, self._inside(made))
            if made.is_symlink() or not made.is_file():
                raise CommandFailed(f"makedumpfile {' '.join(options)} wrote no file")
            os.chown(made, os.geteuid(), os.getegid())
            made.rename(to)
        finally:
            made.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _inside(self, path: Path) -> str:
        """A path as makedumpfile sees it."""
        return f"/{path.relative_to(self._root)}" if self._locked else str(path)

    def _give(self, path: Path) -> None:
        """Make a file one of those that makedumpfile may use."""
        if self._locked:
            os.chown(path, *_nobody())

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        tool = self._root / _TOOL
        # One byte for each page of the guest and some more; what runs away must not fill the disk.
        file_bytes = (self._memory_mib + HEADERS_MIB) * MIB
        command = [
            "setpriv", "--no-new-privs",
            "prlimit", "--core=0", "--nofile=64",
            f"--fsize={file_bytes}", f"--as={ADDRESS_SPACE_BYTES}", f"--cpu={int(self.timeout_s) + 1}",
        ]  # fmt: skip
        if self._locked:
            uid, gid = _nobody()
            command = [
                "unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child",
                *command,
                "chroot", f"--userspec={uid}:{gid}", "--groups=", str(self._root),
            ]  # fmt: skip
        loader = tool / PurePosixPath(self._parts.loader).name
        program = [self._inside(loader), "--library-path", self._inside(tool), self._inside(tool / "makedumpfile")]
        return [*command, *program, *arguments]

    def _run(self, *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> None:
        """Run makedumpfile; CommandFailed unless it succeeds in time."""
        line = f"makedumpfile {' '.join(arguments)}"
        said_path = self.directory / "said"
        deadline = Deadline(self.timeout_s)
        try:
            with said_path.open("w+b") as said:
                status = _wait(
                    self._command(arguments), deadline, self._tick, stdin=stdin, stdout=stdout or said, stderr=said
                )
                said.seek(max(0, said.seek(0, os.SEEK_END) - 65536))
                text = said.read().decode(errors="replace").replace("\r", "\n")
        except FileNotFoundError as error:
            raise CommandFailed(f"{error.filename} is not installed here") from None
        finally:
            said_path.unlink(missing_ok=True)
        self._on_result(CommandResult(command=line, status=status, out="", err=text, took_s=deadline.took_s))
        if status == _ENDED:
            raise CommandFailed(f"{line} was not done after {deadline.timeout_s:.0f} s on this host")
        if status != 0:
            last = [told for told in text.splitlines() if told.strip()]
            why = last[-1].strip() if last else "no output"
            raise CommandFailed(f"{line} on this host ended with status {status}: {why}")


def _wait(
    command: list[str],
    deadline: Deadline,
    tick: Callable[[], None],
    *,
    stdin: IO[bytes] | None,
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> int:
    """The status of a command, which is ended at the deadline."""
    process = subprocess.Popen(
        command,
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={"PATH": _PATH, "TMPDIR": "/tmp", "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        while not deadline.passed:
            try:
                return process.wait(timeout=_TICK_S)
            except subprocess.TimeoutExpired:
                tick()
        return _ENDED
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _no_more_than(most_bytes: int) -> Callable[[int], None]:
    def look(copied: int) -> None:
        if copied > most_bytes:
            raise CommandFailed(f"the guest sends more than {most_bytes // MIB} MiB as its makedumpfile")

    return look


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return NOBODY, NOBODY
    return entry.pw_uid, entry.pw_gid
