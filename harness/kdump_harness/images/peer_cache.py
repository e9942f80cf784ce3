"""Asks the worker that runs us whether another host has the disk that we are about to make; nobody, without a fleet."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any

VARIABLE = "KDUMP_HARNESS_NEIGHBOURS"  # the worker's socket


def bring(cache: str, key: str, report: Callable[[str], None]) -> dict[str, Any] | None:
    """Let the worker fill the entry's unfinished directory, which is there and empty; what it holds, or None.

    The caller holds the entry's lock.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(path)
        line.sendall(json.dumps({"cache": cache, "key": key}).encode() + b"\n")
        with line.makefile(encoding="utf-8") as answers:
            for answer in answers:
                told = json.loads(answer)
                if told.get("say"):
                    report(told["say"])
                if told.get("done"):
                    found = told.get("meta")
                    return found if isinstance(found, dict) else None
    return None
