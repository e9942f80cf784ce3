"""The cloud-init seed: the run's key for root, a known host key, and a quick first boot."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

NIC = "eth0"
VOLUME = "cidata"  # label of the disk for cloud-init's NoCloud


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str
    public: str


def make_key(comment: str) -> KeyPair:
    """Return a new key pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private=private.decode(), public=f"{public.decode()} {comment}")


def user_data(*, user: str, login: KeyPair, host: KeyPair) -> str:
    """Return cloud-init's configuration for the first boot, as JSON, which is valid YAML.

    The harness makes the host key: this authenticates the guest, and saves an emulated guest a long time. Modules that
    only take time (package mirrors, locales, keys printed to the console) are disabled.
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
    address: str  # with prefix length, such as 192.0.2.7/24


def network_config(mac: str, more: tuple[StaticNic, ...] = ()) -> str:
    """Return the network configuration: DHCP on the card for SSH, by its MAC, since copies share a machine id."""
    # Without set-name, cloud-init before 22.4 (Debian 11) takes the key for the name of the card.
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
    """Write the seed as an ISO image; NAME is the host name, and a new IDENTITY makes cloud-init start afresh."""
    files = {
        "user-data": user_data(user=user, login=login, host=host),
        "meta-data": json.dumps({"instance-id": identity, "local-hostname": name}) + "\n",
        "network-config": network_config(mac, nics),
    }
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    for number, (file_name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=file_name, joliet_path=f"/{file_name}")
    iso.write(str(path))
    iso.close()
