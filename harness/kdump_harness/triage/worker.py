"""The process that reads a dump with drgn: prints one JSON line per fact, and may die of what it reads.

drgn never opens the dump: it asks the project's reader for pages, so the format does not matter. Pages with wrong
contents (lists in circles, sizes beyond all memory), and debug info that changes while it is mapped, can still
stop it. So this process has limits, and reports the facts one by one.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..vmcore import Vmcore, VmcoreError, open_vmcore
from ..vmcore.formats.machines import machines

_MAX_FRAMES = 256
_MAX_MODULES = 4096
_MAX_NAME = 64
# Files of the build directory have full names where the compiler did not shorten them.
_BUILD_DIRECTORY = r"^/.*?/linux-[0-9][^/]*/"


def main() -> None:
    """Run with the arguments: bytes of address space, seconds, vmlinux, and the files of the dump."""
    memory_bytes, limit_s, vmlinux, *files = sys.argv[1:]
    limit(int(memory_bytes), int(limit_s))
    with open_vmcore(*files) as vmcore:
        _read(vmcore, vmlinux)


def limit(memory_bytes: int, limit_s: int) -> None:
    """Limit the resources of this process, also for the time after its parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it ends in silence when its parent has died
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(2 * limit_s + 10)  # where its parent has died; a busy host gives it a small part of a processor


def _read(vmcore: Vmcore, vmlinux: str) -> None:
    program = _report("program", lambda: _program(vmcore, vmlinux), silent=True)
    if program is None:
        return
    _report("taint", lambda: _taint_flags(program))
    thread = _report("crashed task", lambda: _crashed_thread(program), silent=True)
    if thread is not None:
        _report("task", lambda: _task(thread))
        _report("stack", lambda: _stack(program, thread))
    _report("modules", lambda: _modules(program))


def _report(fact: str, find: Callable[[], Any], *, silent: bool = False) -> Any:
    """Print a fact, or the reason why it is missing; silent facts are not printed."""
    try:
        value = find()
    except MemoryError:
        line = {"fact": fact, "why": "it needs more memory than this process may have"}
    except ImportError as error:
        line = {
            "fact": fact,
            "why": f"drgn cannot be used ({error}); where it has no wheel, pip install drgn builds it",
        }
    except Exception as error:  # drgn's errors have no common base, and any of them leaves the other facts alone
        line = {"fact": fact, "why": f"{type(error).__name__}: {error}"[:300]}
    else:
        if silent:
            return value
        line = {"fact": fact, "value": value}
    print(json.dumps(line), flush=True)  # noqa: T201 - standard output is what the parent reads
    return None


def _program(vmcore: Vmcore, vmlinux: str) -> Any:
    """Return the crashed kernel, with its memory read through the project's reader and the debug info of one file."""
    import drgn  # here, so that a drgn that cannot be imported is a sentence too

    machine = machines()[vmcore.machine]
    flags = drgn.PlatformFlags.IS_64_BIT
    if machine.byte_order == "little":
        flags |= drgn.PlatformFlags.IS_LITTLE_ENDIAN
    program = drgn.Program(drgn.Platform(drgn.Architecture[machine.drgn], flags))

    def read(address: int, count: int, _offset: int, _physical: bool) -> bytes:
        try:
            return vmcore.read_phys(address, count)
        except VmcoreError as error:
            raise drgn.FaultError(str(error), address) from None

    program.add_memory_segment(0, vmcore.max_pfn * vmcore.page_size, read, physical=True)
    program.set_linux_kernel_custom(vmcore.vmcoreinfo_text, is_live=False)
    program.set_enabled_debug_info_finders([])  # only the file whose build id was compared
    program.load_debug_info([vmlinux])
    return program


def _taint_flags(program: Any) -> str:
    from drgn.helpers.linux.panic import tainted

    return "".join(tainted(program).replace("G", "").split())


def _crashed_thread(program: Any) -> Any:
    """Return the thread that crashed; report that none has in a dump of a running kernel."""
    try:
        return program.crashed_thread()
    except LookupError as error:
        if str(error) != "panic_cpu is not set":
            raise
        return _report("crashed", lambda: False)


def _task(thread: Any) -> dict[str, Any]:
    from drgn.helpers.linux.sched import task_cpu

    return {"comm": _text(thread.object.comm), "pid": int(thread.tid), "cpu": int(task_cpu(thread.object))}


def _stack(program: Any, thread: Any) -> list[str]:
    return [_frame(program, frame) for frame in itertools.islice(thread.stack_trace(), _MAX_FRAMES)]


def _frame(program: Any, frame: Any) -> str:
    """Return function+0x16/0x20 (file:line); the first part is in the kernel's form."""
    try:
        symbol = frame.symbol()
        where = f"{symbol.name}+{frame.pc - symbol.address:#x}/{symbol.size:#x}"
    except LookupError:
        where = _in_module(program, frame.pc) or f"{frame.pc:#x}"
    try:
        file, line, _ = frame.source()
        place = f"{_short(file)}:{line}"
    except LookupError:
        place = ""
    if frame.is_inline:
        return f"{frame.name} ({place + ', ' if place else ''}inlined)"
    return f"{where} ({place})" if place else where


def _short(file: str) -> str:
    return re.sub(_BUILD_DIRECTORY, "", file)


def _in_module(program: Any, address: int) -> str | None:
    """Return the name of an address in a module without debug info."""
    from drgn.helpers.linux.module import address_to_module

    try:
        module = address_to_module(program, address)
        return f"{address:#x} [{_text(module.name)}]" if module else None
    except Exception:  # the stack is worth more than the name of one module
        return None


def _modules(program: Any) -> list[dict[str, str]]:
    from drgn.helpers.linux.module import for_each_module, module_taints

    modules = itertools.islice(for_each_module(program), _MAX_MODULES)
    return [{"name": _text(module.name), "taints": module_taints(module)} for module in modules]


def _text(characters: Any) -> str:
    """Return a char array of the kernel without characters that could control a terminal."""
    text = characters.string_()[:_MAX_NAME].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


if __name__ == "__main__":
    main()
