"""How far a drill, or a crash in a console log, got."""

from __future__ import annotations

import enum


class Stage(enum.IntEnum):
    """How far a drill got; later stages imply the earlier ones."""

    NOTHING = 0
    ARMED = 1
    CRASHED = 2
    CAPTURING = 3
    SAVED = 4
    RECOVERED = 5
    VERIFIED = 6
