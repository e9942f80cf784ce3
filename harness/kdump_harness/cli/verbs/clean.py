"""The verb clean: removal of what stale runs left behind."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import EXIT_OK, HostError
from ..options import add_host
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    from ...images.state import State
    from ...vm.hosts.remote_host import RemoteHost
    from ...vm.hypervisor.connection import Hypervisor


def add_clean(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(verbs, "clean", "Remove what stale runs left behind; caches and evidence stay.", run=clean)
    add_host(parser)
    parser.add_argument(
        "--caches",
        action="store_true",
        help="also remove cached downloads, and built and armed disks; with the --uri of another host, its copies",
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="remove only domains of this state's stale runs, where several states share a host",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def clean(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...images.state import State

    state = State(arguments.state)
    with contextlib.ExitStack() as resources:
        remote = _remote_host(arguments, resources)
        removal = _Removal(dry_run=arguments.dry_run)
        _clean_hypervisor(arguments, state, remote, removal)
        left = [*state.leftovers(), *(remote.leftovers() if remote is not None else ())]
        if arguments.caches:
            left += (remote or state).cached()
        stuck = [leftover.what for leftover in left if not removal.of(leftover.what, leftover.remove)]
    if not removal.count:
        out.print("nothing to remove")
    if stuck:
        raise HostError(f"cannot remove {', '.join(stuck)} in {state.directory}: run clean as the user who made them")
    return EXIT_OK


@dataclasses.dataclass
class _Removal:
    """The things that are removed, or would be, each printed on one line."""

    dry_run: bool
    count: int = 0

    def of(self, what: str, remove: Callable[[], object], *, did: str = "removed", would: str = "would remove") -> bool:
        """Remove one thing and print it; False if that failed."""
        from ...base.output import out

        self.count += 1
        if not self.dry_run and remove() is False:
            return False
        out.print(f"{would if self.dry_run else did} {what}")
        return True


def _clean_hypervisor(
    arguments: argparse.Namespace, state: State, remote: RemoteHost | None, removal: _Removal
) -> None:
    """Remove domains, disk copies and networks of stale runs; a hypervisor that does not answer is only reported."""
    from ...base.progress import err
    from ...images.state import is_held
    from ...vm.hypervisor.connection import Hypervisor

    address, held = (remote.address, remote.is_held) if remote is not None else (None, is_held)
    try:
        hypervisor = Hypervisor(arguments.uri, address=address, is_held=held)
    except HostError as error:
        err.print(f"kdump-harness: skipped the domains: {error}", markup=False)
        return
    runs = remote or state
    active, stale = runs.active_runs(), runs.stale_runs()

    def is_left(name: str) -> bool:
        """Return whether the run that a domain or network is named after has ended; --own requires proof of that."""
        identity = name.split("-")[1]
        return identity in stale or (identity not in active and not arguments.own)

    for name in filter(is_left, hypervisor.own_domains()):
        if not any(held(path.parent) for path in hypervisor.disks_of(name)):
            removal.of(f"domain {name}", functools.partial(hypervisor.destroy_named, name))
    for name, copy in dict(hypervisor.copies()).items():
        if copy.parent in stale.values():
            end = functools.partial(_end_copy, hypervisor, name, copy)
            removal.of(f"the copying of the disks of {name}", end, did="ended", would="would end")
    for name in filter(is_left, hypervisor.stale_networks(active)):
        removal.of(f"network {name}", functools.partial(hypervisor.remove_network, name))
    there = {name.split("-")[1] for name in hypervisor.own_domains()}  # also of runs of another state
    logs = [path for path in hypervisor.logs() if is_left(path.name) and path.name.split("-")[1] not in there]
    if logs:
        removal.of(f"libvirt's logs of {len(logs)} guests", functools.partial(_remove_files, logs))
    hypervisor.close()


def _remove_files(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _end_copy(hypervisor: Hypervisor, name: str, copy: Path) -> None:
    hypervisor.find(name).end_copy(copy)


def _remote_host(arguments: argparse.Namespace, resources: contextlib.ExitStack) -> RemoteHost | None:
    """Return the remote host of the hypervisor; None for this host."""
    import tempfile

    from ...base.progress import Progress
    from ...vm.hosts.remote_host import TOOLS, RemoteHost
    from ...vm.hypervisor.connection import default_uri, is_local

    uri = arguments.uri or default_uri()
    if is_local(uri):
        return None
    directory = resources.enter_context(tempfile.TemporaryDirectory(prefix="kdump-harness-"))
    there = RemoteHost(uri, Path(directory), state=arguments.remote_state, tools=TOOLS, progress=Progress())
    resources.callback(there.close)
    return there
