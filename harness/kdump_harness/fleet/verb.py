"""The verb fleet: a scheduler, workers, and runs; Dask is loaded by its handlers only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..base.errors import EXIT_OK, HostError, UsageError
from ..cli.options import HISTORY_HELP, RESUME_HELP, add_json, add_state
from ..cli.parser import Verbs, add_actions, add_verb
from ..cli.types import count, mib, port, seconds

DEFAULT_PORT = 8786

_EPILOG = """\
examples:
  kdump-harness fleet scheduler
  kdump-harness fleet worker tcp://lab-head:8786                # on each libvirt host
  kdump-harness fleet run --scheduler tcp://lab-head:8786 -- scenarios --image 'debian-*'
  kdump-harness fleet run --scheduler tcp://lab-head:8786 -- drill debian-12 --level 1
  kdump-harness fleet run --scheduler tcp://lab-head:8786 --drills drills.txt --junit junit.xml
Outside an isolated network, give all of them certificates: --tls-ca, --tls-cert, --tls-key.
"""


def add_fleet(verbs: Verbs) -> None:
    """Add the verb and its actions to the command line."""
    parser = add_verb(
        verbs,
        "fleet",
        "Drill on many hosts through Dask: a scheduler, workers, and a run that collects the results.",
        epilog=_EPILOG,
    )
    actions = add_actions(parser)
    for add in (_add_scheduler, _add_worker, _add_run):
        made = add(actions)
        tls = made.add_argument_group("TLS", "Peers without a certificate from this CA are rejected.")
        tls.add_argument("--tls-ca", type=Path, metavar="FILE", help="certificate of the fleet's CA")
        tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of this host")
        tls.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of this host")


def _add_scheduler(actions: Any) -> Any:
    made = add_verb(actions, "scheduler", "Hand tasks to workers.", run=fleet_scheduler)
    made.add_argument(
        "--listen", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; 0.0.0.0 is all addresses"
    )
    made.add_argument("--port", type=port, default=DEFAULT_PORT, metavar="N", help="port to listen on; 0 chooses one")
    return made


def _add_worker(actions: Any) -> Any:
    made = add_verb(actions, "worker", "Offer the guests of this host to a fleet, until stopped.", run=fleet_worker)
    made.add_argument("scheduler", metavar="SCHEDULER", help="address of the scheduler, as tcp://HOST:8786")
    made.add_argument("--name", metavar="NAME", help="name of the worker in the fleet (default: the host name)")
    made.add_argument(
        "--listen", metavar="ADDRESS", help="address to listen on (default: the one that routes to the scheduler)"
    )
    made.add_argument("--uri", help="libvirt URI of the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    add_state(made)
    made.add_argument(
        "--evidence",
        type=Path,
        metavar="DIR",
        help="directory of the tasks' evidence until it is sent (default: fleet/ in the state directory)",
    )
    number = count(least=1, most=10**8 - 1)
    made.add_argument(
        "--memory", type=mib, metavar="S", help="memory that guests may use, as 8G or 8192 (default: the free memory)"
    )
    made.add_argument("--cores", type=number, metavar="N", help="cores that guests may use (default: all)")
    made.add_argument(
        "--allow-files", type=Path, action="append", default=[], metavar="PATH",
        help="image file, or directory of image files, that may be drilled by path; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--no-copies", action="store_true", help="make all disks on this host; copy none from the peer caches"
    )
    return made


def _add_run(actions: Any) -> Any:
    made = add_verb(
        actions,
        "run",
        "Run scenarios or drills on a fleet; all results come to this host.",
        run=fleet_run,
        usage="%(prog)s --scheduler SCHEDULER [options] (--drills FILE | -- scenarios ... | -- drill ...)",
    )
    number = count(least=1, most=10**8 - 1)
    made.add_argument(
        "--scheduler", required=True, metavar="SCHEDULER", help="address of the scheduler, as tcp://HOST:8786"
    )
    made.add_argument(
        "--drills", type=Path, metavar="FILE", help="file with the arguments of one drill per line (# is a comment)"
    )
    made.add_argument(
        "--at-once", type=number, metavar="N", help="maximum number of parallel tasks (default: what fits)"
    )
    made.add_argument(
        "--wait", type=seconds(least=0, most=1e7), default=300.0, metavar="S",
        help="seconds to wait for a worker with the resources of a task",
    )  # fmt: skip
    made.add_argument("--vmcores", action="store_true", help="also transfer the vmcores that the drills keep")
    made.add_argument(
        "--evidence-limit", type=mib, metavar="S",
        help="maximum evidence transferred per task, as 1G or 64 (default: 64; with --vmcores 2048)",
    )  # fmt: skip
    made.add_argument(
        "--direct", action="store_true",
        help="fetch evidence directly from the workers, which must be reachable, instead of through the scheduler",
    )  # fmt: skip
    made.add_argument("--resume", nargs="?", const="last", metavar="RUN", help=RESUME_HELP)
    made.add_argument(
        "--evidence", type=Path, default=Path("evidence"), metavar="DIR", help="directory of the evidence"
    )
    made.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    add_state(made)
    made.add_argument("--junit", metavar="FILE", help="write the drills as JUnit XML (scenarios: --junitxml of pytest)")
    add_json(made)
    made.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    made.add_argument("what", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    return made


def _need_dask() -> None:
    """Raise HostError if Dask, which is optional, is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise HostError("a fleet needs Dask, which is not installed (pip install 'kdump-harness[fleet]')")


def fleet_scheduler(arguments: argparse.Namespace) -> int:
    _need_dask()
    from . import service

    security = _security(arguments)
    _warn(arguments.listen, security)
    import asyncio

    asyncio.run(service.serve_scheduler(listen=arguments.listen, port=arguments.port, security=security, report=_say))
    return EXIT_OK


def fleet_worker(arguments: argparse.Namespace) -> int:
    _need_dask()
    from ..images.state import State
    from ..vm.accel import choose
    from ..vm.hosts.local_host import LocalHost
    from ..vm.hypervisor.connection import Hypervisor
    from . import service
    from .protocol.needs import CORES, MIB, host_resources
    from .worker.task_runner import Host

    security = _security(arguments)
    address = _address(arguments.scheduler, security)
    _warn(str(urlsplit(address).hostname), security)
    state = State(arguments.state)
    hypervisor = Hypervisor(arguments.uri)
    try:
        if not hypervisor.is_local:
            raise HostError(f"{hypervisor.uri} is on another host: run its worker there")
        with state.run() as run:
            accelerator, why = choose("auto", hypervisor, state, run.path, LocalHost(state, run, hypervisor.uri))
        resources = host_resources(hypervisor, accelerator, memory_mib=arguments.memory, cores=arguments.cores)
    finally:
        hypervisor.close()
    for path in arguments.allow_files:
        if not path.exists():
            raise UsageError(f"--allow-files {path} does not exist")
    evidence = (arguments.evidence or state.directory / "fleet").absolute()
    host = Host(
        name=arguments.name or socket.gethostname(),
        uri=arguments.uri,
        state=state.directory,
        evidence=evidence,
        files=tuple(path.resolve() for path in arguments.allow_files),
        resources=resources,
        socket=None if arguments.no_copies else _socket(evidence),
    )
    features = ", ".join(name for name, value in resources.items() if name not in (MIB, CORES))
    _say(f"{host.name}: {resources[MIB]:.0f} MiB and {resources[CORES]:.0f} cores for guests; {features}")
    _say(f"accelerator: {why}")
    listen = arguments.listen or _local_address(address)
    import asyncio

    asyncio.run(service.serve_worker(address, host, listen=listen, security=security, report=_say))
    return EXIT_OK


def fleet_run(arguments: argparse.Namespace) -> int:
    _need_dask()
    words = list(arguments.what)
    if words[:1] == ["--"]:
        words.pop(0)
    if bool(words) == (arguments.drills is not None):
        raise UsageError("nothing to run: give scenarios ... or drill ... after --, or a file with --drills")
    security = _security(arguments)
    address = _address(arguments.scheduler, security)
    evidence_mib = arguments.evidence_limit or (2048 if arguments.vmcores else 64)
    from .protocol.tasks import EVIDENCE_MAX_MIB

    if evidence_mib > EVIDENCE_MAX_MIB:
        raise UsageError(f"invalid --evidence-limit: got {evidence_mib}, expected at most {EVIDENCE_MAX_MIB}")
    if words and words[0] != "drill":
        return _scenarios(arguments, address, words, evidence_mib)
    return _drills(arguments, address, security, words[1:], evidence_mib)


# ---------------------------------------------------------------- run: scenarios


def _scenarios(arguments: argparse.Namespace, address: str, words: Sequence[str], evidence_mib: int) -> int:
    """Run scenarios: pytest collects and reports them, and the fleet runs them."""
    from ..base.tables import data_path
    from .journal import directory_to_resume
    from .pytest_client import VARIABLE, RunOptions

    for word in words:
        if word.split("=")[0] in ("-n", "--numprocesses", "--dist", "--shard") or word.startswith("-n"):
            raise UsageError(
                f"{word} cannot go with a fleet, which distributes the scenarios (--at-once N limits them)"
            )
    for name, instead in (("json", "--matrix"), ("junit", "--junitxml")):
        if getattr(arguments, name):
            raise UsageError(f"--{name} is only for drills: use {instead} FILE of pytest, after --")
    words = [str(data_path("scenarios")) if word == "scenarios" and not Path(word).is_dir() else word for word in words]
    own = {"--evidence": str(arguments.evidence), "--history": arguments.history, "--state": arguments.state}
    more = [f"{name}={value}" for name, value in own.items() if value is not None and not _has(words, name)]
    evidence = Path(_value(words, "--evidence") or arguments.evidence)
    resume = directory_to_resume(arguments.resume, evidence) if arguments.resume is not None else None
    if resume is not None and resume.parent != evidence.resolve():
        raise UsageError(f"cannot resume {resume}: it is not in {evidence} (give --evidence {resume.parent})")
    options = RunOptions(
        scheduler=address,
        ca=_text(arguments.tls_ca),
        cert=_text(arguments.tls_cert),
        key=_text(arguments.tls_key),
        wait_s=arguments.wait,
        at_once=arguments.at_once,
        direct=arguments.direct,
        vmcores=arguments.vmcores,
        evidence_mib=evidence_mib,
        resume=_text(resume),
        quiet=arguments.quiet,
    )
    command = [sys.executable, "-m", "pytest", "-p", "kdump_harness.fleet.pytest_client", *more, *words]
    environment = {**os.environ, VARIABLE: json.dumps(dataclasses.asdict(options))}
    with subprocess.Popen(command, env=environment) as pytest:
        while True:
            try:
                return pytest.wait()
            except KeyboardInterrupt:  # a terminal sends SIGINT to pytest too, but SIGTERM arrives only here
                pytest.send_signal(signal.SIGINT)


def _has(words: Sequence[str], option: str) -> bool:
    return any(word.split("=")[0] == option for word in words)


def _value(words: Sequence[str], option: str) -> str | None:
    for number, word in enumerate(words):
        if word == option:
            return words[number + 1] if number + 1 < len(words) else None
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


# ---------------------------------------------------------------- run: drills


def _drills(arguments: argparse.Namespace, address: str, security: Any, words: Sequence[str], evidence_mib: int) -> int:
    """Run drills on a fleet, each as if it ran on this host."""
    from ..base.evidence import EvidenceRoot, check_writable, run_stamp
    from ..base.output import check_output, write_json, write_text
    from . import drills
    from .client import Fleet
    from .journal import Journal, directory_to_resume

    single = arguments.drills is None
    if single:
        drills.local_options(words, arguments)
    given = [list(words)] if single else drills.read_drills(arguments.drills)
    orders = drills.orders_of(given, vmcores=arguments.vmcores, evidence_mib=evidence_mib)
    for to in (arguments.json, arguments.junit):
        check_output(to)
    check_writable(arguments.evidence)
    if arguments.resume is not None:
        directory = directory_to_resume(arguments.resume, arguments.evidence)
    else:
        directory = EvidenceRoot(arguments.evidence, part=(f"{run_stamp()}-{os.getpid()}", "fleet")).run
        directory.rmdir()
        directory = directory.parent
    journal = Journal(directory)
    known = journal.read() if arguments.resume is not None else {}
    outcomes: list[drills.DrillOutcome] = []
    missing = []
    for order in orders:
        if found := known.get(order.task.digest):
            outcomes.append(drills.outcome_of(order, found.pop(0)))
        else:
            missing.append(order)
    if known:
        _say(f"{len(outcomes)} of {len(orders)} are known from before")
    if missing:
        with Fleet(
            address, security=security, wait_s=arguments.wait, at_once=arguments.at_once, direct=arguments.direct,
            quiet=arguments.quiet,
        ) as fleet:  # fmt: skip
            for order, result in fleet.run(missing, evidence=directory.parent, run_name=directory.name):
                outcome = drills.outcome_of(order, result)
                if outcome.verdict is not None:
                    journal.add(order.task.digest, result)
                    _record(arguments, outcome)
                outcomes.append(outcome)
                if not arguments.quiet:
                    _say(outcome.line)
    outcomes.sort(key=lambda one: one.order.number)
    _show(arguments, outcomes, single)
    found_json = [one.to_json() for one in outcomes]
    write_json(arguments.json, (found_json[0]["verdict"] or found_json[0]) if single else found_json)
    if arguments.junit is not None:
        write_text(arguments.junit, drills.junit(outcomes))
    return drills.worst(outcomes)


def _record(arguments: argparse.Namespace, outcome: Any) -> None:
    """Record a verdict in the history of this host, and add a remark for each figure that is worse than before."""
    from ..history.database import DRILL, history_path
    from ..history.recording import record

    path = history_path(arguments.history, arguments.state)
    outcome.verdict.remarks += record(path, DRILL, outcome.verdict.to_json(), log=_say)


def _show(arguments: argparse.Namespace, outcomes: Sequence[Any], single: bool) -> None:
    """Print the outcome."""
    from rich.markup import escape

    from ..base.output import out
    from ..cli.verbs.drill import show_verdict

    if arguments.json == "-":
        return
    if single and outcomes[0].verdict is not None:
        show_verdict(outcomes[0].verdict)
        return
    for one in outcomes:
        out.print(escape(one.line), soft_wrap=True)
        if one.result.evidence and (not single or one.status):
            out.print(escape(f"  evidence: {one.result.evidence}"), soft_wrap=True)
        for left in one.result.left_out:
            out.print(escape(f"  not sent: {left}"), soft_wrap=True)
    verified = sum(one.status == EXIT_OK for one in outcomes)
    out.print(f"verified: {verified} of {len(outcomes)}")


# ---------------------------------------------------------------- addresses


def _security(arguments: argparse.Namespace) -> Any:
    from .protocol import wire_format

    return wire_format.security(ca=arguments.tls_ca, cert=arguments.tls_cert, key=arguments.tls_key)


def _address(text: str, security: Any) -> str:
    """Return the address of a scheduler in the form of Dask; certificates select TLS."""
    if "://" not in text:
        text = f"tcp://{text}"
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host, port = None, 0
    if parts.scheme not in ("tcp", "tls") or not host or parts.path.strip("/") or parts.query:
        raise UsageError(f"invalid address of a scheduler: got {text}, expected tcp://HOST:{DEFAULT_PORT}")
    if parts.scheme == "tls" and security is None:
        raise UsageError(f"{text} needs certificates: give --tls-ca, --tls-cert and --tls-key")
    name = f"[{host}]" if ":" in host else host
    return f"{'tls' if security is not None else 'tcp'}://{name}:{port}"


def _warn(host: str, security: Any) -> None:
    """Warn if other hosts can reach the fleet without a certificate."""
    local = host == "localhost"
    with contextlib.suppress(ValueError):
        local = ipaddress.ip_address(host).is_loopback
    if security is None and not local:
        _say("without --tls-ca, --tls-cert and --tls-key any host that reaches this fleet can run drills on it")


def _local_address(address: str) -> str:
    """Return the address of this host from which the scheduler is reached."""
    parts = urlsplit(address)
    try:
        family, kind, number, _, place = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, number) as way:
            way.connect(place)  # a UDP socket sends nothing here
            found = str(way.getsockname()[0])
    except OSError as error:
        raise HostError(f"cannot reach {address}: {error.strerror or error}") from None
    return f"[{found}]" if ":" in found else found


def _socket(evidence: Path) -> Path:
    """Return the path of the socket by which tasks request disks from peers.

    Raises UsageError if the path is too long for a socket.
    """
    path = evidence / "disks"
    if len(os.fsencode(path)) > 100:
        raise UsageError(f"--evidence {evidence} is too long for a socket below it: shorten it, or use --no-copies")
    return path


def _text(path: Path | None) -> str | None:
    return str(path.absolute()) if path is not None else None


def _say(text: str) -> None:
    from ..base.progress import err

    err.print(text, markup=False)
