"""The audit of many hosts side by side."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ..base.clock import ending_when, now_s
from ..base.output import printable
from ..distro.family import Family, choose_release, find_family, load_families
from ..kdump.guest_state import parse_os_release
from .asking.connection import Connection, Unaudited
from .asking.inventory import Host
from .asking.questions import about_kdump, about_place, holds, identity
from .facts import Facts, read_facts
from .judge import judge
from .past import Past
from .result import Answer, Audit, HostAudit, answer

SIDE_BY_SIDE = 32
CONNECT_TIMEOUT_S = 10.0
TIMEOUT_S = 90.0
_NAME_MAX = 300
_MACHINE_MAX = 20
NOT_UNDERSTOOD = (ValueError, OverflowError)  # by what reads the answers


@dataclass(frozen=True, kw_only=True)
class Options:
    """How hosts are reached, and for how long they may answer."""

    ssh: tuple[str, ...] = ("ssh",)
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    timeout_s: float = TIMEOUT_S
    side_by_side: int = SIDE_BY_SIDE


def audit(
    hosts: Sequence[Host],
    options: Options,
    *,
    past: Past | None = None,
    on_host: Callable[[HostAudit], None] = lambda _host: None,
) -> Audit:
    """Audit hosts and return the result, in their order. ON_HOST gets each host when it is done.

    PAST has their last successes.
    """
    families, started_s = load_families(), now_s()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stop = False

    def work(host: Host) -> HostAudit:
        with ending_when(lambda: stop):
            return audit_host(host, options, families, past or Past())

    done: dict[int, HostAudit] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(options.side_by_side, len(hosts)))) as pool:
        waiting: dict[Future[HostAudit], int] = {pool.submit(work, host): at for at, host in enumerate(hosts)}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    at = waiting.pop(future)
                    done[at] = future.result()
                    on_host(done[at])
        except BaseException:
            stop = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Audit(
        hosts=tuple(done[at] for at in range(len(hosts))), started=started, took_s=round(now_s() - started_s, 3)
    )


def audit_host(host: Host, options: Options, families: Mapping[str, Family], past: Past) -> HostAudit:
    """Audit one host; its own faults are its answer."""
    started_s, name = now_s(), printable(host.name)[:_NAME_MAX]
    try:
        facts = ask(host, options, families, past)
        reasons, about = judge(facts), facts.to_json()
    except Unaudited as error:
        return _not_audited(name, str(error), started_s)
    except NOT_UNDERSTOOD as error:
        return _not_audited(name, f"its answers are not those of a Linux host: {str(error)[:200]}", started_s)
    return HostAudit(
        host=name,
        answer=answer(reasons),
        reasons=reasons,
        facts=about,
        took_s=round(now_s() - started_s, 3),
    )


def ask(host: Host, options: Options, families: Mapping[str, Family], past: Past) -> Facts:
    """Return the facts about a host, over one connection. Raise Unaudited where it cannot be asked."""
    if host.slip:
        raise Unaudited(host.slip)
    with Connection(
        host, ssh=options.ssh, connect_timeout_s=options.connect_timeout_s, timeout_s=options.timeout_s
    ) as connection:
        answers = connection.ask(identity(families))
        if answers.get("system") != "Linux":
            said = (answers.get("system") or "nothing").split("\n")[0][:80]
            raise Unaudited(f"it is not a Linux host with a POSIX shell: uname -s printed {said!r}")
        os_release = parse_os_release(answers.get("os_release", ""))
        family = _family_of(os_release, families)
        if family is None:
            system = os_release.get("PRETTY_NAME") or os_release.get("ID") or "an unknown system"
            raise Unaudited(f"{system[:80]} is not of a known family (known: {', '.join(families)})")
        family = find_family(family.name, answers.get("machine", "").strip()[:_MACHINE_MAX])
        driven, remark = choose_release(family, os_release, lambda probe: holds(answers, probe))
        kernel = answers["kernel"].split("\n")[0][:100]
        answers |= connection.ask(about_kdump(driven, kernel))
        facts = read_facts(driven, answers, remark=remark, root=answers.get("uid") == "0")
        image = facts.initramfs.path if facts.initramfs else ""
        answers |= connection.ask(about_place(driven, facts.place, image))
        success = past.success(facts.state.machine_id, facts.state.hostname)
        return read_facts(driven, answers, remark=remark, root=facts.root, success=success)


def _not_audited(name: str, why: str, started_s: float) -> HostAudit:
    return HostAudit(host=name, answer=Answer.NOT_AUDITED, why=why, took_s=round(now_s() - started_s, 3))


def _family_of(os_release: Mapping[str, str], families: Mapping[str, Family]) -> Family | None:
    """Return the family that has the system's ID, or one that it is like."""
    for name in (os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()):
        for family in families.values():
            if name in family.known_ids:
                return family
    return None
