"""Renders the cloud-init seed: the run's own key for root, a known host key, first-boot hygiene."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pycdlib
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NIC = "eth0"
VOLUME = "cidata"  # the label by which cloud-init's NoCloud finds its disk


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """One ed25519 key in OpenSSH's formats."""

    private: str
    public: str


def make_key(comment: str) -> KeyPair:
    """A new key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private=private.decode(), public=f"{public.decode()} {comment}")


def user_data(*, user: str, login: KeyPair, host: KeyPair) -> str:
    """What cloud-init does at the first boot, as JSON, which is YAML too.

    The host key is ours, so that we know whom we talk to, and because making keys takes an emulated guest long.
    Modules that only cost time there (package mirrors, locales, keys printed to the console) are not run.
    """
    users: list[dict[str, object]] = [{"name": "root", "lock_passwd": True, "ssh_authorized_keys": [login.public]}]
    if user != "root":
        users.append({"name": user, "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": [login.public]})
    config = {
        "disable_root": False,
        "ssh_pwauth": False,
        "users": users,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host.private, "ed25519_public": host.public},
        "ssh": {"emit_keys_to_console": False},
        "package_update": False,
        "package_upgrade": False,
        "cloud_config_modules": [],
        "cloud_final_modules": [],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class StaticNic:
    """A network card with a fixed address."""

    mac: str
    address: str  # with its prefix, as in 192.0.2.7/24


def network_config(mac: str, more: tuple[StaticNic, ...] = ()) -> str:
    """DHCP on the card that we reach the guest by, with its MAC as client identifier: copies share a machine id."""
    # cloud-init before 22.4 (Debian 11) takes the name for the card's unless it is told to rename the card.
    nic = {"match": {"macaddress": mac}, "set-name": NIC, "dhcp4": True, "dhcp6": False, "dhcp-identifier": "mac"}
    nics: dict[str, object] = {NIC: nic}
    for number, other in enumerate(more, start=1):
        name = f"eth{number}"
        nics[name] = {"match": {"macaddress": other.mac}, "set-name": name, "addresses": [other.address]}
    return json.dumps({"version": 2, "ethernets": nics}) + "\n"


def write_seed(
    path: Path,
    *,
    name: str,
    identity: str,
    mac: str,
    user: str,
    login: KeyPair,
    host: KeyPair,
    nics: tuple[StaticNic, ...] = (),
) -> None:
    """An ISO image with the seed; name is the host name, identity makes cloud-init take every guest for a new one."""
    files = {
        "user-data": user_data(user=user, login=login, host=host),
        "meta-data": json.dumps({"instance-id": identity, "local-hostname": name}) + "\n",
        "network-config": network_config(mac, nics),
    }
    iso = pycdlib.PyCdlib()
    iso.new(joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    for number, (file_name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=file_name, joliet_path=f"/{file_name}")
    iso.write(str(path))
    iso.close()
