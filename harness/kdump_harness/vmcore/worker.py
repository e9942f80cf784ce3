"""A helper process of crew: one line asks for a stretch of pages, one line answers."""

from __future__ import annotations

import json
import signal
import sys

from .crew import to_json
from .formats.kdump import KdumpFile
from .formats.source import FLAT_SIGNATURE, FlattenedFile, PlainFile
from .pagecheck import PageChecker


def main() -> None:
    """Answer until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it ends in silence when its parent has died
    file_descriptor, data_offset = sys.argv[1:]
    file = PlainFile(f"/proc/self/fd/{file_descriptor}")
    flattened = file.read(0, len(FLAT_SIGNATURE)) == FLAT_SIGNATURE
    checker = PageChecker(KdumpFile(FlattenedFile(file) if flattened else file), int(data_offset))
    for line in sys.stdin:
        first, count = map(int, line.split())
        sys.stdout.write(json.dumps(to_json(checker.check(first, count))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
