"""Give damaged bytes to every reader of bytes that other machines, users and programs write.

    python tests/fuzz/readers.py [-n 2000] [--seed 1] [READER...]     # random damage, repeatable
    python tests/fuzz/readers.py --atheris READER -- [-max_total_time=600] [CORPUS]  # by coverage (pip install atheris)

Dumps have a script with a judge of their own, tests/fuzz/mutants.py; here they must only end in an answer. Each reader
may raise the errors that its callers turn into a sentence; any other exception, and more than 20 s, is wrong.
Exit status 1 when a reader was wrong; the bytes are then in a file whose name is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import json
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "harness"), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]


def instrumented() -> contextlib.AbstractContextManager[Any]:
    """Let atheris see the branches of the modules that are imported within the block, where it is asked for."""
    if "--atheris" not in sys.argv:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["kdump_harness"], enable_loader_override=False)


with instrumented():  # after the path above
    from kdump_harness.base import crashkernel, foreign
    from kdump_harness.base.errors import HarnessError
    from kdump_harness.diagnosis import diagnose_text
    from kdump_harness.distro import deb, family
    from kdump_harness.history.database import History
    from kdump_harness.history.importing import import_file
    from kdump_harness.images import checksums, file_access, qcow2
    from kdump_harness.kdump import capture_memory, guest_state, page_flags, reserved_memory
    from kdump_harness.redaction import texts
    from kdump_harness.schedule import running
    from kdump_harness.store import reindex
    from kdump_harness.store.intake import examine, signature
    from kdump_harness.triage import child
    from kdump_harness.triage.log import read_log
    from kdump_harness.vm.hypervisor.source_description import read_original
    from kdump_harness.vmcore import inspect, open_vmcore
    from mutants import MUTATIONS

DATA = ROOT / "tests" / "data"
SLOWEST_S = 20
SMALL_BYTES = 1 << 16
# Characters and numbers that readers of text trip over.
TOKENS = (
    b"\xb2", b"\xd9\xa3", b"9" * 5000, b"-1", b"[" * 3000, b'{"a":' * 3000, b"\0", b"\r", b"\xff\xfe", b"\xed\xa0\x80",
    b"NaN", b"1e999", b"null", b"\n" * 50, b"%s", b"{}", b"../../x", b"\x1b[2J", b"0x", b"=", b'"', b"a" * 4000,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader, sound examples of what it reads, and the errors that are answers."""

    read: Callable[[bytes, Path], object]  # the bytes, and a directory for files
    examples: Callable[[], Sequence[bytes]]
    answers: tuple[type[Exception], ...] = (HarnessError,)


def text(data: bytes) -> str:
    """Decode as the harness decodes consoles and the output of commands."""
    return data.decode("utf-8", "replace")


def in_file(data: bytes, place: Path, name: str = "given") -> Path:
    """Write the bytes into a file."""
    path = place / name
    path.write_bytes(data)
    return path


def files(*patterns: str) -> Callable[[], list[bytes]]:
    """Return the beginnings of recorded files."""
    return lambda: [path.read_bytes()[:SMALL_BYTES] for one in patterns for path in sorted(DATA.glob(one))]


def dump(data: bytes, place: Path) -> None:
    path = in_file(data, place)
    inspect(path)
    with open_vmcore(path) as vmcore:
        vmcore.dmesg()


def some_deb() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        found = []
        for suffix in ("gz", "xz"):
            control = io.BytesIO()
            with tarfile.open(fileobj=control, mode=f"w:{suffix}") as tar:
                row = b"Package: linux-image\nVersion: 1\nArchitecture: amd64\n"
                info = tarfile.TarInfo("./control")
                info.size = len(row)
                tar.addfile(info, io.BytesIO(row))
            path = Path(directory) / suffix
            with path.open("wb") as file:
                file.write(b"!<arch>\n")
                for name, content in (("debian-binary", b"2.0\n"), (f"control.tar.{suffix}", control.getvalue())):
                    deb._write_member(file, name, content)
            found.append(path.read_bytes())
        return found


def package(data: bytes, place: Path) -> None:
    path = in_file(data, place, "a.deb")
    for read in (deb.control_of, functools.partial(deb.find_text, name="boot/config", max_bytes=1 << 20)):
        with contextlib.suppress(deb.BadDebError):
            read(path)


def listing(data: bytes, _: Path) -> None:
    for form in checksums.FORMS:
        with contextlib.suppress(checksums.NoChecksum):
            checksums.find(text(data), form, "a*.qcow2", where="http://h")


def listings() -> list[bytes]:
    sha = "ab" * 32
    return [
        f"{sha}  a1.qcow2\n".encode(),
        f"SHA256 (a1.qcow2) = {sha}\n".encode(),
        json.dumps({"items": [{"spec": {"location": "a1.qcow2"}, "digest": f"sha256:{sha}"}]}).encode(),
        json.dumps([{"link": "http://h/a1.qcow2", "sha256": sha}]).encode(),
    ]


def imported(data: bytes, place: Path) -> None:
    path = place / "verdict.json"
    path.write_bytes(data)
    history = place / "history.sqlite"
    history.unlink(missing_ok=True)
    with History(history) as opened:
        import_file(opened, path)


def recorded(data: bytes, place: Path) -> None:
    path = in_file(data, place, "damaged.sqlite")
    with History(path) as opened:
        for run in opened.runs():
            opened.result(run)


@functools.cache
def history_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "history.sqlite"
        with History(path) as opened:
            import_file(opened, DATA / "verdicts" / "debian-12.json")
        return path.read_bytes()


def qcow2_bytes() -> list[bytes]:
    name, extension = b"../base.raw", b"\xe2\x79\x2a\xca\0\0\0\x05qcow2\0\0\0"
    head = b"QFI\xfb\0\0\0\x03" + (112 + len(extension)).to_bytes(8, "big") + len(name).to_bytes(4, "big")
    return [head.ljust(100, b"\0") + (104).to_bytes(4, "big") + extension + bytes(8) + name + bytes(256)]


def fleet_task(data: bytes, _: Path) -> None:
    from kdump_harness.fleet.protocol import tasks

    tasks.command_of(tasks.read_task(text(data))).build(
        tasks.TaskPaths(uri=None, state=None, evidence=Path("/e"), result=Path("/r"), scratch=Path("/s"))
    )


def fleet_tasks() -> list[bytes]:
    from kdump_harness import __version__

    row = {"kind": "drill", "arguments": ["debian-12", "--level=1"], "test": "", "sha256": "", "version": __version__,
           "vmcores": False, "evidence_mib": 5}  # fmt: skip
    return [json.dumps(row).encode()]


def fleet_result(data: bytes, _: Path) -> None:
    from kdump_harness.fleet.protocol import results

    result, _archive = results.read_result(data)
    results.verdict_of(result)


def fleet_results() -> list[bytes]:
    from kdump_harness.fleet.protocol.results import TaskResult, write_result

    verdict = json.loads((DATA / "verdicts" / "debian-12.json").read_text())
    return [write_result(TaskResult(worker="w", status=0, took_s=1.0, root="/e", verdict=verdict))]


def fleet_archive(data: bytes, place: Path) -> None:
    from kdump_harness.fleet.protocol import archive

    into = Path(tempfile.mkdtemp(dir=place))
    archive.unpack(data, into, limit_bytes=1 << 20)


def fleet_archives() -> list[bytes]:
    import zstandard

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in ("verdict.json", "a/console.log"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
    return [zstandard.compress(raw.getvalue())]


DOMAIN = b"""<domain type="kvm"><name>web</name><memory unit="KiB">1048576</memory><vcpu>2</vcpu>
<os><type arch="x86_64" machine="pc-q35-7.2">hvm</type><loader readonly="yes" type="pflash">/x</loader>
<nvram>/n</nvram></os>
<devices><disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/d"/><target dev="vda"/></disk>
<interface type="network"><mac address="52:54:00:00:00:01"/><source network="default"/></interface>
<memory model="dimm"><target><size unit="KiB">524288</size></target></memory></devices></domain>"""


def scheduled_audit(data: bytes, _: Path) -> str:
    """Read the result of a scheduled audit."""
    audit = running._checked("audit", text(data))
    return running.answers_of(audit) + running._headlines(audit)


VERDICT = files("verdicts/*.json")
AUDIT = (
    b'{"hosts": [{"host": "a", "answer": "ready", "reasons": []}, {"host": "b", "answer": "unknown", "why": "none"},'
    b' {"host": "c", "answer": "will fail", "reasons": [{"name": "loaded", "evidence": "0"}]}]}'
)
LOGS = files("consoles/*.log", "drills/*.log")

READERS = {
    "dump": Reader(read=dump, examples=files("vmcore/*.kdump", "vmcore/*.flat")),
    "console": Reader(read=lambda data, _: diagnose_text(text(data)), examples=LOGS),
    "kernel-log": Reader(read=lambda data, _: (signature.uptime_s(text(data)), read_log(text(data))), examples=LOGS),
    "redaction": Reader(read=lambda data, _: texts.redact_text(text(data)), examples=LOGS),
    "facts-of-a-dump": Reader(
        read=lambda data, _: (examine._parse(data), child._parse(data)),
        examples=lambda: [b'{"fact": "log", "value": {"traits": {}}}\n{"fact": "started"}\n'],
    ),
    "record-of-a-dump": Reader(
        read=lambda data, place: reindex._recorded(in_file(data, place, "record.json").parent, "0"),
        examples=lambda: [b'{"dump": {"id": "0", "sha256": "0"}, "traits": {"a": "b"}}'],
    ),
    "disk-image": Reader(
        read=lambda data, place: qcow2.require_named(in_file(data, place), [place]), examples=qcow2_bytes
    ),
    "given-access": Reader(
        read=lambda data, place: file_access.undo(in_file(data, place, "given-access-0.json").parent),
        examples=lambda: [b'{"changes": [{"path": "/nowhere", "device": 1}]}'],
    ),
    "package": Reader(read=package, examples=some_deb, answers=(HarnessError, deb.BadDebError)),
    "checksums": Reader(read=listing, examples=listings),
    "import": Reader(read=imported, examples=VERDICT),
    "history": Reader(read=recorded, examples=lambda: [history_bytes()]),
    "verdict-of-a-schedule": Reader(
        read=lambda data, _: running._one_line(running._checked("drill", text(data))),
        examples=VERDICT,
        answers=(ValueError,),
    ),
    "audit-of-a-schedule": Reader(read=scheduled_audit, examples=lambda: [AUDIT], answers=(ValueError,)),
    "json": Reader(
        read=lambda data, _: foreign.dump_json(foreign.parse_json(data)), examples=VERDICT, answers=(ValueError,)
    ),
    "task": Reader(read=fleet_task, examples=fleet_tasks),
    "result": Reader(read=fleet_result, examples=fleet_results),
    "archive": Reader(read=fleet_archive, examples=fleet_archives),
    "domain-xml": Reader(
        read=lambda data, _: read_original("web", text(data)),
        examples=lambda: [DOMAIN],
    ),
    "crashkernel": Reader(
        read=lambda data, _: crashkernel.reserved_mib(text(data)[:300], 4096),
        examples=lambda: [b"1G-4G:192M,4G-64G:256M,64G-:512M", b"256M,high", b"512M@64M", b"0x10000000"],
        answers=(HarnessError, crashkernel.WordRefused),
    ),
    "os-release": Reader(
        read=lambda data, _: guest_state.parse_os_release(text(data)),
        examples=lambda: [b'ID=debian\nVERSION_ID="12"\nID_LIKE="a b"\n'],
    ),
    "configuration": Reader(
        read=lambda data, _: configurations(text(data)),
        examples=lambda: [
            b"core_collector makedumpfile -l -d 31\npath /x\n",
            b'MAKEDUMP_ARGS="-c -d 31"\n',
            b'KDUMP_DUMPLEVEL="31"\nKDUMP_DUMPFORMAT="lzo"\n',
        ],
    ),
    "iomem": Reader(
        read=lambda data, _: reserved_memory.parse(text(data), text(data)[:80], text(data)[:20]),
        examples=lambda: [b"00100000-3fffffff : System RAM\n  2b000000-3affffff : Crash kernel\n"],
    ),
    "page-flags": Reader(
        read=lambda data, _: page_flags.from_flags(data, page_frames_max=1 << 16),
        examples=lambda: [gzip.compress(bytes(8 * 4096))],
        answers=(ValueError,),
    ),
    "capture-memory": Reader(
        read=lambda data, _: (capture_memory.read(text(data)), capture_memory.read_claim(text(data))), examples=LOGS
    ),
}


def configurations(given: str) -> None:
    """Read a configuration as each family does."""
    for one in family.load_families().values():
        with contextlib.suppress(HarnessError, ValueError):
            one.config.core_collector(given)
            one.config.directory(given)


class TookLongError(BaseException):
    """A reader took too long."""


def too_long(*_: object) -> None:
    """The clock ran out."""
    raise TookLongError


def damaged(example: bytes, dice: random.Random) -> bytes:
    """Return the example with some damage."""
    data = bytearray(example)
    for _ in range(dice.randint(1, 4)):
        if len(data) < 32 or dice.random() < 0.4:
            at = dice.randrange(len(data) + 1)
            data[at : at + dice.choice((0, 0, 1, 8))] = dice.choice(TOKENS)
        else:
            dice.choice(MUTATIONS)(data, dice)
    return bytes(data)


def error_of(reader: Reader, data: bytes) -> str | None:
    """Return the error of a reader with some bytes, or None for an answer."""
    with tempfile.TemporaryDirectory() as place:
        signal.alarm(SLOWEST_S)
        try:
            reader.read(data, Path(place))
        except reader.answers:
            return None
        except TookLongError:
            return f"took more than {SLOWEST_S} s"
        except Exception:
            return traceback.format_exc()
        finally:
            signal.alarm(0)
    return None


def fuzz(names: Sequence[str], count: int, seed: int, *, report: Callable[[str], Any]) -> Counter[str]:
    """Damage the examples of each reader so often; return the number of errors by reader."""
    signal.signal(signal.SIGALRM, too_long)
    wrong: Counter[str] = Counter()
    for name in names:
        reader, dice, began_s = READERS[name], random.Random(f"{seed} {name}"), time.process_time()
        examples = list(reader.examples())
        for number in range(count):
            data = examples[number] if number < len(examples) else damaged(dice.choice(examples), dice)
            if error := error_of(reader, data):
                wrong[name] += 1
                kept = Path(tempfile.gettempdir()) / f"kdump-fuzz-{name}-{seed}-{number}"
                kept.write_bytes(data)
                report(f"{name}, input {number} ({kept}): {error}")
        report(f"{name}: {count} inputs, {wrong[name]} wrong, {time.process_time() - began_s:.1f} s of processor time")
    return wrong


def guided(name: str, arguments: Sequence[str]) -> None:
    """Let atheris look for an error of one reader; it ends this process."""
    import atheris

    reader = READERS[name]
    with tempfile.TemporaryDirectory() as directory:
        for number, example in enumerate(reader.examples()):
            (Path(directory) / str(number)).write_bytes(example)
        place = Path(tempfile.mkdtemp())

        def one(data: bytes) -> None:
            with contextlib.suppress(*reader.answers):
                reader.read(data, place)

        atheris.Setup([sys.argv[0], *arguments, directory], one)
        atheris.Fuzz()


def main() -> int:
    """Damage, read, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"one of {', '.join(READERS)} (default: all)")
    parser.add_argument("-n", "--inputs", type=int, default=2000, help="inputs for each reader (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", metavar="READER", choices=READERS)
    options = parser.parse_args()
    if options.atheris:
        guided(options.atheris, options.readers)
        return 0
    if unknown := sorted(set(options.readers) - set(READERS)):
        parser.error(f"{unknown[0]} is not a reader")
    wrong = fuzz(options.readers or list(READERS), options.inputs, options.seed, report=print)
    print(f"{wrong.total()} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
