"""Prove that kdump works: crash a throw-away guest, then judge the vmcore that it leaves behind."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("kdump-harness")
except PackageNotFoundError:  # running from a clone that was never installed
    __version__ = "0+unknown"
