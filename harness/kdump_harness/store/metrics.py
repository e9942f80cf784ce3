"""Metrics of a store for the textfile collector of Prometheus' node exporter."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from ..base.output import Sample, format_metrics, replace_text
from .index import Index

HELP = {
    "kdump_store_look_timestamp_seconds": "When the store last looked for new dumps.",
    "kdump_store_last_arrival_timestamp_seconds": "When the newest dump was taken in.",
    "kdump_store_dumps": "Dumps in the store by state.",
    "kdump_store_bytes": "Size of all dumps on the disk.",
    "kdump_store_held_dumps": "Dumps that are protected from removal.",
    "kdump_store_refused_files": "Files that were refused or not judged, 1000 at most.",
    "kdump_store_host_dumps": "Dumps of a host.",
    "kdump_store_host_last_crash_timestamp_seconds": "When a host last crashed.",
    "kdump_store_signature_dumps": "Dumps of a crash, by its signature; the most frequent ones.",
}
_MOST_SIGNATURES = 50  # each is a series of Prometheus for as long as it has data


def write_metrics(index: Index, path: Path) -> None:
    """Replace the file as a whole. Raise UsageError if it cannot be written."""
    replace_text(path, render(index))


def render(index: Index) -> str:
    """Return the text of the file."""
    return format_metrics(HELP, _samples(index))


def _samples(index: Index) -> Iterator[Sample]:
    dumps = index.dumps()
    yield "kdump_store_look_timestamp_seconds", {}, time.time()
    if dumps:
        yield "kdump_store_last_arrival_timestamp_seconds", {}, max(dump.added_s for dump in dumps)
    for state, count in sorted(Counter(dump.state for dump in dumps).items()):
        yield "kdump_store_dumps", {"state": state}, float(count)
    yield "kdump_store_bytes", {}, float(index.total_bytes())
    yield "kdump_store_held_dumps", {}, float(sum(bool(dump.hold) for dump in dumps))
    yield "kdump_store_refused_files", {}, float(len(index.refused()))
    crashes: dict[str, list[float]] = defaultdict(list)
    for dump in dumps:
        crashes[dump.host].append(float(dump.crash_s or dump.added_s))
    for host, times_s in sorted(crashes.items()):
        yield "kdump_store_host_dumps", {"host": host}, float(len(times_s))
        yield "kdump_store_host_last_crash_timestamp_seconds", {"host": host}, max(times_s)
    signatures = Counter((dump.signature, dump.signature_text or "") for dump in dumps if dump.signature)
    for (signature, text), count in signatures.most_common(_MOST_SIGNATURES):
        yield "kdump_store_signature_dumps", {"signature": signature or "", "crash": text}, float(count)
