"""The extras of the package: which one has a library that is not installed."""

from __future__ import annotations

import importlib.util

# The modules of each extra, with the names of their packages where these differ. pyproject.toml has the versions.
EXTRAS = {
    "vm": {
        "cryptography": "cryptography",
        "elftools": "pyelftools",
        "libvirt": "libvirt-python",
        "libvirtmod": "libvirt-python",
        "libvirt_qemu": "libvirt-python",
        "libvirtmod_qemu": "libvirt-python",
        "paramiko": "paramiko",
        "pexpect": "pexpect",
        "pycdlib": "pycdlib",
        "tenacity": "tenacity",
        "zstandard": "zstandard",
    },
    "pytest": {"pytest": "pytest"},
    "fleet": {"dask": "distributed", "distributed": "distributed"},
    "plots": {"matplotlib": "matplotlib"},
    "triage": {"drgn": "drgn"},
    "fast": {"hyperscan": "hyperscan"},
}


def missing_extra(error: ImportError) -> str | None:
    """Return the sentence about an import that failed for a package of an extra; None for any other import."""
    module = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if module in packages:
            state = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
            return f"the package {packages[module]} {state} ({install_command(extra)})"
    return None


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without the time that its import takes."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # the import was disabled
        return False


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'kdump-harness[{extra}]'"
