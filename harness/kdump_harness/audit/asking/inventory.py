"""The hosts of an audit: named by the user, a hosts file, or an Ansible inventory as INI or JSON."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ...base.foreign import parse_object, whole_number

LOCAL = "localhost"
_HOSTS_MAX = 10_000
_FILE_BYTES_MAX = 16 << 20
# Neither ssh nor a terminal takes the other characters for anything but the name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\+-]{0,254}")
_RANGE = re.compile(r"\[(\d{1,6}|[a-z]):(\d{1,6}|[a-z])\]")
_SECTION = re.compile(r"\[([^\]:]+)(?::(\w+))?\]")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host, and how the user's ssh reaches it."""

    name: str
    address: str = ""  # in place of the name
    user: str = ""
    port: int = 0
    key: str = ""  # path of a private key
    local: bool = False  # this host, without ssh
    slip: str = ""  # the reason why the entry cannot be used

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of ssh."""
        return (
            *(("-l", self.user) if self.user else ()),
            *(("-p", str(self.port)) if self.port else ()),
            *(("-i", self.key) if self.key else ()),
            "--",
            self.address or self.name,
        )


def named(text: str) -> Host:
    """Return the host that the user names as [USER@]HOST[:PORT]."""
    user, _, rest = text.rpartition("@")
    address, port = rest, ""
    if rest.startswith("["):
        address, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        address, _, port = rest.partition(":")
    return _checked(Host(name=text, address=address, user=user), port=port)


def read_inventory(path: Path) -> list[Host]:
    """Return the hosts of a file, each once. A slip is a host that cannot be used.

    Raise UsageError for a file that cannot be read or has no host.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not an inventory: {error.reason} at byte {error.start}") from None
    if len(text) > _FILE_BYTES_MAX:
        raise UsageError(f"{path} is not an inventory: it is larger than {_FILE_BYTES_MAX >> 20} MiB")
    if re.match(r"\s*\{", text):
        hosts = list(_of_json(path, text))
    elif path.suffix in (".yml", ".yaml") or text.startswith("---"):
        raise UsageError(
            f"{path} is YAML, which is not read (convert it: ansible-inventory -i {shlex.quote(str(path))} --list"
            " > hosts.json)"
        )
    else:
        hosts = list(_of_ini(text))
    if not hosts:
        raise UsageError(f"{path} has no host (expected one a line, or an Ansible inventory)")
    return distinct(hosts)


def distinct(hosts: Iterable[Host]) -> list[Host]:
    """Return the hosts, each name once; UsageError for too many."""
    found = list({host.name: host for host in hosts}.values())
    if len(found) > _HOSTS_MAX:
        raise UsageError(f"{len(found)} hosts are too many: expected at most {_HOSTS_MAX}")
    return found


def _of_json(path: Path, text: str) -> Iterator[Host]:
    """Yield the hosts of the output of ansible-inventory --list."""
    try:
        table = parse_object(text)
    except ValueError as error:
        raise UsageError(f"{path} is not a JSON inventory: {error}") from None
    meta = table.get("_meta")
    variables = meta.get("hostvars") if isinstance(meta, dict) else None
    variables = variables if isinstance(variables, dict) else {}
    names = dict.fromkeys(variables)
    for group in table.values():
        if isinstance(group, dict) and isinstance(group.get("hosts"), list):
            names |= dict.fromkeys(name for name in group["hosts"] if isinstance(name, str))
    for name in names:
        own = variables.get(name)
        yield _from_variables(name, own if isinstance(own, dict) else {})


def _of_ini(text: str) -> Iterator[Host]:
    """Yield the hosts of a hosts file or an INI inventory; the groups' connection variables apply to their hosts."""
    hosts: list[tuple[str, str, dict[str, str]]] = []  # group, name, variables
    slips: list[Host] = []
    groups: dict[str, dict[str, str]] = {}
    parents: dict[str, list[str]] = {}
    group, kind = "ungrouped", "hosts"
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        try:
            if line.startswith("["):
                section = _SECTION.fullmatch(line.partition(" #")[0].strip())
                if section is None or section[2] not in (None, "hosts", "vars", "children"):
                    if not _RANGE.match(line):
                        kind = "skipped"
                        raise ValueError(f"{line[:80]!r} is not a section")
                else:
                    group, kind = section[1], section[2] or "hosts"
                    continue
            if kind == "skipped":
                continue
            if kind == "vars":
                name, equals, value = line.partition("=")
                if not equals:
                    raise ValueError(f"{line[:80]!r} is not a variable")
                groups.setdefault(group, {})[name.strip()] = " ".join(shlex.split(value))
                continue
            words = shlex.split(line, comments=True)
            if kind == "children":
                parents.setdefault(words[0], []).append(group)
                continue
            wrong = next((word for word in words[1:] if "=" not in word), None)
            if wrong is not None:
                raise ValueError(f"{wrong[:80]!r} is not a variable (expected NAME=VALUE)")
            pairs = dict(word.split("=", 1) for word in words[1:])
            names = list(itertools.islice(_spread(words[0]), _HOSTS_MAX + 1))
            hosts += [(group, name, pairs) for name in names]
        except ValueError as error:
            slips.append(Host(name=f"line {number}", slip=f"line {number} of the inventory: {error}"))
        if len(hosts) > _HOSTS_MAX:
            break
    for group, name, pairs in hosts:
        yield _from_variables(name, {**_inherited(group, groups, parents), **pairs})
    yield from slips


def _inherited(
    group: str,
    groups: Mapping[str, Mapping[str, str]],
    parents: Mapping[str, list[str]],
    seen: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Return the variables of a group and of the groups above it; the nearest one decides."""
    found: dict[str, str] = dict(groups.get("all", {})) if not seen else {}
    for parent in parents.get(group, []):
        if parent not in seen:
            found |= _inherited(parent, groups, parents, seen | {group})
    return {**found, **groups.get(group, {})}


def _spread(name: str) -> Iterator[str]:
    """Yield the names that a range such as web[01:20] stands for."""
    found = _RANGE.search(name)
    if found is None:
        yield name
        return
    first, last = found.groups()
    if first.isdigit() != last.isdigit():
        raise ValueError(f"{name[:80]!r} has an invalid range")
    if first.isdigit():
        members = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        members = [chr(code) for code in range(ord(first), ord(last) + 1)]
    if not 0 < len(members) <= _HOSTS_MAX:
        raise ValueError(f"{name[:80]!r} has an invalid range")
    for member in members:
        yield from _spread(name[: found.start()] + member + name[found.end() :])


def _from_variables(name: str, variables: Mapping[str, Any]) -> Host:
    """Return a host by the connection variables of Ansible."""

    def text(*keys: str) -> str:
        return next((str(variables[key]) for key in keys if isinstance(variables.get(key), str | int)), "")

    host = Host(
        name=name,
        address=text("ansible_host", "ansible_ssh_host"),
        user=text("ansible_user", "ansible_ssh_user"),
        key=text("ansible_ssh_private_key_file", "ansible_private_key_file"),
        local=text("ansible_connection") == "local",
    )
    return _checked(host, port=text("ansible_port", "ansible_ssh_port"))


def _checked(host: Host, *, port: str) -> Host:
    """Return the host with its port; one with a slip where ssh could not use it."""
    if not _NAME.fullmatch(host.address or host.name):
        shown = json.dumps((host.address or host.name)[:80])
        return Host(name=host.name, slip=f"{shown} is not the name or address of a host")
    if host.user and not _USER.fullmatch(host.user):
        return replace(host, slip=f"{json.dumps(host.user[:80])} is not the name of a user")
    if not port:
        return host
    number = whole_number(port, most=65535)
    if not number:
        return replace(host, slip=f"{json.dumps(port[:80])} is not a port: expected 1 to 65535")
    return replace(host, port=number)
