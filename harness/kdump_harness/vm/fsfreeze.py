"""A process that freezes a source domain's filesystems while the copy of its disks begins.

It is a separate process so that the filesystems are thawed even if the harness is killed at that moment.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..base.clock import now_s
from ..base.errors import GuestError, HarnessError, HostError
from .hypervisor.connection import Hypervisor

ENDS_WITHIN_S = 30.0  # after Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The result of beginning the copy."""

    frozen_s: float | None = None  # duration of the freeze; None without a freeze
    why_not: str = ""


def begin_copy(uri: str, name: str, order: Path, *, freeze: bool) -> Begun:
    """Begin the copy that the XML file ORDER describes; HostError if libvirt refuses."""
    process = subprocess.Popen(
        # -P: files of the current directory are not imported. A separate session does not receive Ctrl-C.
        [
            sys.executable,
            "-P",
            "-m",
            "kdump_harness.vm.fsfreeze",
            uri,
            name,
            str(order),
            "freeze" if freeze else "as-it-is",
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        with contextlib.suppress(subprocess.TimeoutExpired):  # so that the caller can abort a copy that has begun
            process.communicate(timeout=ENDS_WITHIN_S)
        raise
    try:
        answer = json.loads(output)
    except ValueError:
        raise HostError(f"{name}: cannot begin the copy (status {process.returncode})") from None
    if "error" in answer:
        raise HostError(str(answer["error"]))
    return Begun(**answer)


def _freeze_and_begin(uri: str, name: str, xml: str, *, freeze: bool) -> Begun:
    hypervisor = Hypervisor(uri)
    domain = hypervisor.find(name)
    why_not = ""
    frozen_at_s: float | None = None
    if freeze:
        frozen_at_s = now_s()
        try:
            domain.freeze()
        except GuestError as error:
            frozen_at_s, why_not = None, str(error)
    try:
        domain.begin_copy(xml)
    finally:
        if freeze:  # even after a freeze that failed half-way
            with contextlib.suppress(GuestError):
                domain.thaw()
        took_s = None if frozen_at_s is None else round(now_s() - frozen_at_s, 3)
        hypervisor.close()
    return Begun(frozen_s=took_s, why_not=why_not)


def main(uri: str, name: str, order: str, how: str) -> None:
    """Begin the copy and print the result as JSON."""
    try:
        begun = _freeze_and_begin(uri, name, Path(order).read_text(encoding="utf-8"), freeze=how == "freeze")
        answer: dict[str, object] = vars(begun)
    except (HarnessError, OSError) as error:
        answer = {"error": str(error)}
    with contextlib.suppress(OSError):  # the harness has ended
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:5])
