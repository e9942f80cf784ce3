"""Reads the checksum documents that distributions publish and finds the one digest that counts."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.errors import HostError

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = r"(?P<hex>[0-9a-fA-F]{128}|[0-9a-fA-F]{64})"
_GNU = re.compile(rf"{_HEX}(?:\s+\*?(?P<name>\S.*))?")
_BSD = re.compile(rf"(?P<algorithm>SHA256|SHA512) ?\((?P<name>.+)\) ?= ?{_HEX}")


class NoChecksum(HostError):
    """A checksum document does not say, or says in two ways, what an image must be; nothing is trusted without one."""


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-2 digest and its algorithm, by hashlib's name."""

    algorithm: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.hexdigest}"

    @property
    def short(self) -> str:
        """Enough of it for people."""
        return f"{self.algorithm} {self.hexdigest[:16]}…"


@dataclass(frozen=True)
class ChecksumEntry:
    """One line of a document: the digest of a file, and where that file is, relative to the document."""

    location: str
    digest: Digest

    @property
    def name(self) -> str:
        """The file's name without its directories."""
        return PurePosixPath(self.location).name


def digest_of(path: Path, algorithm: str) -> Digest:
    """The digest of what the file holds now."""
    with path.open("rb") as file:
        return Digest(algorithm, hashlib.file_digest(file, algorithm).hexdigest())


def find(text: str, form: str, wanted: str, *, where: str) -> ChecksumEntry:
    """The entry of the file called wanted, which may be a glob; NoChecksum when there is none or there are two.

    where names the document in the error.
    """
    entries = FORMS[form](text)
    if not entries:
        raise NoChecksum(f"{where} holds no SHA-256 or SHA-512 digest (it starts with {_opening(text)})")
    if form == "sole" and len({entry.digest for entry in entries}) == 1:
        return entries[0]
    named = [entry for entry in entries if fnmatch.fnmatchcase(entry.name, wanted)]
    if not named:
        raise NoChecksum(f"{where} has {len(entries)} digests but none of {wanted}")
    # A file may be listed under both algorithms; the longer one is asked for then.
    longest = max(len(entry.digest.hexdigest) for entry in named)
    best = [entry for entry in named if len(entry.digest.hexdigest) == longest]
    if len({entry.digest for entry in best}) > 1:
        names = sorted({entry.name for entry in best})
        seen = f"{names[0]} twice, differently" if len(names) == 1 else " and ".join(names[:3])
        raise NoChecksum(f"{where} is ambiguous for {wanted}: it lists {seen}")
    return best[0]


def _lines(text: str) -> list[ChecksumEntry]:
    """Entries of sha256sum, sha512sum and BSD style listings; comments and weaker algorithms are passed over."""
    entries = []
    for line in _signed_part(text).splitlines():
        line = line.strip().removeprefix("\ufeff")
        if match := _BSD.fullmatch(line):
            algorithm = match["algorithm"].lower()
            if len(match["hex"]) != _HEX_DIGITS[algorithm]:
                continue
        elif match := _GNU.fullmatch(line):
            algorithm = "sha256" if len(match["hex"]) == _HEX_DIGITS["sha256"] else "sha512"
        else:
            continue
        entries.append(ChecksumEntry(match["name"] or "", Digest(algorithm, match["hex"].lower())))
    return entries


def _signed_part(text: str) -> str:
    """What lies inside a PGP clear-signed message, or all of a text that is none.

    Lines before or after the armour are nobody's word, so they do not count.
    """
    _, begin, rest = text.partition("-----BEGIN PGP SIGNED MESSAGE-----")
    if not begin:
        return text
    message = rest.partition("-----BEGIN PGP SIGNATURE-----")[0].replace("\r\n", "\n")
    body = message.partition("\n\n")[2]  # the armour's headers end with an empty line
    return "\n".join(line.removeprefix("- ") for line in body.splitlines())


def _debian_json(text: str) -> list[ChecksumEntry]:
    """Entries of a cloud.debian.org build description: base64 without padding, in an annotation of each upload."""
    entries = []
    for item in _dicts(_parsed(text), "items"):
        algorithm, _, encoded = str(_at(item, "metadata", "annotations", "cloud.debian.org/digest")).partition(":")
        try:
            hexdigest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).hex()
        except (binascii.Error, ValueError):
            continue
        reference = _at(item, "data", "ref")
        if len(hexdigest) != _HEX_DIGITS.get(algorithm) or not isinstance(reference, str):
            continue
        # The upload is named by its version; beside the description lies the same file without it.
        version = _at(item, "metadata", "labels", "cloud.debian.org/version")
        name = PurePosixPath(reference).name.replace(f"-{version}", "")
        entries.append(ChecksumEntry(name, Digest(algorithm, hexdigest)))
    return entries


def _oracle_json(text: str) -> list[ChecksumEntry]:
    """The one entry of an Oracle Linux template index: the KVM image."""
    index = _parsed(text)
    base, name, hexdigest = _at(index, "base_url"), _at(index, "kvm", "image"), _at(index, "kvm", "sha256")
    if not (isinstance(base, str) and isinstance(name, str) and _is_sha256(hexdigest)):
        return []
    return [ChecksumEntry(f"{base.rstrip('/')}/{name}", Digest("sha256", hexdigest.lower()))]


def _fedora_json(text: str) -> list[ChecksumEntry]:
    """Entries of Fedora's releases.json; artifacts without a digest are passed over."""
    return [
        ChecksumEntry(item["link"], Digest("sha256", item["sha256"].lower()))
        for item in _dicts(_parsed(text))
        if isinstance(item.get("link"), str) and _is_sha256(item.get("sha256"))
    ]


FORMS: dict[str, Callable[[str], list[ChecksumEntry]]] = {
    "lines": _lines,
    # A file of its own beside each image; it may name the image as it was built, so that only the digest counts.
    "sole": _lines,
    "debian-json": _debian_json,
    "oracle-json": _oracle_json,
    "fedora-json": _fedora_json,
}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _at(value: Any, *keys: str) -> Any:
    """The value at the end of a path of keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _dicts(value: Any, *keys: str) -> list[dict[str, Any]]:
    items = _at(value, *keys)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value) is not None


def _opening(text: str) -> str:
    """The first words of a document that is not what it should be, a proxy's page for example."""
    words = " ".join(text.split())
    return repr(words[:60]) if words else "nothing at all"
