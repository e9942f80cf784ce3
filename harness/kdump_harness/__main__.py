"""The command kdump-harness: verbs of all layers, exit statuses, and signals."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Sequence

from .base.errors import EXIT_BROKEN, EXIT_HOST, EXIT_OK, HarnessError
from .cli import parser
from .cli.verbs.clean import add_clean
from .cli.verbs.compare import add_compare
from .cli.verbs.diagnose import add_diagnose
from .cli.verbs.doctor import add_doctor
from .cli.verbs.drill import add_drill
from .cli.verbs.history import add_history
from .cli.verbs.images import add_images
from .cli.verbs.inspect import add_inspect
from .cli.verbs.kernel import add_kernel
from .cli.verbs.report import add_report
from .cli.verbs.schedule import add_schedule
from .cli.verbs.size import add_size
from .cli.verbs.store import add_store
from .cli.verbs.sweep import add_sweep
from .fleet.verb import add_fleet

EXIT_INTERRUPTED = 130
# In the order of --help.
VERBS = (
    add_doctor, add_images, add_drill, add_kernel, add_sweep, add_size, add_compare, add_inspect, add_diagnose,
    add_history, add_schedule, add_fleet, add_report, add_store, add_clean,
)  # fmt: skip


@functools.cache
def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    return parser.make_parser(VERBS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    arguments = None
    try:
        arguments = make_parser().parse_args(argv)
        return int(arguments.run(arguments))
    except HarnessError as error:
        print(f"kdump-harness: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        resumable = hasattr(arguments, "resume") and not getattr(arguments, "bisect", False)
        further = " (--resume continues the run)" if resumable else ""
        print(f"kdump-harness: interrupted: unfinished work was removed{further}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has ended (as in "| head"); Python must not write to it once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"kdump-harness: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_HOST if error.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_BROKEN


def _terminate(_signal: int, _frame: object) -> None:
    """End a run on SIGTERM as Ctrl-C does, with its cleanup."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
