"""The plan of a matrix of kernel drills."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ...base import tables
from ...base.errors import UsageError
from ...distro.architecture import find_architecture
from ...distro.family import COMPRESS_FLAGS, MAX_LEVEL
from ...kernel.layouts import find_layout
from ...kernel.plan import KernelPlan
from ...kernel.source import check_kernel, not_yet_found
from ...kernel.userland import DEFAULT_SUITE, UserlandRequest, check_userland
from ...vm.run import Machine, Run

MAX_CELLS = 2000


@dataclass(frozen=True, kw_only=True)
class KernelCell:
    """One drill of a matrix."""

    kernel: str
    makedumpfile: str
    level: int
    compress: str
    memory_mib: int
    layout: str  # empty: the usual one

    @property
    def label(self) -> str:
        """Return the cell in words."""
        words = [self.kernel, f"makedumpfile {self.makedumpfile}", f"-d {self.level}", self.compress]
        return " ".join([*words, f"{self.memory_mib}M", *([self.layout] if self.layout else [])])


@dataclass(frozen=True, kw_only=True)
class KernelMatrix:
    """The values of each dimension; a file of a matrix has these keys."""

    kernels: tuple[str, ...]
    arch: str = "amd64"
    makedumpfiles: tuple[str, ...] = (DEFAULT_SUITE,)
    levels: tuple[int, ...] = (31,)
    compressions: tuple[str, ...] = ("zlib",)
    memories_mib: tuple[int, ...] = (768,)
    layouts: tuple[str, ...] = ("",)
    userland: str = DEFAULT_SUITE
    crashkernel: str = ""
    vcpus: int = 2
    trigger: str = "sysrq-c"

    @property
    def evidence_name(self) -> str:
        """Name of the evidence directory."""
        return "kernels"

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        for level in self.levels:
            if not 0 <= level <= MAX_LEVEL:
                raise UsageError(f"dump level {level} does not exist (0 to {MAX_LEVEL}; makedumpfile(8), -d)")
        for name in self.compressions:
            if name not in COMPRESS_FLAGS:
                raise UsageError(f"unknown compression {name!r} (known: {', '.join(COMPRESS_FLAGS)})")
        for name in filter(None, self.layouts):
            find_layout(name)
        architecture = find_architecture(self.arch)
        for name in self.kernels:
            check_kernel(name, architecture)
        for makedumpfile in self.makedumpfiles:
            check_userland(UserlandRequest(suite=self.userland, instead={"makedumpfile": makedumpfile}))
        number = len(tuple(self.cells()))
        if not 0 < number <= MAX_CELLS:
            raise UsageError(f"invalid matrix: it has {number} drills, expected 1 to {MAX_CELLS}")
        for memory_mib in self.memories_mib:
            machine = Machine(memory_mib=memory_mib, vcpus=self.vcpus)
            KernelPlan(
                kernel=not_yet_found(self.kernels[0]),
                architecture=architecture,
                machine=machine,
                crashkernel=self.crashkernel or None,
                trigger=self.trigger,
            ).drill_plan()

    def cells(self) -> Iterator[KernelCell]:
        """Return all drills, kernel by kernel."""
        dimensions: tuple[tuple[Any, ...], ...] = (
            self.kernels, self.makedumpfiles, self.levels, self.compressions, self.memories_mib, self.layouts
        )  # fmt: skip
        for values in product(*map(dict.fromkeys, dimensions)):
            kernel, makedumpfile, level, compress, memory_mib, layout = values
            yield KernelCell(
                kernel=kernel,
                makedumpfile=makedumpfile,
                level=level,
                compress=compress,
                memory_mib=memory_mib,
                layout=layout,
            )

    def asked(self, run: Run) -> dict[str, str]:
        """Return the options that a resumed run must share."""
        digest = hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:16]
        return {"the matrix": digest, "--accelerator": run.accelerator}


def load_matrix(path: Path) -> KernelMatrix:
    """Load a matrix from a TOML file; TableError names file and key."""
    return tables.load(path, KernelMatrix)
