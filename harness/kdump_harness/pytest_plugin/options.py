"""The options of the plugin: of the command line, of pytest's configuration, and of own tables.

Every pytest run in the environment loads this module, so its functions import what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# The choices are those of the command line, whose parser takes too long to import here; a test compares them.
KEEP = ("never", "failed", "always")
FIRMWARE = ("bios", "uefi", "uefi-secure", "slof")


class Option(NamedTuple):
    """An option: --kdump-NAME, and kdump_NAME in the configuration of pytest."""

    name: str
    help: str
    metavar: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    kind: str = "string"  # as for addini: also bool, or linelist for an option that can be repeated


OPTIONS = (
    Option(
        "image", "image or glob of the catalogue, or path of a qcow2 or raw file, repeatable (default: debian-12, and"
        " the images that a scenario pins); scenarios that pin only other images are deselected", "NAME",
        kind="linelist", default=(),
    ),
    Option("family", "distribution family of image files", "F"),
    Option("login", "SSH user of image files", "USER", default="root"),
    Option("key", "private SSH key of that user, for files without cloud-init", "FILE", type=Path),
    Option("strict-images", "treat unavailable images as errors instead of skipping them", kind="bool"),
    Option(
        "matrix", "JSON file for the matrix of images and scenarios (default: matrix.json in the run's evidence)",
        "FILE",
    ),
    Option("evidence", "directory for evidence", "DIR", type=Path, default=Path("evidence")),
    Option("keep", "when to keep vmcores in the evidence", choices=KEEP, default="failed"),
    Option("kernel", "kernel to install, as for kdump-harness drill --kernel", "K"),
    Option("packages", "directory of package files to install instead of the released", "DIR", type=Path),
    Option("firmware", "firmware of the guests (default: bios if the image has it)", choices=FIRMWARE),
    Option("timeout-factor", "multiply all timeouts by F", "F", type=float, default=1.0),
    Option("cold", "boot a guest for each drill instead of restoring a snapshot", kind="bool"),
    Option("crash", "let the crash utility open the vmcore of each drill", kind="bool"),
    Option("run-known", "run scenarios with a known issue without excusing them", kind="bool"),
    Option(
        "uri", "hypervisor, also of another host, as qemu+ssh://host/system (default: LIBVIRT_DEFAULT_URI, else"
        " qemu:///system)", "URI",
    ),
    Option("state", "directory for disks", "DIR", type=Path),
    Option(
        "remote-state", "directory for guests' files on another host (default: shared or /var/tmp)", "DIR", type=Path
    ),
    Option(
        "history", "database to record drills in; none disables it (default: history.sqlite in the state directory)",
        "FILE",
    ),
    Option(
        "shard", "run the I-th of N parts of the selected scenarios, always the same ones; for the matrix of a CI",
        "I/N",
    ),
)  # fmt: skip
_BY_NAME = {one.name.replace("-", "_"): one for one in OPTIONS}


def add_options(parser: pytest.Parser) -> None:
    """Add the options, and their names in pytest's configuration."""
    group = parser.getgroup("kdump-harness", "real guests, real panics")
    for name, one in _BY_NAME.items():
        group.addoption(f"--kdump-{one.name}", dest=f"kdump_{name}", help=_help(one), **_how(one))
        parser.addini(f"kdump_{name}", f"--kdump-{one.name}: {one.help}", type=one.kind, default=None)  # type: ignore[arg-type]


def add_short_options(parser: pytest.Parser) -> None:
    """Add the options under their names without a prefix."""
    group = parser.getgroup("kdump-harness")
    for name, one in _BY_NAME.items():
        group.addoption(f"--{one.name}", dest=f"kdump_short_{name}", help=f"--kdump-{one.name}", **_how(one))


def _how(one: Option) -> dict[str, Any]:
    if one.kind == "bool":
        return {"action": "store_true", "default": None}
    more: dict[str, Any] = {"choices": one.choices} if one.choices else {"metavar": one.metavar}
    if one.kind == "linelist":
        return {"action": "append", "default": None, **more}
    return {"type": one.type, "default": None, **more}


def _help(one: Option) -> str:
    return f"{one.help} (default: {one.default})" if one.default else one.help


def option(config: Any, name: str) -> Any:
    """Return the value of an option: of the command line, else of pytest's configuration, else of the own tables."""
    one = _BY_NAME[name]
    for dest in (f"kdump_{name}", f"kdump_short_{name}"):
        if (value := config.getoption(dest, None)) is not None:
            return value
    value = config.getini(f"kdump_{name}")
    if value is None or (one.kind == "linelist" and not value):
        value = _own_default(one)
    if value is None:
        return False if one.kind == "bool" else list(one.default) if one.kind == "linelist" else one.default
    if one.kind != "string":
        return value
    try:
        found = one.type(value)
    except ValueError:
        found = None
    if found is None or (one.choices and found not in one.choices):
        raise pytest.UsageError(f"kdump_{name}: invalid value {value!r}: expected {one.choices or one.metavar}")
    return found


def _own_default(one: Option) -> Any:
    """Return the value in the own tables: of [defaults.pytest], else of [defaults]."""
    from ..base.errors import TableError
    from ..configuration.own_tables import own_defaults

    try:
        values = {name: value for _, _, name, value in own_defaults("pytest")}
    except TableError as error:
        raise pytest.UsageError(str(error)) from None
    value = values.get(one.name)
    return str(value) if value is not None and one.kind == "string" else value
