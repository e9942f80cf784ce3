"""The seed: a disk for cloud-init with the run's key, a known host key, and one network card."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pycdlib
import pytest
from cryptography.hazmat.primitives import serialization
from kdump_harness.vm.cloud_init import KeyPair, make_key, network_config, user_data, write_seed

LOGIN = KeyPair(private="login-private", public="ssh-ed25519 AAAA login")
HOST = KeyPair(private="host-private", public="ssh-ed25519 BBBB host")
MAC = "52:54:00:ab:cd:ef"


def config(user: str = "root") -> Any:
    first, _, rest = user_data(user=user, login=LOGIN, host=HOST).partition("\n")
    assert first == "#cloud-config"
    return json.loads(rest)


@pytest.fixture
def iso(tmp_path: Path) -> Any:
    path = tmp_path / "seed.iso"
    write_seed(path, name="debian-12-2", identity="kdh-1", mac=MAC, user="root", login=LOGIN, host=HOST)
    image = pycdlib.PyCdlib()
    image.open(str(path))
    yield image
    image.close()


def read(iso: Any, **where: str) -> str:
    into = io.BytesIO()
    iso.get_file_from_iso_fp(into, **where)
    return into.getvalue().decode()


@pytest.mark.parametrize("kind", ["rr_path", "joliet_path"])
def test_the_disk_has_the_three_files_by_their_names(iso: Any, kind: str) -> None:
    """NoCloud reads the files through one of two extensions, as the guest's kernel prefers."""
    assert read(iso, **{kind: "/user-data"}) == user_data(user="root", login=LOGIN, host=HOST)
    assert json.loads(read(iso, **{kind: "/meta-data"})) == {"instance-id": "kdh-1", "local-hostname": "debian-12-2"}
    assert read(iso, **{kind: "/network-config"}) == network_config(MAC)


def test_the_disk_carries_the_label_that_cloud_init_looks_for(iso: Any) -> None:
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"


def test_root_is_reached_by_the_runs_key_alone() -> None:
    assert config()["users"] == [{"name": "root", "lock_passwd": True, "ssh_authorized_keys": [LOGIN.public]}]
    assert config()["ssh_pwauth"] is False
    assert config()["disable_root"] is False


def test_another_user_gets_the_key_and_sudo_beside_root() -> None:
    root, other = config("admin")["users"]
    assert root["name"] == "root"
    assert other["name"] == "admin"
    assert other["ssh_authorized_keys"] == [LOGIN.public]
    assert "NOPASSWD" in other["sudo"]


def test_the_host_key_is_ours_and_no_other_is_made() -> None:
    assert config()["ssh_keys"] == {"ed25519_private": HOST.private, "ed25519_public": HOST.public}
    assert LOGIN.private not in user_data(user="root", login=LOGIN, host=HOST)


def test_the_network_card_is_found_by_its_address() -> None:
    nic = json.loads(network_config(MAC))["ethernets"]["eth0"]
    assert nic["match"] == {"macaddress": MAC}
    assert nic["set-name"] == "eth0"
    assert nic["dhcp4"] is True


def test_each_key_is_new_and_its_halves_belong_together() -> None:
    one, two = make_key("a comment"), make_key("a comment")
    assert one != two
    assert one.public.startswith("ssh-ed25519 ")
    assert one.public.endswith(" a comment")
    private = serialization.load_ssh_private_key(one.private.encode(), password=None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert one.public.startswith(public.decode())
