"""The command kdump-harness: verbs of all layers, exit statuses, and signals."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .base.errors import EXIT_BROKEN, EXIT_HOST, EXIT_OK, HarnessError
from .cli import parser

EXIT_INTERRUPTED = 130
EXIT_STOP_BISECTION = 128  # of git bisect run
# In the order of --help.
VERBS = (
    "doctor", "images", "drill", "kernel", "sweep", "size", "compare", "inspect", "diagnose", "audit", "history",
    "schedule", "fleet", "report", "store", "clean",
)  # fmt: skip


@functools.cache
def make_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of one verb, which starts without what the others import."""
    return parser.make_parser(_adder(name) for name in VERBS if verb in (None, name))


def _adder(verb: str) -> Callable[[parser.Verbs], None]:
    """Return the function that adds a verb."""
    module = f".{verb}.verb" if verb in ("audit", "fleet") else f".cli.verbs.{verb}"
    adder: Callable[..., None] = getattr(importlib.import_module(module, "kdump_harness"), f"add_{verb}")
    if verb == "schedule":  # a job may be an audit, whose verb lies above this one
        return functools.partial(adder, adders={"audit": _adder("audit")})
    return functools.partial(adder, on_host=_drill_host) if verb == "drill" else adder


def _drill_host(arguments: argparse.Namespace) -> int:
    """Drill a machine that exists, which is audited first; the audit lies above the verbs."""
    from .audit.host_drill import drill_host

    return drill_host(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    arguments = None
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        verb = given[0] if given and given[0] in VERBS else None
        arguments = make_parser(verb).parse_args(given)
        return int(arguments.run(arguments))
    except SystemExit as error:
        if error.code and "--git-bisect" in given:  # argparse's 2 would call each commit bad
            return EXIT_STOP_BISECTION
        raise
    except HarnessError as error:
        print(f"kdump-harness: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        from .base.extras import missing_extra

        if (sentence := missing_extra(error)) is None:
            raise
        print(f"kdump-harness: {sentence}", file=sys.stderr)
        return EXIT_HOST
    except KeyboardInterrupt:
        single = getattr(arguments, "bisect", False) or getattr(arguments, "matrix", "") is None
        resumable = hasattr(arguments, "resume") and not single
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


def _terminate(number: int, _frame: object) -> None:
    """End a run on SIGTERM as Ctrl-C does, with its cleanup.

    A second one is ignored: timeout(1) sends it to its child and then to the whole process group.
    """
    signal.signal(number, lambda *_: None)  # not SIG_IGN, which children inherit
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
