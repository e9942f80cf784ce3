"""Hosts of an audit: as arguments, and in inventories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kdump_harness.audit.asking.inventory import Host, distinct, named, read_inventory
from kdump_harness.base.errors import UsageError

INI = """
# all machines
plain
web[01:03] ansible_user=ops
db-[a:b].example ansible_host=10.0.0.7 ansible_port=2222   # with a remark

[edge]
far ansible_ssh_private_key_file="/keys/far key"

[edge:vars]
ansible_user=edge
ansible_port=22022

[world:children]
edge

[world:vars]
ansible_port=9
note = anything

[all:vars]
ansible_user=everyone
"""


def write(tmp_path: Path, text: str, name: str = "hosts") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_ansible_inventory_is_read_with_its_ranges_and_groups(tmp_path: Path) -> None:
    hosts = {host.name: host for host in read_inventory(write(tmp_path, INI))}
    assert list(hosts) == ["plain", "web01", "web02", "web03", "db-a.example", "db-b.example", "far"]
    assert hosts["plain"] == Host(name="plain", user="everyone")
    assert hosts["web02"].user == "ops"
    assert hosts["db-b.example"].arguments == ("-l", "everyone", "-p", "2222", "--", "10.0.0.7")
    assert hosts["far"] == Host(name="far", user="edge", port=22022, key="/keys/far key")


def test_the_json_of_ansible_inventory_is_read(tmp_path: Path) -> None:
    own = {"ansible_connection": "local"}
    table = {
        "_meta": {"hostvars": {"a": {"ansible_host": "10.0.0.1", "ansible_port": 22}, "b": own}},
        "all": {"children": ["ungrouped"]},
        "ungrouped": {"hosts": ["a", "b", "c"]},
    }
    hosts = read_inventory(write(tmp_path, json.dumps(table)))
    assert hosts == [Host(name="a", address="10.0.0.1", port=22), Host(name="b", local=True), Host(name="c")]


@pytest.mark.parametrize(
    ("line", "slip"),
    [
        ("web port=1 broken", "line 2 of the inventory: 'broken' is not a variable (expected NAME=VALUE)"),
        ("web 'open", "line 2 of the inventory: No closing quotation"),
        ("[web:odd]", "line 2 of the inventory: '[web:odd]' is not a section"),
        ("web[9:1]", "line 2 of the inventory: 'web[9:1]' has an invalid range"),
        ("web ansible_port=70000", '"70000" is not a port: expected 1 to 65535'),
        ("-oProxyCommand=x", '"-oProxyCommand=x" is not the name or address of a host'),
        ("web ansible_user=-x", '"-x" is not the name of a user'),
        ("no\x1bde", '"no\\u001bde" is not the name or address of a host'),
    ],
)
def test_a_slip_is_a_host_that_says_so_and_the_others_stay(tmp_path: Path, line: str, slip: str) -> None:
    hosts = read_inventory(write(tmp_path, f"good\n{line}\n"))
    assert hosts[0] == Host(name="good")
    assert [host.slip for host in hosts[1:]] == [slip]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("hosts.yml", "all:\n", "is YAML, which is not read"),
        ("hosts", "", "has no host"),
        ("hosts", "{", "is not a JSON inventory"),
        ("hosts", "h[1:99]-[1:999]", "are too many"),
    ],
)
def test_a_file_without_hosts_is_refused(tmp_path: Path, name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_inventory(write(tmp_path, text, name))


def test_a_file_that_is_not_text_or_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(b"\x7fELF\xff\xfe")
    with pytest.raises(UsageError, match="is not an inventory"):
        read_inventory(tmp_path / "core")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_inventory(tmp_path / "missing")


def test_a_host_of_the_command_line_may_have_a_user_and_a_port() -> None:
    assert named("ops@db:2222").arguments == ("-l", "ops", "-p", "2222", "--", "db")
    assert named("[fe80::1%eth0]:22").arguments == ("-p", "22", "--", "fe80::1%eth0")
    assert named("::1").arguments == ("--", "::1")
    assert named("-v").slip
    assert named("a b").slip
    assert distinct([named("a"), named("a")]) == [named("a")]
