"""Filtering of a complete dump on this host with the guest's own makedumpfile.

A newer makedumpfile would not have the faults of the guest's. The program and its libraries come from an untrusted
guest, so they run as an unprivileged user, confined to their directory, without network, and within limits. (For an
ordinary user that is not possible: they run as that user, with the limits and without new privileges.)
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
from ...vm.shells.shell import CommandResult

TOOL_MAX_BYTES = 256 * MIB  # makedumpfile with its libraries is 7 MiB
ADDRESS_SPACE_BYTES = 4096 * MIB  # makedumpfile keeps bitmaps in memory, but not pages
MIN_TIMEOUT_S = 60.0
SLOWEST_MIB_PER_S = 5.0  # zlib on an old processor is five times faster
HEADERS_MIB = 64  # largest excess of a dump over its pages
NOBODY = 65534
_TICK_S = 0.5
_ENDED = -1000  # not a status that a process can have
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# makedumpfile keeps temporary files in /tmp whatever TMPDIR says (its open_dump_bitmap() and copy_vmcoreinfo()).
_TMP = "tmp"
_TOOL = "tool"
_CAPTURE = "capture"
_OUT = "out"

_LDD_LINE = re.compile(r"\s*(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)")


class GuestShell(Protocol):
    """Part of a guest's Shell that the refilter needs."""

    def run(self, command: str, *arguments: object, check: bool = True) -> CommandResult: ...

    def save(self, command: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int: ...


class CannotRun(HarnessError):
    """The guest's makedumpfile does not run on this host; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Files of makedumpfile in the guest."""

    tool: str
    loader: str
    libraries: Mapping[str, str]  # paths by the name that the loader searches

    def names(self) -> dict[str, str]:
        """Return the name of the copy on this host by the path in the guest."""
        found = {path: name for name, path in self.libraries.items()}
        return found | {self.loader: PurePosixPath(self.loader).name, self.tool: "makedumpfile"}


def find_parts(listing: str) -> Parts:
    """Return the parts from the path of the program and the output of ldd. Raises CannotRun if a part is missing."""
    tool, _, rest = listing.strip().partition("\n")
    loader = None
    libraries = {}
    for line in rest.splitlines():
        if "not found" in line:
            raise CannotRun(f"a library of the guest's makedumpfile is missing there ({line.strip()})")
        if match := _LDD_LINE.fullmatch(line):
            name, path = match["name"], match["path"]
            if name is None or "/" in name:  # only the loader is listed by its path
                loader = path
            else:
                libraries[name] = path
    if not tool.startswith("/") or loader is None:
        raise CannotRun("the guest's ldd does not list the files of makedumpfile")
    return Parts(tool=tool, loader=loader, libraries=libraries)


class Refilter:
    """The guest's makedumpfile on this host and its input dump, in one directory."""

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
        """Create the directory; the guest's MEMORY_MIB limits the size of a dump and the allowed time."""
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
        """Copy makedumpfile from a running guest. Raises CannotRun if it does not run on this host."""
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
            # tar follows links, so each file arrives under its requested name.
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
        """Time limit of a run of makedumpfile that begins now."""
        return (MIN_TIMEOUT_S + self._memory_mib / SLOWEST_MIB_PER_S) * self._stretch()

    def unpack(self, packed: Path) -> None:
        """Extract the parts from a tar. Raises CommandFailed unless it holds these files and nothing else."""
        wanted = self._parts.names()
        try:
            with tarfile.open(packed, "r:") as tar:
                left = TOOL_MAX_BYTES
                for member in tar:
                    name = wanted.pop("/" + member.name.lstrip("/"), None)
                    left -= member.size
                    if name is None or not member.isreg() or left < 0:
                        raise CommandFailed(f"the guest sent {member.name!r}, which was not requested")
                    self._take(tar, member, self._root / _TOOL / name)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise CommandFailed(f"the guest's archive of makedumpfile is not a readable tar: {error}") from None
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
        """Return the output of makedumpfile -v. Raises CannotRun if it does not run on this host."""
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
        """Return the disk space for load() and one computed dump at a time."""
        return dump.stat().st_size // MIB + self._memory_mib + 2 * HEADERS_MIB

    def load(self, dump: Path, *, flattened: bool) -> None:
        """Load the dump that all others are computed from; a flattened one is rearranged first."""
        capture = self._root / _CAPTURE
        if flattened:
            with dump.open("rb") as stream:
                self._run("-R", self._inside(capture), stdin=stream)
        else:
            shutil.copyfile(dump, capture)
            capture.chmod(0o600)
            self._give(capture)

    def compute(self, to: Path, *, level: int, compress: str, flattened: bool) -> None:
        """Write the dump for this level and compression. Raises CommandFailed if makedumpfile fails."""
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
        """Return a path as makedumpfile sees it."""
        return f"/{path.relative_to(self._root)}" if self._locked else str(path)

    def _give(self, path: Path) -> None:
        """Allow makedumpfile to use a file."""
        if self._locked:
            os.chown(path, *_nobody())

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        tool = self._root / _TOOL
        # A runaway makedumpfile must not fill the disk.
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
        """Run makedumpfile. Raises CommandFailed unless it succeeds in time."""
        line = f"makedumpfile {' '.join(arguments)}"
        output_path = self.directory / "output"
        deadline = Deadline(self.timeout_s)
        try:
            with output_path.open("w+b") as output:
                status = _wait(
                    self._command(arguments), deadline, self._tick, stdin=stdin, stdout=stdout or output, stderr=output
                )
                output.seek(max(0, output.seek(0, os.SEEK_END) - 65536))
                text = output.read().decode(errors="replace").replace("\r", "\n")
        except FileNotFoundError as error:
            raise CommandFailed(f"{error.filename} is not installed on this host") from None
        finally:
            output_path.unlink(missing_ok=True)
        self._on_result(CommandResult(command=line, status=status, out="", err=text, took_s=deadline.took_s))
        if status == _ENDED:
            raise CommandFailed(f"{line} did not finish within {deadline.timeout_s:.0f} s on this host")
        if status != 0:
            last = [row for row in text.splitlines() if row.strip()]
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
    """Return the exit status of a command, which is killed at the deadline."""
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
