"""Symptoms that no single line shows: each rule judges one boot among its neighbours and names the deciding line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .boots import Boot, KernelRole
from .lines import LogLine

_KERNEL_VERSION = re.compile(r"(\d{1,2})\.(\d{1,3})")
_KDUMP_LOADED_SINCE = (4, 16)  # https://git.kernel.org/linus/b7fe5ff4bfa0: traces say "Kdump: loaded" since then
_HANGS = re.compile(r"blocked for more than|soft lockup|hard LOCKUP|rcu: INFO|stall on CPU")
_SENDING = re.compile(r"sending makedumpfile .{1,200} to ")
_EXCERPT_LINES = 5


@dataclass(frozen=True)
class Scene:
    """One boot among its neighbours."""

    boot: Boot
    phase: KernelRole
    after: Boot | None
    after_phase: KernelRole | None
    is_dmesg_of_dump: bool
    failed: bool  # whether a line of this boot already showed a failure


def panic_without_kdump(scene: Scene) -> LogLine | None:
    """Infer that the first kernel panicked while no capture kernel was loaded."""
    boot = scene.boot
    if (
        boot.panic is None
        or scene.phase is KernelRole.CAPTURE
        or scene.after_phase is KernelRole.CAPTURE
        or boot.kdump_loaded
    ):
        return None
    if boot.panic_end is not None:
        return boot.panic_end
    tells = boot.trace_header is not None and boot.kernel is not None and _version(boot.kernel) >= _KDUMP_LOADED_SINCE
    return boot.panic if tells and not scene.is_dmesg_of_dump else None


def handoff_no_capture_boot(scene: Scene) -> LogLine | None:
    """Infer that the first kernel panicked with a capture kernel loaded, and no capture kernel printed."""
    boot = scene.boot
    if (
        scene.phase is KernelRole.CAPTURE
        or scene.after_phase is KernelRole.CAPTURE
        or scene.is_dmesg_of_dump
        or scene.failed
    ):
        return None
    if boot.panic is None and boot.handover is None:
        return None
    return (boot.handover or boot.panic) if boot.kdump_loaded else None


def dump_directory_empty(scene: Scene) -> LogLine | None:
    """Infer that kdump was armed, and that the directory of dumps is empty at the end of the log."""
    boot = scene.boot
    if boot.armed is None or boot.crash_listing is None or boot.last is None:
        return None
    return boot.crash_listing if boot.last.number == boot.crash_listing.number else None


def oops_no_panic(scene: Scene) -> LogLine | None:
    """Infer that the first kernel had an oops and kept running."""
    boot = scene.boot
    if boot.oops is None or boot.panic is not None or scene.phase not in (KernelRole.FIRST, KernelRole.NEXT):
        return None
    if boot.last is None or boot.trace_end is None or scene.after_phase is KernelRole.CAPTURE:
        return None
    return boot.oops if boot.last.number > boot.trace_end.number + _EXCERPT_LINES else None


def vmcore_read_oops(scene: Scene) -> LogLine | None:
    """Infer that the capture kernel had an oops in the functions that read the crashed kernel's memory."""
    boot = scene.boot
    if boot.oldmem_frame is None or scene.phase in (KernelRole.FIRST, KernelRole.NEXT):
        return None
    return boot.oldmem_frame


def capture_memory_taken(scene: Scene) -> LogLine | None:
    """Infer that the capture kernel added memory to its own after its start."""
    return scene.boot.added_memory if scene.phase is KernelRole.CAPTURE else None


def capture_hung_early(scene: Scene) -> LogLine | None:
    """Infer that the capture kernel printed nothing more before its first program started."""
    boot = scene.boot
    if scene.phase is not KernelRole.CAPTURE or scene.failed or scene.after is not None:
        return None
    if boot.userspace or boot.panic or boot.oops or boot.dump_start or boot.saved or boot.restart or boot.shutdown:
        return None
    # Tools that were run by hand, or lines without timestamps, give no proof of silence.
    if boot.last is None or boot.last.stamp_s is None:
        return None
    # An excerpt that ends with the trace of a warning was cut by hand, not by a hang.
    return None if boot.warning_trace is not None else boot.last


def capture_reset(scene: Scene) -> LogLine | None:
    """Infer that a reset ended the capture kernel: another kernel or firmware prints, without a requested reboot."""
    boot = scene.boot
    if (
        scene.phase is not KernelRole.CAPTURE
        or scene.failed
        or boot.saved
        or boot.restart
        or boot.shutdown
        or boot.panic
    ):
        return None
    if boot.save_failed or (scene.after is None and boot.firmware is None) or poweroff_mid_dump(scene):
        return None
    return boot.firmware or boot.last


def poweroff_mid_dump(scene: Scene) -> LogLine | None:
    """Infer that the log or the machine ended while pages were being copied."""
    boot = scene.boot
    percent = boot.progress_percent
    if scene.failed or boot.saved or boot.save_failed or boot.panic:
        return None
    if percent is None:
        # A transfer to a server may show no progress: then the last line is the start of the transfer.
        sending = boot.dump_start is not None and _SENDING.search(boot.dump_start.text) is not None
        ended = boot.restart is None and boot.shutdown is None and scene.after is None
        return boot.dump_start if sending and ended and scene.phase is KernelRole.CAPTURE else None
    return boot.progress if percent < 100.0 else None


def reboot_hang_after_dump(scene: Scene) -> LogLine | None:
    """Infer that the dump was saved and the reboot began, but the machine did not restart."""
    boot = scene.boot
    if boot.saved is None or boot.shutdown is None or boot.restart is not None or boot.firmware is not None:
        return None
    for match in boot.matches:
        if match.line.number > boot.shutdown.number and _HANGS.search(match.line.text):
            return match.line
    return None


def _version(text: str) -> tuple[int, int]:
    """Return major and minor number of a kernel release."""
    found = _KERNEL_VERSION.match(text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


RULES: dict[str, Callable[[Scene], LogLine | None]] = {
    "panic-without-kdump": panic_without_kdump,
    "handoff-no-capture-boot": handoff_no_capture_boot,
    "oops-no-panic": oops_no_panic,
    "dump-directory-empty": dump_directory_empty,
    "vmcore-read-oops": vmcore_read_oops,
    "capture-memory-taken": capture_memory_taken,
    "capture-hung-early": capture_hung_early,
    "capture-reset": capture_reset,
    "poweroff-mid-dump": poweroff_mid_dump,
    "reboot-hang-after-dump": reboot_hang_after_dump,
}
