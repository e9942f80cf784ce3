"""Write the tables of docs/size-model.md from the points and the table of the size model: size_model_page.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kdump_harness.campaigns.size.model import Request, load_table, predict, shipped_model
from kdump_harness.campaigns.size.points import Point, load_points

PAGE = Path(__file__).parents[1] / "size-model.md"
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EXAMPLE = Request(memory_mib=1536 << 10, vcpus=256, parts=("nfs", "mlx5_core", "kdump-utils"))
_MACHINES = {
    "1 GiB, 2 CPUs, kdump-tools (initramfs 6:15), local": Request(
        memory_mib=1 << 10, vcpus=2, packed_mib=6, unpacked_mib=15, parts=("kdump-tools",)
    ),
    "2 GiB, 2 CPUs, dracut, local": Request(memory_mib=2 << 10, vcpus=2, parts=("kdump-utils",)),
    "64 GiB, 32 CPUs, dracut, SSH": Request(memory_mib=64 << 10, vcpus=32, parts=("kdump-utils", "ssh")),
    "1536 GiB, 256 CPUs, dracut, NFS": Request(memory_mib=1536 << 10, vcpus=256, parts=("kdump-utils", "nfs")),
    "the same with mlx5_core": _EXAMPLE,
    "2 GiB, 4 CPUs, dracut, nouveau": Request(memory_mib=2 << 10, vcpus=4, parts=("kdump-utils", "nouveau")),
    "16 GiB, 8 CPUs, dracut, LUKS": Request(memory_mib=16 << 10, vcpus=8, parts=("kdump-utils", "luks2")),
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page with its tables."""
    blocks = {"output": _output, "points": _points, "drivers": _drivers, "vendors": _vendors, "reports": _reports}
    return _BLOCK.sub(lambda found: found[1] + "".join(f"{line}\n" for line in blocks[found[2]]()) + found[3], text)


def _output() -> Iterator[str]:
    yield "```"
    yield from predict(load_points(), [_EXAMPLE]).lines()
    yield "```"


def _points() -> Iterator[str]:
    yield "| kernel | memory | CPUs | reserved | initramfs | programs | unpacking | predicted without it | error |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in shipped_model().left_out():
        yield (
            f"| {_machine(one.point)} | {_mib(one.point.need_kib)} | {_mib(one.point.boot_kib)}"
            f" | {one.predicted_mib:.1f} MiB | {one.error_mib:+.1f} MiB |"
        )


def _drivers() -> Iterator[str]:
    yield "| driver | kernel | memory | CPUs | reserved | initramfs | measured | predicted without it | the driver |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for point in load_points():
        if point.drivers:
            predicted_kib = shipped_model().of_point_mib(point) * 1024
            yield (
                f"| {', '.join(point.drivers)} | {_machine(point)} | {_mib(point.most_kib)} | {_mib(predicted_kib)}"
                f" | +{_mib(point.most_kib - predicted_kib)} |"
            )


def _machine(point: Point) -> str:
    gib = f"{point.memory_mib / 1024:g} GiB"
    return f"{point.kernel} | {gib} | {point.vcpus} | {point.reserved_mib} MiB | {_mib(point.initramfs_kib)}"


def _mib(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB"


def _vendors() -> Iterator[str]:
    names = [row.name for row in load_table().vendor]
    yield f"| machine | need | {' | '.join(names)} |"
    yield "|---|---|" + "---|" * len(names)
    for name, request in _MACHINES.items():
        found = shipped_model().predict(request)
        sizes = " | ".join(
            f"{one.reserved_mib}, {one.word}" if one.reserved_mib else one.word for one in found.vendors()
        )
        yield f"| {name} | {found.low_mib} to {found.high_mib} | {sizes} |"


def _reports() -> Iterator[str]:
    yield "| report | too small | enough | need by the model | advised | source |"
    yield "|---|---|---|---|---|---|"
    for row in load_table().report:
        found = shipped_model().predict(row.request)
        yield (
            f"| {row.machine}, {row.memory_gib:g} GiB, {row.vcpus} CPUs | {row.too_small_mib or ''} |"
            f" {row.enough_mib or ''} | {found.low_mib} to {found.high_mib} | {found.crashkernel} | {row.source} |"
        )


if __name__ == "__main__":
    main()
