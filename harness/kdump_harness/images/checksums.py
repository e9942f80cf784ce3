"""The checksum documents of distributions, and the search for an image's digest in them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..base import foreign
from ..base.errors import HostError

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = r"(?P<hex>[0-9a-fA-F]{128}|[0-9a-fA-F]{64})"
_GNU = re.compile(rf"{_HEX}(?:\s+\*?(?P<name>\S.*))?")
_BSD = re.compile(rf"(?P<algorithm>SHA256|SHA512) ?\((?P<name>.+)\) ?= ?{_HEX}")


class NoChecksum(HostError):
    """A checksum document has no digest of an image, or several; an image without a digest is not used."""


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-2 digest and its algorithm, by hashlib's name."""

    algorithm: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.hexdigest}"

    @property
    def short(self) -> str:
        """A shortened form for display."""
        return f"{self.algorithm} {self.hexdigest[:16]}…"


@dataclass(frozen=True)
class ChecksumEntry:
    """An entry of a document: the digest of a file, and its address relative to the document."""

    location: str
    digest: Digest

    @property
    def name(self) -> str:
        """The file's name without its directories."""
        return PurePosixPath(self.location).name


def digest_of(path: Path, algorithm: str) -> Digest:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return Digest(algorithm, hashlib.file_digest(file, algorithm).hexdigest())


def find(text: str, form: str, wanted: str, *, where: str) -> ChecksumEntry:
    """Return the entry of the file that matches the glob WANTED; NoChecksum for none or several.

    WHERE names the document in the error.
    """
    entries = FORMS[form](text)
    if not entries:
        raise NoChecksum(f"no SHA-256 or SHA-512 digest in {where}, which {_opening(text)}")
    if form == "sole" and len({entry.digest for entry in entries}) == 1:
        return entries[0]
    named = [entry for entry in entries if fnmatch.fnmatchcase(entry.name, wanted)]
    if not named:
        raise NoChecksum(f"{where} has {len(entries)} digests, but none of {wanted}")
    # A file may be listed under both algorithms; the longer digest is used then.
    longest = max(len(entry.digest.hexdigest) for entry in named)
    best = [entry for entry in named if len(entry.digest.hexdigest) == longest]
    if len({entry.digest for entry in best}) > 1:
        names = sorted({entry.name for entry in best})
        seen = f"two digests of {names[0]}" if len(names) == 1 else " and ".join(names[:3])
        raise NoChecksum(f"{where} is ambiguous for {wanted}: it lists {seen}")
    return best[0]


def _lines(text: str) -> list[ChecksumEntry]:
    """Return the entries of a listing by sha256sum, sha512sum or BSD; skip comments and weaker algorithms."""
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
    """Return the text inside a PGP clear-signed message, or all of a text without a signature.

    Lines before or after the armour are not signed, so they do not count.
    """
    _, begin, rest = text.partition("-----BEGIN PGP SIGNED MESSAGE-----")
    if not begin:
        return text
    message = rest.partition("-----BEGIN PGP SIGNATURE-----")[0].replace("\r\n", "\n")
    body = message.partition("\n\n")[2]  # the armour's headers end with an empty line
    return "\n".join(line.removeprefix("- ") for line in body.splitlines())


def _debian_json(text: str) -> list[ChecksumEntry]:
    """Return the entries of a cloud.debian.org build description: base64 without padding, as annotations of uploads."""
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
        # The name of the upload has the version; the same file next to the description has none.
        version = _at(item, "metadata", "labels", "cloud.debian.org/version")
        name = PurePosixPath(reference).name.replace(f"-{version}", "")
        entries.append(ChecksumEntry(name, Digest(algorithm, hexdigest)))
    return entries


def _oracle_json(text: str) -> list[ChecksumEntry]:
    """Return the entry of the KVM image in an Oracle Linux template index."""
    index = _parsed(text)
    base, name, hexdigest = _at(index, "base_url"), _at(index, "kvm", "image"), _at(index, "kvm", "sha256")
    if not (isinstance(base, str) and isinstance(name, str) and _is_sha256(hexdigest)):
        return []
    return [ChecksumEntry(f"{base.rstrip('/')}/{name}", Digest("sha256", hexdigest.lower()))]


def _fedora_json(text: str) -> list[ChecksumEntry]:
    """Return the entries of Fedora's releases.json; skip artifacts without a digest."""
    return [
        ChecksumEntry(item["link"], Digest("sha256", item["sha256"].lower()))
        for item in _dicts(_parsed(text))
        if isinstance(item.get("link"), str) and _is_sha256(item.get("sha256"))
    ]


FORMS: dict[str, Callable[[str], list[ChecksumEntry]]] = {
    "lines": _lines,
    # A document for a single image; it may name the image as it was built, so that only the digest counts.
    "sole": _lines,
    "debian-json": _debian_json,
    "oracle-json": _oracle_json,
    "fedora-json": _fedora_json,
}


def _parsed(text: str) -> Any:
    try:
        return foreign.parse_json(text)
    except ValueError:
        return None


def _at(value: Any, *keys: str) -> Any:
    """Return the value at a path of keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _dicts(value: Any, *keys: str) -> list[dict[str, Any]]:
    items = _at(value, *keys)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value) is not None


def _opening(text: str) -> str:
    """Describe an unexpected document, such as a proxy's page, by its first words."""
    words = " ".join(text.split())
    return f"starts with {words[:60]!r}" if words else "is empty"
