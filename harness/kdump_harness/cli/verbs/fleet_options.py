"""The options of the verb fleet; light, since every --help reads them, and Dask is asked for by who runs one alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_EPILOG = """\
examples:
  kdump-harness fleet scheduler
  kdump-harness fleet worker tcp://lab-head:8786                # on each libvirt host
  kdump-harness fleet run --scheduler tcp://lab-head:8786 -- scenarios --image 'debian-*'
  kdump-harness fleet run --scheduler tcp://lab-head:8786 -- drill debian-12 --level 1
  kdump-harness fleet run --scheduler tcp://lab-head:8786 --drills drills.txt --junit junit.xml
Outside a network of your own, give all of them certificates: --tls-ca, --tls-cert, --tls-key.
"""


def add_fleet(verbs: Any, formatter: Any) -> None:
    """Add the verb and its actions to the command line."""
    text = "Drills on many hosts, through Dask: a scheduler, workers, and a run where the results are wanted."
    parser = verbs.add_parser("fleet", help=text, description=text, formatter_class=formatter, epilog=_EPILOG)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    scheduler = actions.add_parser("scheduler", help="Hand tasks to workers.", formatter_class=formatter)
    scheduler.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="of this host; 0.0.0.0 is all")
    scheduler.add_argument("--port", type=_port, default=8786, metavar="N", help="0 chooses one")

    worker = actions.add_parser(
        "worker", help="Offer this host's guests to a fleet, until it is stopped.", formatter_class=formatter
    )
    worker.add_argument("scheduler", metavar="SCHEDULER", help="its address, as tcp://HOST:8786")
    worker.add_argument("--name", metavar="NAME", help="in the fleet (default: the host's)")
    worker.add_argument("--listen", metavar="ADDRESS", help="of this host (default: that which leads to the scheduler)")
    worker.add_argument("--uri", help="the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    worker.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept (default: shared or /var/tmp)")
    worker.add_argument(
        "--evidence", type=Path, metavar="DIR", help="of tasks, until it is sent (default: fleet/ in the state)"
    )
    worker.add_argument("--memory", type=_count, metavar="MIB", help="that guests may have (default: what is free)")
    worker.add_argument("--cores", type=_count, metavar="N", help="that guests may have (default: all)")
    worker.add_argument(
        "--allow-files", type=Path, action="append", default=[], metavar="PATH",
        help="an image, or a directory of images, that may be drilled by its path",
    )  # fmt: skip
    worker.add_argument("--no-copies", action="store_true", help="make all disks here; copy none from neighbours")

    run = actions.add_parser(
        "run", help="Run scenarios or drills on a fleet; all results come here.", formatter_class=formatter,
        usage="%(prog)s --scheduler SCHEDULER [options] (--drills FILE | -- scenarios ... | -- drill ...)",
    )  # fmt: skip
    run.add_argument("--scheduler", required=True, metavar="SCHEDULER", help="its address, as tcp://HOST:8786")
    run.add_argument("--drills", type=Path, metavar="FILE", help="the arguments of one drill in each line (# comments)")
    run.add_argument("--at-once", type=_count, metavar="N", help="at most so many tasks at once (default: what fits)")
    run.add_argument(
        "--wait", type=_seconds, default=300.0, metavar="S", help="for a worker that has what a task needs"
    )
    run.add_argument("--vmcores", action="store_true", help="bring the vmcores that the drills keep, too")
    run.add_argument(
        "--evidence-limit",
        type=_count,
        metavar="MIB",
        help="of one task that may come (default: 64; with vmcores 2048)",
    )
    run.add_argument(
        "--direct", action="store_true", help="fetch evidence from the workers, which must be reachable, not by the way"
        " of the scheduler",
    )  # fmt: skip
    run.add_argument(
        "--resume", nargs="?", const="last", metavar="RUN", help="go on with a run that was stopped: what it has is not"
        " run again (default: the newest)",
    )  # fmt: skip
    run.add_argument("--evidence", type=Path, default=Path("evidence"), metavar="DIR", help="where evidence goes")
    run.add_argument(
        "--history", metavar="FILE", help="where drills are recorded (default: in the state; none: nowhere)"
    )
    run.add_argument("--state", type=Path, metavar="DIR", help="where the history is, unless it is told")
    run.add_argument(
        "--junit", metavar="FILE", help="write the drills as JUnit XML (pytest has --junitxml for its own)"
    )
    run.add_argument("--json", metavar="FILE", help="write the full result as JSON (- for standard output)")
    run.add_argument("-q", "--quiet", action="store_true", help="no progress")
    run.add_argument("what", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)

    for name, made in (("scheduler", scheduler), ("worker", worker), ("run", run)):
        tls = made.add_argument_group("TLS", "who has no certificate of this authority is not spoken with")
        tls.add_argument("--tls-ca", type=Path, metavar="FILE", help="the fleet's own authority")
        tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="this host's certificate")
        tls.add_argument("--tls-key", type=Path, metavar="FILE", help="and its key")
        made.set_defaults(verb=f"fleet_{name}", module="fleet.verb")


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 10**8):
        raise argparse.ArgumentTypeError(f"{text} is no count")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value
