"""A process that has a machine's guest agent hold all writes for the moment in which the copying begins.

A process of its own, because ours may be killed in that moment: nobody would let the machine go on then.
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
    """How the copying began."""

    frozen_s: float | None = None  # how long writes were held; None when they were not
    why_not: str = ""


def begin_copy(uri: str, name: str, order: Path, *, freeze: bool) -> Begun:
    """Begin to copy as the file with libvirt's XML says; HostError when libvirt refuses."""
    process = subprocess.Popen(
        # -P: what lies in the current directory is no module of ours. A session of its own hears no Ctrl-C.
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
        told, _ = process.communicate()
    except BaseException:
        with contextlib.suppress(subprocess.TimeoutExpired):  # so that what it begins can be ended
            process.communicate(timeout=ENDS_WITHIN_S)
        raise
    try:
        answer = json.loads(told)
    except ValueError:
        raise HostError(f"{name}: the copying did not begin (status {process.returncode})") from None
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
        if freeze:  # also after an agent that gave up half-way
            with contextlib.suppress(GuestError):
                domain.thaw()
        took_s = None if frozen_at_s is None else round(now_s() - frozen_at_s, 3)
        hypervisor.close()
    return Begun(frozen_s=took_s, why_not=why_not)


def main(uri: str, name: str, order: str, how: str) -> None:
    """Tell what came of it as JSON on standard output."""
    try:
        begun = _freeze_and_begin(uri, name, Path(order).read_text(encoding="utf-8"), freeze=how == "freeze")
        answer: dict[str, object] = vars(begun)
    except (HarnessError, OSError) as error:
        answer = {"error": str(error)}
    with contextlib.suppress(OSError):  # who asked is gone
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:5])
