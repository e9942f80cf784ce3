"""A model of the memory that a capture kernel needs, for machines that cannot be tried.

Kernel, memory and processors are fitted to measured points; the rest is taken from a table with sources.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...base import crashkernel, tables
from ...base.errors import UsageError
from ...base.tables import package_path
from .points import Point, load_points
from .search import recommend

_GIB = 1024
_PAGE_STRUCTS = 64  # a struct page of 64 bytes for each 4 KiB
_SIGMAS, _NOISE_MIB = 2.0, 1.0
# The expected need for each GiB of memory and each processor, and its uncertainty next to the noise of the points. Two
# bitmaps of makedumpfile have a bit for each page. A capture kernel has one processor, and notes of all others.
_PER_GIB_MIB, _PER_GIB_DOUBT_MIB = 0.0625, 0.02
_PER_CPU_MIB, _PER_CPU_DOUBT_MIB = 0.03, 0.03
_HIGH_FROM_MIB = 896  # larger parts fit only above 4 GiB on many machines
_LOW_MIB = 72  # for DMA below 4 GiB: swiotlb has 64 MiB
_CLOUD = "cloud"  # the flavour of Debian's kernels with few drivers
_TABLE = package_path("campaigns", "size", "model.toml")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that takes memory of the capture kernel: a row of model.toml."""

    name: str
    kind: str  # driver, target, userland, or extra
    low_mib: float
    high_mib: float
    frees_initramfs: bool = False  # it boots the root filesystem, and the files of the initramfs are removed
    why: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """A distribution's default, as a row of model.toml."""

    name: str
    crashkernel: str
    per_gib_mib: float = 0.0  # in addition, for each GiB of memory
    most_more_mib: float = 0.0  # at most so much in addition
    source: str

    def reserved_mib(self, memory_mib: int) -> int:
        """Return what it reserves on a machine."""
        more_mib = min(self.per_gib_mib * memory_mib / _GIB, self.most_more_mib)
        return math.ceil((crashkernel.reserved_mib(self.crashkernel, memory_mib) or 0) + more_mib)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A machine. The default initramfs is one of dracut with many drivers."""

    memory_mib: int
    vcpus: int
    kernel: str = ""  # release, or a part of one; empty: any of the measured ones
    packed_mib: float = 30.0  # of the capture initramfs
    unpacked_mib: float = 80.0
    parts: tuple[str, ...] = ()  # names in model.toml


@dataclass(frozen=True, kw_only=True)
class Report:
    """A public report of a size that was enough or too small, as a row of model.toml."""

    machine: str
    memory_gib: float
    vcpus: int
    kernel: str = ""
    parts: tuple[str, ...] = ()
    packed_mib: float = 30.0  # of the capture initramfs
    unpacked_mib: float = 80.0
    too_small_mib: int = 0
    enough_mib: int = 0
    source: str

    @property
    def request(self) -> Request:
        """The machine of the report."""
        return Request(
            memory_mib=int(self.memory_gib * _GIB),
            vcpus=self.vcpus,
            kernel=self.kernel,
            packed_mib=self.packed_mib,
            unpacked_mib=self.unpacked_mib,
            parts=self.parts,
        )


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The table of the model."""

    part: tuple[Part, ...]
    vendor: tuple[Vendor, ...]
    report: tuple[Report, ...]


@functools.cache
def load_table() -> ModelTable:
    """Return the rows of model.toml."""
    return tables.load(_TABLE, ModelTable)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A part of the need, from the lowest to the highest plausible value."""

    name: str
    low_mib: float
    high_mib: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted need of a machine."""

    request: Request
    estimates: tuple[Estimate, ...]
    low_mib: int
    high_mib: int
    crashkernel: str

    @property
    def dominant(self) -> Estimate:
        """The part with the highest value."""
        return max(self.estimates, key=lambda one: one.high_mib)

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as a JSON object."""
        return {**asdict(self), "dominant": self.dominant.name, "vendors": [asdict(one) for one in self.vendors()]}

    def vendors(self) -> Iterator[VendorSize]:
        """Yield what each distribution would reserve on this machine."""
        for row in load_table().vendor:
            size_mib = row.reserved_mib(self.request.memory_mib)
            word = "too small" if size_mib < self.low_mib else "tight" if size_mib < self.high_mib else "enough"
            yield VendorSize(name=row.name, reserved_mib=size_mib, word=word if size_mib else "nothing reserved")


@dataclass(frozen=True, kw_only=True)
class VendorSize:
    """The reservation of a distribution on a machine, and whether that is enough by the model."""

    name: str
    reserved_mib: int
    word: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A point, predicted by a model that does not know it."""

    point: Point
    predicted_mib: float

    @property
    def measured_mib(self) -> float:
        """The most that was in use, of programs or while the initramfs was unpacked."""
        return self.point.most_kib / _GIB

    @property
    def error_mib(self) -> float:
        """The difference to what was measured."""
        return self.predicted_mib - self.measured_mib

    @property
    def error_share(self) -> float:
        """The difference as a share of what was measured."""
        return abs(self.error_mib) / self.measured_mib


class Model:
    """The need without drivers, fitted to points and to what is expected of memory and processors."""

    def __init__(self, points: Sequence[Point]) -> None:
        """Raise UsageError for fewer points than the model has numbers."""
        import numpy

        self._numpy = numpy
        self.points = [point for point in points if not point.drivers]
        self.kernels = sorted({line_of(point.kernel) for point in self.points})
        if len(self.points) < (least := _least(self.points)):
            raise UsageError(f"{len(self.points)} points are too few for a model: expected {least}")
        rows = [self._row(line_of(point.kernel), point.memory_mib, point.vcpus) for point in self.points]
        values = [point.need_kib / _GIB - _known_mib(point) for point in self.points]
        zeros = [0.0] * len(self.kernels)
        expected = numpy.array([*rows, [*zeros, 1 / _PER_GIB_DOUBT_MIB, 0.0], [*zeros, 0.0, 1 / _PER_CPU_DOUBT_MIB]])
        means = [_PER_GIB_MIB / _PER_GIB_DOUBT_MIB, _PER_CPU_MIB / _PER_CPU_DOUBT_MIB]
        self.numbers, *_ = numpy.linalg.lstsq(expected, numpy.array([*values, *means]), rcond=None)
        rest = numpy.array(values) - numpy.array(rows) @ self.numbers
        self.sigma_mib = float(math.sqrt(rest @ rest / max(len(self.points) - len(self.kernels), 1)))
        self._spread = numpy.linalg.pinv(expected.T @ expected)
        # Programs do not run yet, so neither memory nor processors count.
        boots = [(line_of(point.kernel), point.boot_kib / _GIB - _unpacking_mib(point)) for point in self.points]
        self.boot_mib = {name: statistics.mean(boot for line, boot in boots if line == name) for name in self.kernels}

    def _row(self, kernel: str, memory_mib: float, vcpus: float) -> list[float]:
        return [*(float(kernel == name) for name in self.kernels), memory_mib / _GIB, vcpus]

    @property
    def per_gib_mib(self) -> float:
        """The need for each GiB of memory."""
        return float(self.numbers[-2])

    @property
    def per_cpu_mib(self) -> float:
        """The need for each processor."""
        return float(self.numbers[-1])

    def fitted_mib(self, kernel: str, memory_mib: float, vcpus: float) -> tuple[float, float]:
        """Return the need beyond the initramfs, and its uncertainty."""
        row = self._numpy.array(self._row(kernel, memory_mib, vcpus))
        spread = float(row @ self._spread @ row)
        return float(row @ self.numbers), _SIGMAS * max(self.sigma_mib, _NOISE_MIB) * math.sqrt(1 + spread)

    def of_point_mib(self, point: Point) -> float:
        """Return the need on the machine of a point of a measured kernel, without its drivers."""
        line = line_of(point.kernel)
        programs_mib = self.fitted_mib(line, point.memory_mib, point.vcpus)[0] + _known_mib(point)
        return max(programs_mib, self.boot_mib[line] + _unpacking_mib(point))

    def kernels_like(self, wanted: str) -> list[str]:
        """Return the measured kernels that a release is like: of its version and flavour, of its flavour, or all."""
        if line_of(wanted) in self.kernels:
            return [line_of(wanted)]
        flavour = [name for name in self.kernels if (_CLOUD in name) == (_CLOUD in wanted)] if wanted else []
        return flavour or self.kernels

    def left_out(self) -> Iterator[LeftOut]:
        """Yield each point that other points can predict, by a model that was fitted without it."""
        for at, point in enumerate(self.points):
            rest = [*self.points[:at], *self.points[at + 1 :]]
            if line_of(point.kernel) in {line_of(other.kernel) for other in rest} and len(rest) >= _least(rest):
                yield LeftOut(point=point, predicted_mib=Model(rest).of_point_mib(point))

    def predict(self, request: Request) -> Prediction:
        """Return the need of a machine. Raise UsageError for an unknown part."""
        rows = {part.name: part for part in load_table().part}
        if unknown := [name for name in request.parts if name not in rows]:
            raise UsageError(f"unknown part {unknown[0]!r} of the size model (known: {', '.join(rows)})")
        estimates = [*self._of_machine(request), *map(_of_part, (rows[name] for name in request.parts))]
        packed, unpacked = request.packed_mib, request.unpacked_mib
        if not any(rows[name].frees_initramfs for name in request.parts):
            why = f"{unpacked:.0f} MiB unpacked"
            estimates.append(Estimate(name="capture initramfs", low_mib=unpacked, high_mib=unpacked, why=why))
        # The packed archive is freed before programs run, so the larger of both counts.
        boots = [self.boot_mib[name] + packed + unpacked for name in self.kernels_like(request.kernel)]
        noise = _SIGMAS * _NOISE_MIB
        more_low = max(min(boots) - noise - sum(one.low_mib for one in estimates), 0.0)
        more_high = max(max(boots) + noise - sum(one.high_mib for one in estimates), 0.0)
        if more_low or more_high:
            why = f"more than programs take later; {packed:.0f} MiB packed"
            estimates.append(Estimate(name="unpacking", low_mib=more_low, high_mib=more_high, why=why))
        low, high = sum(one.low_mib for one in estimates), sum(one.high_mib for one in estimates)
        share = 1 - 1 / _PAGE_STRUCTS
        low_mib, high_mib = math.floor(low / share), math.ceil(high / share)
        advised = recommend(high_mib)
        word = f"{advised}M,high crashkernel={_LOW_MIB}M,low" if advised > _HIGH_FROM_MIB else f"{advised}M"
        return Prediction(
            request=request, estimates=tuple(estimates), low_mib=low_mib, high_mib=high_mib, crashkernel=word
        )

    def _of_machine(self, request: Request) -> Iterator[Estimate]:
        """Yield what is fitted: the kernel, and what memory and processors add to it."""
        like = self.kernels_like(request.kernel)
        bases = [self.fitted_mib(name, 0, 0)[0] for name in like]
        yield Estimate(name="kernel", low_mib=min(bases), high_mib=max(bases), why=f"as measured of {', '.join(like)}")
        fits = [self.fitted_mib(name, request.memory_mib, request.vcpus) for name in like]
        more = max(fitted - base for (fitted, _), base in zip(fits, bases, strict=True))
        doubt = max(doubt for _, doubt in fits)
        yield Estimate(
            name="memory and processors",
            low_mib=max(more - doubt, 0.0),
            high_mib=max(more, 0.0) + doubt,
            why=f"{self.per_gib_mib:+.3f} MiB for each GiB, {self.per_cpu_mib:+.3f} MiB for each processor,"
            f" +/- {doubt:.0f} MiB",
        )


def _least(points: Sequence[Point]) -> int:
    """Return the least number of points of these kernels that a model can be fitted to."""
    return len({line_of(point.kernel) for point in points}) + 2


def line_of(release: str) -> str:
    """Return the version and flavour of a kernel's release, whose updates need as much."""
    return ".".join(release.split(".")[:2]).partition("-")[0] + (f" {_CLOUD}" if _CLOUD in release else "")


def _unpacking_mib(point: Point) -> float:
    """Return the part of a point's need at its boot that follows from its initramfs and its reservation."""
    return 2 * point.initramfs_kib / _GIB + point.reserved_mib / _PAGE_STRUCTS


def _known_mib(point: Point) -> float:
    """Return the part of a point's need that follows from its initramfs and its reservation."""
    return point.initramfs_kib / _GIB + point.reserved_mib / _PAGE_STRUCTS


def _of_part(part: Part) -> Estimate:
    return Estimate(name=part.name, low_mib=part.low_mib, high_mib=part.high_mib, why=part.why)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The fit of a model, and how well it predicts points that it does not know."""

    points: int
    kernels: tuple[str, ...]
    sigma_mib: float
    per_gib_mib: float
    per_cpu_mib: float
    left_out: int  # number of points that were predicted without themselves
    worst_mib: float
    worst_share: float


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The result of size --model."""

    fit: Fit
    machines: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        machines = [machine.to_json() for machine in self.machines]
        return {"schema": 1, "ok": True, "fit": asdict(self.fit), "machines": machines}

    def lines(self) -> Iterator[str]:
        """Yield the lines to print."""
        for machine in self.machines:
            request = machine.request
            yield f"{request.memory_mib / _GIB:g} GiB, {request.vcpus} CPUs  crashkernel={machine.crashkernel}"
            yield f"  need: {machine.low_mib} to {machine.high_mib} MiB, mostly {machine.dominant.name}"
            yield from (
                f"  {one.low_mib:6.0f} to {one.high_mib:4.0f}  {one.name}: {one.why}" for one in machine.estimates
            )
            yield from (f"  {one.reserved_mib:14}  {one.name}: {one.word}" for one in machine.vendors())
            yield ""
        fit = self.fit
        yield (
            f"fitted to {fit.points} points of {', '.join(fit.kernels)}; {fit.left_out} of them were predicted without"
            f" themselves, at worst {fit.worst_mib:.1f} MiB ({fit.worst_share:.1%}) away"
        )


def predict(points: Sequence[Point], requests: Sequence[Request]) -> Predictions:
    """Return the needs of machines, by a model of these points."""
    model = Model(points)
    left_out = list(model.left_out())
    fit = Fit(
        points=len(model.points),
        kernels=tuple(model.kernels),
        sigma_mib=round(model.sigma_mib, 3),
        per_gib_mib=round(model.per_gib_mib, 4),
        per_cpu_mib=round(model.per_cpu_mib, 4),
        left_out=len(left_out),
        worst_mib=round(max((abs(one.error_mib) for one in left_out), default=0.0), 2),
        worst_share=round(max((one.error_share for one in left_out), default=0.0), 4),
    )
    return Predictions(fit=fit, machines=tuple(model.predict(request) for request in requests))


@functools.cache
def shipped_model() -> Model:
    """Return the model of the points in the package."""
    return Model(load_points())
