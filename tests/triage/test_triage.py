"""Triage of a dump: by the kernel log, by drgn in a process that may die, and the choice of debug info."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import triage as triage_package
from kdump_harness.__main__ import main
from kdump_harness.base.clock import poll
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.triage import (
    CrashedTask,
    Module,
    NoDebugInfo,
    child,
    debian,
    debuginfo,
    debuginfod,
    triage,
    worker,
)
from kdump_harness.triage.debuginfo import Wanted
from kdump_harness.triage.image import read_image
from kdump_harness.triage.log import LogFacts, read_log
from kdump_harness.triage.taint import explain
from kdump_harness.vmcore import Unreadable, open_vmcore
from vmcore_factory import RELEASE, Kdump

LOGS = Path(__file__).parents[1] / "data" / "vmcore" / "logs"
BUILD_ID = "5a" * 20  # of the factory's dumps
QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate each test from the debug info, state and servers of this host."""
    for name in ("DEBUGINFOD_URLS", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "client"))
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(debuginfo, "_DEBUG_ROOT", tmp_path / "usr-lib-debug")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump().build())
    return path


def vmlinux(build_id: str | None = BUILD_ID, *, dwarf: bool = True, banner: str | None = None) -> bytes:
    """Return a file that claims to be a kernel with debug info."""
    sections = [("", 0, b""), (".rodata", 1, f"junk\0{banner}\n\0".encode() if banner else b"")]
    if build_id is not None:
        sections.append((".notes", 7, struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes.fromhex(build_id)))
    if dwarf:
        sections.append((".debug_info", 1, b"this is not DWARF"))
    names = b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    sections.append((".shstrtab", 3, names))
    body, headers = b"", b""
    for name, kind, data in sections:
        at = names.index(name.encode() + b"\0")
        headers += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, 64 + len(body), len(data), 0, 0, 4, 0)
        body += data + bytes(-len(data) % 4)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    count = len(sections)
    ehdr = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(body), 0, 64, 56, 0, 64, count, count - 1)
    return ehdr + body + headers


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- the kernel log


@pytest.mark.parametrize(
    ("name", "cpu", "flags", "frames"),
    [("5.10.0", 1, "E", 10), ("6.1.0", 0, "", 10), ("6.12.107", 1, "", 10), ("7.2.13", 0, "", 11)],
)
def test_the_log_of_a_real_kernel_describes_the_crash(name: str, cpu: int, flags: str, frames: int) -> None:
    found = triage(LOGS / f"{name}.kdump")
    assert found.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert found.task == CrashedTask(comm="init", pid=1, cpu=cpu)
    assert found.taint_flags == flags
    assert [taint.name for taint in found.taints] == (["UNSIGNED_MODULE"] if flags else [])
    assert len(found.stack) == frames
    assert any(frame.startswith("sysrq_handle_crash+0x1") for frame in found.stack)
    assert found.stack[-1].startswith("entry_SYSCALL_64_after_hwframe+")
    assert any(line.startswith("? ") for line in found.call_trace)
    assert found.rip == "RIP: 0033:0x47b7a0"
    assert found.source.startswith(f"kernel log only: no debug info for {found.kernel} (build id ")


OOPS = """\
[   12.000000] ------------[ cut here ]------------
[   12.000001] WARNING: CPU: 0 PID: 77 at kernel/foo.c:12 harmless+0x1/0x2
[   12.000002] CPU: 0 PID: 77 Comm: earlier Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
[   12.000003] Call Trace:
[   12.000004]  harmless+0x1/0x2
[   12.000005] ---[ end trace 0000000000000000 ]---
[   42.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[   42.000001] #PF: supervisor write access in kernel mode
[   42.000002] PGD 0 P4D 0
[   42.000003] Oops: 0002 [#1] PREEMPT SMP NOPTI
[   42.000004] CPU: 3 PID: 812 Comm: Web Content Kdump: loaded Tainted: G        W  OE      6.1.0-56-amd64 #1  Debian
[   42.000005] Hardware name: QEMU Standard PC
[   42.000006] RIP: 0010:broken_write+0x5/0x10 [broken]
[   42.000007] Code: 00 00
[   42.000008] RSP: 0018:ffffb0d3c0b6fe38 EFLAGS: 00010246
[   42.000009] Call Trace:
[   42.000010]  <TASK>
[   42.000011]  ? __die_body.cold+0x1a/0x1f
[   42.000012]  broken_open+0x21/0x30 [broken 0123456789abcdef0123456789abcdef01234567]
[   42.000013]  0xffffffffc0ffee00
[   42.000014]  vfs_write+0xc7/0x3f0
[   42.000015] RIP: 0033:0x7f8dfe77d350
[   42.000016] RAX: ffffffffffffffda RBX: 0000000000000002 RCX: 00007f8dfe77d350
[   42.000017]  </TASK>
[   42.000018] Modules linked in: broken(OE+) nfsd lockd
[   42.000019] virtio_net virtio-blk(E) [last unloaded: scsi_debug]
[   42.000020] CR2: 0000000000000010
[   42.000021] ---[ end trace 0000000000000000 ]---
"""


def test_the_fatal_one_of_several_reports_counts() -> None:
    found = read_log(OOPS)
    assert found.panic == "BUG: kernel NULL pointer dereference, address: 0000000000000010"
    assert found.task == CrashedTask(comm="Web Content", pid=812, cpu=3)
    assert found.taint_flags == "WOE"
    assert found.rip == "RIP: 0010:broken_write+0x5/0x10 [broken]"
    assert found.stack == ("broken_open+0x21/0x30 [broken]", "0xffffffffc0ffee00", "vfs_write+0xc7/0x3f0")
    assert found.modules == tuple(
        Module(name=name, taints=taints)
        for name, taints in (("broken", "OE"), ("nfsd", ""), ("lockd", ""), ("virtio_net", ""), ("virtio-blk", "E"))
    )


def test_a_panic_behind_an_oops_keeps_the_report_and_names_the_reason() -> None:
    found = read_log(OOPS + "[   43.000000] Kernel panic - not syncing: Fatal exception\n")
    assert found.panic == "Kernel panic - not syncing: Fatal exception"
    assert found.reason == "BUG: kernel NULL pointer dereference, address: 0000000000000010"
    assert found.task is not None
    assert found.task.pid == 812


@pytest.mark.parametrize(
    ("line", "task", "flags"),
    [
        ("[  145.4] [    T648] CPU: 1 UID: 0 PID: 648 Comm: bash Not tainted 6.12.117+deb13-amd64 #1", "bash", ""),
        ("[  145.4][   C1] CPU: 1 PID: 648 Comm: a b (c) Tainted: P           O  5.4.0-1 #2 SMP", "a b (c)", "PO"),
        ("CPU: 1 PID: 648 Comm: bash Kdump: loaded Tainted: G S   U   4.18.0-553.el8.x86_64 #1", "bash", "SU"),
        (
            "[1.0] CPU: 1 UID: 0 PID: 648 Comm: kworker/u8:1 Not tainted 7.2.13+deb14 #1 PREEMPT(lazy)",
            "kworker/u8:1",
            "",
        ),
    ],
)
def test_the_forms_of_the_line_that_names_the_task(line: str, task: str, flags: str) -> None:
    found = read_log(line.replace("[  145.4]", "[  145.411139]").replace("[1.0]", "[    1.000000]") + "\n")
    assert found.task == CrashedTask(comm=task, pid=648, cpu=1)
    assert found.taint_flags == flags


def test_the_trace_of_an_old_kernel_has_addresses_in_front() -> None:
    log = (
        "[1.0] CPU: 0 PID: 5 Comm: bash Not tainted 3.10.0-1160.el7.x86_64 #1\n[1.0] Call Trace:\n"
        "[1.0]  [<ffffffff81381e2c>] sysrq_handle_crash+0x16/0x20\n[1.0]  [<ffffffff8138268b>] ? guess+0x1/0x2\n"
    )
    found = read_log(log.replace("[1.0]", "[    1.000000]"))
    assert found.stack == ("sysrq_handle_crash+0x16/0x20",)


def test_a_log_without_a_crash_yields_nothing() -> None:
    assert read_log("[    0.000000] Linux version 6.1.0\n") == read_log("")


def test_a_line_without_end_is_read_in_no_time() -> None:
    started_s = time.process_time()
    read_log("CPU: 0 PID: 1 Comm: " + " Tainted: A A" * 100_000)
    assert time.process_time() - started_s < 2


def test_letters_are_explained_and_unknown_ones_are_said_to_be() -> None:
    assert [taint.name for taint in explain("G   OE Z")] == ["OOT_MODULE", "UNSIGNED_MODULE", "?"]
    assert len({taint.letter for taint in explain("PFSRMBUDAWCIOELKXTNJ") if taint.name != "?"}) == 20


# ---------------------------------------------------------------- the process that may die


def script(text: str) -> list[str]:
    return [sys.executable, "-c", "import json, os, signal, sys, time\n" + text]


def ask(text: str, tmp_path: Path, **options: Any) -> child.Answer:
    return child.ask(put(tmp_path / "vmlinux", b""), [tmp_path], progress=QUIET, command=script(text), **options)


@pytest.mark.parametrize("name", ["SIGBUS", "SIGSEGV", "SIGABRT"])
def test_facts_reported_before_a_process_died_are_kept(name: str, tmp_path: Path) -> None:
    told = 'print(json.dumps({"fact": "task", "value": {"comm": "bash", "pid": 7, "cpu": 0}}), flush=True)\n'
    answer = ask(told + f'sys.stdout.write("{{\\"fact\\": ")\nos.kill(os.getpid(), signal.{name})', tmp_path)
    assert answer.facts == {"task": {"comm": "bash", "pid": 7, "cpu": 0}}
    assert answer.troubles == [f"drgn died of {name}"]


def test_a_process_that_hangs_is_stopped_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"

    class Timed(subprocess.Popen[bytes]):
        def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
            """Let the limit pass as soon as the helper is there."""
            if timeout is not None:
                poll("the helper", lambda: pid.exists() or None, timeout_s=60.0, every_s=0.01)
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().communicate(input)

    monkeypatch.setattr(subprocess, "Popen", Timed)
    started_s = time.monotonic()
    hang = 'import subprocess\np = subprocess.Popen(["sleep", "600"])\n'
    hang += f'open({str(pid)!r} + "-new", "w").write(str(p.pid))\nos.rename({str(pid)!r} + "-new", {str(pid)!r})\n'
    answer = ask(hang + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)", tmp_path, limit_s=2)
    assert answer.troubles == ["drgn took more than 2 s and was stopped"]
    assert time.monotonic() - started_s < 500  # the helper keeps the pipe open for 600 s, unless it is ended
    status = Path("/proc", pid.read_text(), "stat")

    def ended() -> bool | None:  # a busy host needs a moment to end what was killed
        return True if not status.exists() or status.read_text().split()[2] in "ZX" else None

    assert poll("its helper to end", ended, timeout_s=60.0, every_s=0.05)


def test_a_process_that_computes_for_ever_is_stopped_by_the_kernel(tmp_path: Path) -> None:
    """The kernel sends SIGXCPU after the seconds of the limit, which the test does not wait for."""
    limits = (
        "import resource\nfrom kdump_harness.triage.worker import limit\nlimit(1 << 40, 20)\n"
        'print(json.dumps({"fact": "limit", "value": resource.getrlimit(resource.RLIMIT_CPU)}), flush=True)\n'
        "os.kill(os.getpid(), signal.SIGXCPU)"
    )
    answer = ask(limits, tmp_path, limit_s=20)
    assert answer.facts == {"limit": [20, 21]}
    assert answer.troubles == ["drgn used more than 20 s of the processor and was stopped"]


def test_a_process_that_eats_memory_runs_into_its_limit(tmp_path: Path) -> None:
    greedy = "from kdump_harness.triage import worker\nworker.limit(int(sys.argv[1]), 20)\n"
    answer = ask(greedy + 'worker._report("stack", lambda: bytes(1 << 32))', tmp_path, memory_bytes=1 << 30)
    assert answer.troubles == ["stack: it needs more memory than this process may have"]


def test_a_traceback_becomes_its_last_line(tmp_path: Path) -> None:
    answer = ask('raise SystemError("out of luck")', tmp_path)
    assert answer.troubles == ["drgn ended with status 1: SystemError: out of luck"]


def test_nonsense_instead_of_facts_is_ignored(tmp_path: Path) -> None:
    answer = ask('print("[]\\n7\\n{}\\nnull\\nhello")', tmp_path)
    assert (answer.facts, answer.troubles) == ({}, [])


def test_a_drgn_that_fails_falls_back_to_the_log(tmp_path: Path) -> None:
    path = LOGS / "6.1.0.kdump"
    with open_vmcore(path) as vmcore:
        build_id = vmcore.vmcoreinfo["BUILD-ID"]
    found = triage(path, debuginfo=put(tmp_path / "vmlinux", vmlinux(build_id)))
    assert found.source.startswith("kernel log only: ")
    assert str(tmp_path / "vmlinux") in found.source
    assert "Traceback" not in found.source
    assert found.task == CrashedTask(comm="init", pid=1, cpu=0)


def combine(monkeypatch: pytest.MonkeyPatch, answer: child.Answer, tmp_path: Path) -> triage_package.Triage:
    path = LOGS / "6.1.0.kdump"
    monkeypatch.setattr(triage_package, "find", lambda *_, **__: tmp_path / "vmlinux")
    monkeypatch.setattr(child, "ask", lambda *_, **__: answer)
    return triage(path)


def test_facts_from_drgn_take_precedence_over_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stack = [f"frame{number}" for number in range(12)]
    told = {
        "taint": "OE",
        "task": {"comm": "bash", "pid": 7, "cpu": 1},
        "stack": stack,
        "modules": [{"name": "broken", "taints": "OE"}, {"name": "virtio", "taints": ""}],
    }
    found = combine(monkeypatch, child.Answer(told, []), tmp_path)
    assert found.source == f"drgn with {tmp_path}/vmlinux"
    assert found.task == CrashedTask(comm="bash", pid=7, cpu=1)
    assert found.stack == tuple(stack)
    assert [module.name for module in found.tainting_modules] == ["broken"]
    assert [taint.letter for taint in found.taints] == ["O", "E"]
    assert found.remarks == ()


def test_facts_that_drgn_lacks_come_from_the_log_with_a_remark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = child.Answer({"task": {"comm": "bash", "pid": 7, "cpu": 1}}, ["drgn died of SIGBUS"])
    found = combine(monkeypatch, answer, tmp_path)
    assert found.stack[2] == "sysrq_handle_crash+0x16/0x20"
    assert found.remarks == ("the stack is the kernel log's", "drgn died of SIGBUS")


def test_a_running_kernel_has_no_crashed_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host can dump a guest that did not crash; drgn and the kernel log are read all the same."""

    def running() -> None:
        raise LookupError("panic_cpu is not set")

    assert worker._crashed_thread(SimpleNamespace(crashed_thread=running)) is None
    fact = json.loads(capsys.readouterr().out)
    found = combine(monkeypatch, child.Answer({"taint": "", fact["fact"]: fact["value"]}, []), tmp_path)
    assert found.source == f"drgn with {tmp_path}/vmlinux"
    assert found.taint_flags == ""
    assert found.remarks == ("no CPU had panicked when the dump was taken",)


def test_an_empty_log_is_not_an_unreadable_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(triage_package, "read_log", lambda _: LogFacts())
    found = combine(monkeypatch, child.Answer({}, ["drgn died of SIGBUS"]), tmp_path)
    assert found.source.startswith("kernel log only: drgn died of SIGBUS")


def test_a_dump_without_a_log_says_that_too(dump: Path) -> None:
    found = triage(dump)
    assert found.source.startswith(f"neither drgn nor kernel log: no debug info for {RELEASE} (build id 5a5a5a5a5a5a)")
    assert found.remarks[0].startswith("the kernel log cannot be read: ")
    assert json.dumps(found.to_json())


def test_a_file_that_is_not_a_dump_is_not_triaged(tmp_path: Path) -> None:
    with pytest.raises(Unreadable):
        triage(put(tmp_path / "vmcore", b"hello"))


# ---------------------------------------------------------------- whose debug info


def wanted(**changes: str) -> Wanted:
    values = {"release": RELEASE, "version": "#1 SMP test", "machine": "x86_64", "build_id": BUILD_ID, **changes}
    return Wanted(**values)


def find(given: Path | None = None, *, package: bool = False, **changes: str) -> Path:
    return debuginfo.find(wanted(**changes), given=given, package=package, state=None, progress=QUIET)


def test_a_vmlinux_of_another_build_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "vmlinux", vmlinux("77" * 20))
    with pytest.raises(UsageError, match="has the build id 777777777777, the dump's kernel has 5a5a5a5a5a5a"):
        find(path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (vmlinux(dwarf=False), "has no debug info"),
        (b"\xfd7zXZ\0", "is not a 64-bit ELF file"),
        (vmlinux()[:200], "is a damaged ELF file: the section headers"),
        (vmlinux(None), "neither its build id nor its release shows"),
    ],
)
def test_unusable_debug_info_is_refused_in_a_sentence(data: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        find(put(tmp_path / "vmlinux", data))


def test_a_hypervisors_dump_without_vmcoreinfo_says_nothing_of_the_debug_info(tmp_path: Path) -> None:
    path = put(tmp_path / "vmcore", Kdump(qemu=True, vmcoreinfo=b"").build())
    found = triage(path, debuginfo=put(tmp_path / "vmlinux", vmlinux()))
    assert found.source.startswith("neither drgn nor kernel log: no VMCOREINFO: the guest had not handed it to QEMU")


@pytest.mark.parametrize(
    ("banner", "fits"),
    [
        (f"Linux version {RELEASE} (user@host) (gcc) #1 SMP test", True),
        (f"Linux version {RELEASE} (user@host) (gcc) #2 SMP test", False),
        (f"Linux version {RELEASE}-other (user@host) (gcc) #1 SMP test", False),
    ],
)
def test_without_a_build_id_the_banner_decides(banner: str, fits: bool, tmp_path: Path) -> None:
    image = read_image(put(tmp_path / "vmlinux", vmlinux(None, banner=banner)))
    assert (wanted(build_id="").mismatch(image) is None) is fits


@pytest.mark.parametrize(
    "place",
    [
        "vmlinux",
        f"vmlinux-{RELEASE}",
        f"boot/vmlinux-{RELEASE}",
        f"usr/lib/debug/boot/vmlinux-{RELEASE}.debug",
        f"lib/modules/{RELEASE}/vmlinux",
        f"usr/lib/debug/.build-id/{BUILD_ID[:2]}/{BUILD_ID[2:]}.debug",
    ],
)
def test_a_directory_is_looked_through(place: str, tmp_path: Path) -> None:
    path = put(tmp_path / "given" / place, vmlinux())
    assert find(tmp_path / "given") == path


def test_the_usual_places_need_no_option(tmp_path: Path) -> None:
    put(tmp_path / "usr-lib-debug" / "boot" / f"vmlinux-{RELEASE}", vmlinux("77" * 20))
    path = put(tmp_path / "client" / BUILD_ID / "debuginfo", vmlinux())
    assert find() == path


def test_missing_debug_info_is_reported_with_the_searched_places_and_a_remedy(tmp_path: Path) -> None:
    near = put(tmp_path / "given" / "vmlinux", vmlinux("77" * 20))
    with pytest.raises(NoDebugInfo) as error:
        find(tmp_path / "given")
    text = str(error.value)
    assert f"{near} is not the kernel of the dump" in text
    assert "DEBUGINFOD_URLS is not set" in text
    assert "--debuginfo PATH" in text
    assert "--debuginfo-package" in text


def test_a_release_that_is_a_path_leads_nowhere(tmp_path: Path) -> None:
    put(tmp_path / "vmcore", Kdump().build().replace(RELEASE.encode(), b"../../../a"))
    with open_vmcore(tmp_path / "vmcore") as vmcore:
        asked = Wanted.of(vmcore)
    assert asked.release == ""
    assert all(".." not in str(path) for path in debuginfo.usual_places(asked))


# ---------------------------------------------------------------- debuginfod


class Server:
    """A debuginfod with the behaviour that a test chooses."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.asked: list[str] = []
        self.url = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    site = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            body = site.files.get(self.path)
            if body is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
            return None

        def log_message(self, *args: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("DEBUGINFOD_URLS", f"ima:enforcing file:///nowhere {site.url}/")
    monkeypatch.setattr(debuginfod, "make_client", quick(debuginfod.make_client))
    yield site
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def quick(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: make(**{**options, "pause_s": 0.0})


PATH = f"/buildid/{BUILD_ID}/debuginfo"


def test_debuginfod_is_asked_once(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = vmlinux()
    server.cuts = [100]  # the first transfer breaks off
    path = find()
    assert path == tmp_path / "state" / "debuginfo" / BUILD_ID / "vmlinux"
    assert path.read_bytes() == vmlinux()
    assert server.asked == [PATH, PATH]
    assert find() == path
    assert server.asked == [PATH, PATH]


def test_debuginfod_that_has_nothing_is_part_of_the_sentence(server: Server, dump: Path) -> None:
    found = triage(dump)
    assert f"debuginfod: {server.url.removeprefix('http://')} has none" in found.source


def test_debuginfod_that_gives_another_kernel_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.files[PATH] = vmlinux("77" * 20)
    with pytest.raises(NoDebugInfo, match=f"{server.url}{PATH} cannot be used: .*build id 777777777777"):
        find()
    assert not [path for path in (tmp_path / "state" / "debuginfo").iterdir() if path.suffix != ".lock"]


def test_debuginfod_needs_a_build_id(server: Server) -> None:
    with pytest.raises(NoDebugInfo, match="cannot be asked, since the dump names no build id"):
        find(build_id="")
    assert server.asked == []


# ---------------------------------------------------------------- Debian's package


DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"


def test_the_package_is_the_one_that_the_kernel_was_built_with() -> None:
    package = debian.package_of("6.1.0-56-cloud-amd64", DEBIAN, "x86_64")
    assert str(package) == "linux-image-6.1.0-56-cloud-amd64-dbg:amd64=6.1.192-2"
    with pytest.raises(HostError, match=r"for Debian's kernels, this one is 5\.14\.0"):
        debian.package_of("5.14.0-503.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC Tue", "x86_64")


def test_the_release_in_the_name_is_tried_first() -> None:
    package = debian.package_of("6.12.117+deb13-amd64", DEBIAN, "x86_64")
    assert next(debian._suites(package, "")).name == "debian-13"
    assert [row.name for row in debian._suites(package, "sid")][:2] == ["debian-sid", "debian-13"]


APT = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
*--print-uris*) echo "'http://mirror.invalid/x.deb' x.deb $(stat -c %s {deb}) SHA256:00" ;;
*download*) cp {deb} . ;;
esac
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake apt-get with one package; it logs its arguments to a file."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    tree = tmp_path / "tree"
    put(tree / "usr/lib/debug/boot" / f"vmlinux-{RELEASE}", vmlinux())
    put(tree / "usr/lib/debug/boot" / f"System.map-{RELEASE}", b"not this one")
    put(tree / "DEBIAN/control", b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n")
    (tree / "DEBIAN").chmod(0o755)  # dpkg-deb refuses 0700
    subprocess.run(["dpkg-deb", "-Zgzip", "-b", tree, tmp_path / "x.deb"], check=True, capture_output=True)
    log = tmp_path / "asked"
    tool = put(tmp_path / "bin" / "apt-get", APT.format(log=log, deb=tmp_path / "x.deb").encode())
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return log


def test_vmlinux_comes_out_of_the_package_and_nothing_else(apt: Path, tmp_path: Path) -> None:
    path = find(package=True, version=DEBIAN)
    assert path.read_bytes() == vmlinux()
    assert sorted(each.name for each in path.parent.iterdir()) == ["meta.json", "vmlinux"]
    assert "linux-image-6.1.0-test-dbg:amd64=6.1.192-2" in apt.read_text()
    apt.unlink()
    assert find(package=True, version=DEBIAN) == path
    assert not apt.exists()  # the second time it was in the cache


def test_a_package_that_cannot_fit_is_not_begun(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoDebugInfo, match=r"for linux-image-6.1.0-test-dbg .*: 10\d\d MiB needed, 10 MiB free"):
        find(package=True, version=DEBIAN)


# ---------------------------------------------------------------- the command line


def test_inspect_prints_text_and_json(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(LOGS / "5.10.0.kdump")
    assert main(["inspect", path, "--quick", "--triage", "--json", str(tmp_path / "out.json")]) == 0
    out, _ = capfd.readouterr()
    assert "triage: kernel log only: no debug info for 5.10.0" in out
    assert "crashed task  init, PID 1, on CPU 1" in out
    assert "E (UNSIGNED_MODULE): an unsigned module was loaded" in out
    assert "#2 sysrq_handle_crash+0x16/0x20" in out
    crash = json.loads((tmp_path / "out.json").read_text())["triage"]
    assert crash["task"] == {"comm": "init", "pid": 1, "cpu": 1}
    assert crash["taints"][0]["letter"] == "E"


def test_inspect_without_triage_has_none(capfd: pytest.CaptureFixture[str], dump: Path) -> None:
    main(["inspect", str(dump), "--quick", "--json", "-"])
    assert "triage" not in json.loads(capfd.readouterr().out)


def test_inspect_refuses_the_wrong_debug_info(capfd: pytest.CaptureFixture[str], dump: Path, tmp_path: Path) -> None:
    other = put(tmp_path / "vmlinux", vmlinux("77" * 20))
    for given, sentence in (
        (other, "is not the kernel of the dump"),
        (tmp_path / "nowhere", "the file or directory with debug info does not exist"),
    ):
        assert main(["inspect", str(dump), "--quick", "--debuginfo", str(given)]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert sentence in err
        assert err.count("\n") == 1


def test_inspect_has_no_triage_of_a_file_that_is_not_a_dump(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = put(tmp_path / "vmcore", b"hello")
    assert main(["inspect", str(path), "--triage", "--json", "-"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["triage"] is None
    assert err.startswith("kdump-harness: cannot triage the crash: ")


def test_drgn_is_imported_by_functions_of_the_worker_only() -> None:
    imports = {
        (path.name, line[:4].isspace())
        for path in Path(triage_package.__file__).parents[1].rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith(("import drgn", "from drgn"))
    }
    assert imports == {("worker.py", True)}
