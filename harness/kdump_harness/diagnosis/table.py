"""Load the symptom table, and the marks by which the engine knows its place in a log."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..base import tables
from ..base.errors import TableError
from ..base.stage import Stage
from ..configuration.own_tables import OwnTable, family_names, own_rows
from .patterns import PatternError, TextPattern, compile_pattern
from .remedies import ANY, KERNEL_LOG, PLACEHOLDERS, PLATFORMS, SIZE_GIVEN, Variant, placeholders
from .rules import RULES

SYMPTOMS = Path(__file__).resolve().parent / "symptoms.toml"
MARKS = Path(__file__).resolve().parent / "marks.toml"

SEVERITIES = ("failure", "warning", "info")
PLACES_IN_WORDS = {"first": "first kernel", "handover": "hand-over", "capture": "capture kernel", "next": "next boot"}
DURING = ("any", "dmesg", "vmcore")
PAST = ("saving", "saved", "restart", "login", "never")


@dataclass(frozen=True, kw_only=True)
class SymptomRow:
    """One symptom as the table has it; the rows stand in the order of causes before consequences."""

    name: str
    meaning: str
    remedy: str
    stage: str
    severity: str = "failure"
    where: tuple[str, ...] = ("first", "handover", "capture", "next")
    patterns: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    rule: str = ""  # the function of rules.py that infers the symptom from the whole log
    family: tuple[str, ...] = ()
    generic: bool = False  # every kernel may print it: counts only where the phase is known or likely
    during: str = "any"  # which makedumpfile run the line must belong to
    past: str = "saved"  # the later event that overcomes it, or "never"
    refuses_reservation: bool = False  # so the value of crashkernel= in the log is one that failed
    after_end: bool = False  # firmware or a boot loader prints it, after the kernel of the boot
    last_resort: bool = False  # counts only where no other failure of the same stage is found
    explains: bool = False  # a cause where something else failed too, else a warning
    not_with: tuple[str, ...] = ()  # signs of another cause of the same lines, with which it does not count
    despite_load: bool = False  # counts although a capture kernel was loaded afterwards
    remedies: dict[str, str] = field(default_factory=dict)  # commands by family or platform
    variant: tuple[Variant, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MarkRow:
    """A milestone that lines show: its name and its wording."""

    name: str
    patterns: tuple[str, ...]
    unless: tuple[str, ...] = ()
    family: str = ""


@dataclass(frozen=True)
class Matcher:
    """The compiled patterns of one row; a line that matches one of unless is not meant."""

    patterns: tuple[TextPattern, ...]
    unless: tuple[TextPattern, ...]


@dataclass(frozen=True, eq=False)
class SymptomTable:
    """All symptoms with their compiled patterns."""

    path: Path
    rows: tuple[SymptomRow, ...]
    matchers: tuple[Matcher, ...]

    def row(self, name: str) -> SymptomRow:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)

    def by_rule(self, rule: str) -> int | None:
        """Return the number of the row that a rule infers, or None when the table has none."""
        return next((number for number, row in enumerate(self.rows) if row.rule == rule), None)


@functools.lru_cache(maxsize=4)
def load_symptoms(path: Path | None = None) -> SymptomTable:
    """Return the symptoms of this package, or of another table. Raise TableError with file and row of an error."""
    return _table(path or SYMPTOMS, _rows(path or SYMPTOMS))


def all_symptoms() -> SymptomTable:
    """Return the symptoms of this package and those of the user, which come first and replace others of their name."""
    own = tuple((table, json.dumps(row, default=str)) for table, _, row in own_rows("symptom"))
    return _with_own(own) if own else load_symptoms()


@functools.lru_cache(maxsize=4)
def _with_own(own: tuple[tuple[OwnTable, str], ...]) -> SymptomTable:
    """Return the symptoms of several tables and of this package, each name once."""
    kept: dict[str, tuple[SymptomRow, Path]] = {}
    families = family_names()
    for table, text in own:
        content = json.loads(text)
        where = f"{table.path.name}: [[symptom]] {content.get('name', '') if isinstance(content, dict) else content}"
        row = tables.build(content, SymptomRow, where=where)
        _check(row, families, where=where)
        if row.name in kept and kept[row.name][1] == table.path:
            raise TableError(f"{where}: stands twice")
        kept.setdefault(row.name, (row, table.path))
    for row in _rows(SYMPTOMS):
        kept.setdefault(row.name, (row, SYMPTOMS))
    rows = tuple(row for row, _ in kept.values())
    matchers = tuple(_matcher(row, path, "symptom") for row, path in kept.values())
    return SymptomTable(own[0][0].path, rows, matchers)


def _rows(path: Path) -> tuple[SymptomRow, ...]:
    """Return the checked rows of one table."""
    rows = tables.load_rows(path, "symptom", SymptomRow)
    families = family_names()  # looks into several directories
    for row in rows:
        _check(row, families, where=f"{path.name}: [[symptom]] {row.name}")
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path.name}: [[symptom]] {name}: stands twice")
    return rows


def _table(path: Path, rows: tuple[SymptomRow, ...]) -> SymptomTable:
    """Return the table of these rows."""
    return SymptomTable(path, rows, tuple(_matcher(row, path, "symptom") for row in rows))


@functools.lru_cache(maxsize=1)
def load_marks() -> tuple[tuple[MarkRow, Matcher], ...]:
    """Return the marks with their compiled patterns."""
    rows = tables.load_rows(MARKS, "mark", MarkRow)
    return tuple((row, _matcher(row, MARKS, "mark")) for row in rows)


def _check(row: SymptomRow, families: tuple[str, ...], *, where: str) -> None:
    """Raise TableError unless the engine knows every word of the row."""
    _known(row.stage, tuple(stage.name for stage in Stage), where=where, key="stage")
    _known(row.severity, SEVERITIES, where=where, key="severity")
    _known(row.during, DURING, where=where, key="during")
    _known(row.past, PAST, where=where, key="past")
    for place in row.where:
        _known(place, tuple(PLACES_IN_WORDS), where=where, key="where")
    for family in row.family:
        _known(family, families, where=where, key="family")
    if row.rule:
        _known(row.rule, tuple(RULES), where=where, key="rule")
    if not row.rule and not row.patterns:
        raise TableError(f"{where}: needs patterns or a rule")
    signs = {SIZE_GIVEN, KERNEL_LOG} | {
        mark.name.removeprefix("sign-") for mark, _ in load_marks() if mark.name.startswith("sign-")
    }
    for sign in (sign for variant in row.variant for sign in variant.signs):
        _known(sign, tuple(sorted(signs)), where=where, key="sign")
    rows: tuple[SymptomRow | Variant, ...] = (row, *row.variant)
    for texts in rows:
        # Only a command may lack a value: then the sentence stands in for it.
        needed = tuple(name for name, default in PLACEHOLDERS.items() if default is None)
        _check_remedy(texts.remedy, tuple(name for name in PLACEHOLDERS if name not in needed), where=where)
        for name, remedy in texts.remedies.items():
            _known(name, (*families, *PLATFORMS, ANY), where=where, key="family")
            _check_remedy(remedy, tuple(PLACEHOLDERS), where=where)


def _check_remedy(remedy: str, known: tuple[str, ...], *, where: str) -> None:
    """Raise TableError unless every placeholder of a remedy is known."""
    try:
        names = placeholders(remedy)
    except ValueError as error:
        raise TableError(f"{where}: remedy has {error} (write {{{{ for a brace)") from None
    for name in sorted(names):
        _known(name, known, where=where, key="placeholder")


def _known(value: str, known: tuple[str, ...], *, where: str, key: str) -> None:
    """Raise TableError unless value is one of known."""
    if value not in known:
        raise TableError(f"{where}: unknown {key} {value!r} (known: {', '.join(known)})")


Row = TypeVar("Row", SymptomRow, MarkRow)


def _matcher(row: Row, path: Path, key: str) -> Matcher:
    """Return the row's compiled patterns. Raise TableError that names a bad pattern."""

    def compiled(texts: tuple[str, ...], *, needs_word: bool) -> tuple[TextPattern, ...]:
        found = []
        for text in texts:
            try:
                found.append(compile_pattern(text, needs_word=needs_word))
            except PatternError as error:
                raise TableError(f"{path.name}: [[{key}]] {row.name}: pattern {text!r} {error}") from None
        return tuple(found)

    return Matcher(compiled(row.patterns, needs_word=True), compiled(row.unless, needs_word=False))
