"""Read the logs of a crash, and judge them: the failure, its cause, and the stage that the crash reached."""

from __future__ import annotations

import dataclasses
import functools
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ..base.errors import UsageError
from ..base.stage import Stage
from .boots import Tracker
from .judge import Diagnosis, Judge, Proofs, Symptom
from .scan import Scanner
from .sources import is_dump, open_log
from .table import SymptomTable, all_symptoms

_FAMILY_ALIASES = {"rhel": "redhat", "fedora": "redhat", "sles": "suse", "ubuntu": "debian"}
_DMESG_OF_DUMP = re.compile(r"vmcore-dmesg|^dmesg\.(txt|\d)|^dmesg$")
# Files in a directory of evidence that may quote a log.
_NOT_LOGS = frozenset(
    (".json", ".jsonl", ".xml", ".html", ".md", ".toml", ".yaml", ".yml", ".py", ".sh", ".png", ".svg")
)
_FILES_MAX = 100  # of a case; a directory with more is not one case


def diagnose_file(
    path: Path | str,
    *,
    family: str | None = None,
    facts: Mapping[str, str] | None = None,
    table: SymptomTable | None = None,
) -> Diagnosis:
    """Return the diagnosis of a console log, a journal's text or a vmcore-dmesg.txt, read as a stream."""
    return diagnose_case([path], family=family, facts=facts, table=table)


def diagnose_case(
    paths: Sequence[Path | str],
    *,
    family: str | None = None,
    facts: Mapping[str, str] | None = None,
    table: SymptomTable | None = None,
) -> Diagnosis:
    """Return one diagnosis of the files of one crash, or of all files in a directory: its logs, and its dump."""
    table = table or all_symptoms()
    named = len(paths) == 1 and not Path(paths[0]).is_dir()
    logs: list[tuple[str, Tracker, bool]] = []
    dumps: list[Path] = []
    for path, chosen in _files(paths):
        if not named and is_dump(path):
            dumps.append(path)
            continue
        try:
            with open_log(path) as stream:
                tracker = _scanner(table).scan(stream)
            if not tracker.is_log:
                raise UsageError(f"{path}: is not a log of a kernel or of kdump (name a console or a journal's text)")
        except UsageError:
            if chosen:
                raise
            continue
        logs.append((path.name, tracker, bool(_DMESG_OF_DUMP.search(path.name))))
    if not logs:
        raise UsageError(f"{paths[0]}: has no log of a kernel or of kdump (name a console or a journal's text)")
    family = _FAMILY_ALIASES.get(family or "", family) or _family(tracker for _, tracker, _ in logs)

    def judge(log: tuple[str, Tracker, bool], elsewhere: Proofs) -> Judge:
        _, tracker, of_dump = log
        return Judge(table, tracker, family, dict(facts or {}), is_dmesg_of_dump=of_dump, elsewhere=elsewhere)

    if named:
        return judge(logs[0], Proofs()).diagnosis()
    saved, broken = _dumps(dumps, table)
    proofs = [judge(log, Proofs()).proofs(log[0]) for log in logs]
    found = []
    for number, log in enumerate(logs):
        others = [proof for at, proof in enumerate(proofs) if at != number]
        capture = next((proof.capture for proof in others if proof.capture), saved)
        elsewhere = Proofs(capture, next((proof.saved for proof in others if proof.saved), saved))
        found.append((log[0], judge(log, elsewhere).diagnosis()))
    return _one(found, broken, table, saved=saved is not None)


def diagnose_text(
    text: str,
    *,
    family: str | None = None,
    facts: Mapping[str, str] | None = None,
    table: SymptomTable | None = None,
    of_kdump: bool = False,
) -> Diagnosis:
    """Return the diagnosis of a console's text; of_kdump means that a command of kdump printed all of it."""
    stream: BinaryIO = io.BytesIO(text.encode("utf-8", "surrogateescape"))
    table = table or all_symptoms()
    tracker = _scanner(table).scan(stream, within_kdump=of_kdump)
    family = _FAMILY_ALIASES.get(family or "", family) or _family([tracker])
    return Judge(table, tracker, family, dict(facts or {}), is_dmesg_of_dump=False).diagnosis()


@functools.lru_cache(maxsize=2)
def _scanner(table: SymptomTable) -> Scanner:
    """Return the scanner of a table, made once."""
    return Scanner(table)


def _family(trackers: Iterable[Tracker]) -> str | None:
    """Return the family whose words the logs have most."""
    counts: Counter[str] = Counter()
    for tracker in trackers:
        counts.update(tracker.families)
    return max(counts, key=lambda name: counts[name], default=None)


def _files(paths: Sequence[Path | str]) -> Iterator[tuple[Path, bool]]:
    """Yield the files of a case, and whether each was named; those of a directory in the order of their names."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path, True
            continue
        files = [one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix not in _NOT_LOGS]
        if not files:
            raise UsageError(f"{path}: has no file to diagnose")
        if len(files) > _FILES_MAX:
            raise UsageError(f"{path}: has {len(files)} files, at most {_FILES_MAX} are one case (name the logs)")
        yield from ((one, False) for one in files)


def _dumps(paths: Sequence[Path], table: SymptomTable) -> tuple[str | None, Symptom | None]:
    """Return the name of a whole dump, and the symptom of a damaged one; a part of the dump suffices for neither."""
    from ..vmcore import inspect

    whole: str | None = None
    broken: Symptom | None = None
    for path in paths:
        inspection = inspect(path, quick=True)
        if inspection.whole:
            whole = path.name
        elif inspection.damage:
            row = table.row("dump-truncated")
            line = f"{path.name}: {inspection.why}"
            broken = Symptom(
                row.name, "failure", Stage[row.stage], "capture", line, 0, row.meaning, row.remedy, file=path.name
            )
    return whole, None if whole else broken


def _one(
    found: Sequence[tuple[str, Diagnosis]], broken: Symptom | None, table: SymptomTable, *, saved: bool
) -> Diagnosis:
    """Return the diagnoses of several logs as one: the stage that any of them shows, each symptom once."""
    stage = max(diagnosis.stage for _, diagnosis in found)
    if saved:
        stage = max(stage, Stage.SAVED)
    order = {"failure": 0, "warning": 1, "info": 2}
    rank = {row.name: number for number, row in enumerate(table.rows)}
    every = [dataclasses.replace(symptom, file=name) for name, diagnosis in found for symptom in diagnosis.symptoms]
    every += [broken] if broken is not None else []
    kept: dict[str, Symptom] = {}
    for symptom in sorted(every, key=lambda one: (order[one.severity], rank[one.name])):
        kept.setdefault(symptom.name, symptom)
    symptoms = tuple(kept.values())
    return Diagnosis(
        mode=Judge.mode(symptoms, stage),
        stage=stage,
        symptoms=symptoms,
        rejected=tuple(dataclasses.replace(one, file=name) for name, diagnosis in found for one in diagnosis.rejected),
        notes=tuple(f"{name} {note}" for name, diagnosis in found for note in diagnosis.notes),
        family=next((diagnosis.family for _, diagnosis in found if diagnosis.family), None),
        kernel=next((diagnosis.kernel for _, diagnosis in found if diagnosis.kernel), None),
    )
