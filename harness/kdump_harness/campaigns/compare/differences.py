"""Search for differences between the drills of both sides."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from statistics import median

from ...base.stage import Stage
from ...diagnosis.lines import VARIABLE_NUMBER
from .result import Comparison, Difference, Sample
from .statistics import BETTER, FEWER, SAME, UNCLEAR, WORSE, Tolerance, judge, judge_rate, may_become_worse

# Smaller differences do not count, whatever their share: seconds under KVM, MiB, pages.
_LEAST_S, _LEAST_MIB, _LEAST_PAGES = 0.5, 2.0, 2048.0
# These pages belong in every dump. Fewer of them mean a smaller kernel, or a makedumpfile that drops too much: a check
# decides which.
_BELONG = ("kernel pages kept", "slab pages kept")
# Number of values that each side needs. Sizes depend on the boot, and a round has one boot of each side; times depend
# on the host as well and need one value more.
_VALUES, _VALUES_OF_TIMES = 4, 5
# Processor times by a clock of instructions: repeats of one kernel are less than 1 % apart at any load of the host.
COUNTED = "processor time of "
_LEAST_COUNTED_S, _VALUES_OF_COUNTED = 0.05, 2

# Messages of a kernel in trouble (lib/bug.c, kernel/panic.c, kernel/hung_task.c, kernel/rcu/).
_SPLAT = re.compile(
    r"(?:WARNING: (?:CPU|possible|suspicious|at)|BUG: |INFO: (?:task|rcu)|rcu: INFO|general protection fault"
    r"|unchecked MSR access|\[Firmware Bug\]|page allocation failure|Oops: ).*"
)


def find_differences(result: Comparison, factor: float, *, only: str | None = None) -> Iterator[Difference]:
    """Yield the differences of each drill; FACTOR is the slowness of this host."""
    for scenario in result.scenarios():
        if only is not None and scenario != only:
            continue
        old, new = result.of(scenario, 0), result.of(scenario, 1)
        if not old or not new:
            continue
        yield _verdicts(scenario, old, new)
        for what, part in (("check", "failed"), ("symptom", "symptoms"), ("console", "splats")):
            yield from _seen(scenario, what, part, old, new)
        yield from _figures(scenario, old, new, result, factor)


def _verdicts(scenario: str, old: Sequence[Sample], new: Sequence[Sample]) -> Difference:
    before, after = ([not sample.verified for sample in samples] for samples in (old, new))
    word = judge_rate(before, after)
    more = _more_often(before, after)
    if word == SAME and _furthest(new) < _furthest(old):
        word = WORSE
    return Difference(
        scenario=scenario, what="verdict", word=word, old=_verified(old), new=_verified(new),
        open=word == UNCLEAR and more,
    )  # fmt: skip


def _furthest(samples: Sequence[Sample]) -> Stage:
    return max(Stage[sample.reached] for sample in samples)


def _verified(samples: Sequence[Sample]) -> str:
    good = sum(sample.verified for sample in samples)
    text = f"verified {good} of {len(samples)}"
    if good < len(samples):
        text += f", reached {_furthest(samples).name}"
        if issue := next((sample.known_issue for sample in samples if sample.known_issue), None):
            text += f" (known issue {issue})"
    return text


def _more_often(before: Sequence[bool], after: Sequence[bool]) -> bool:
    return sum(after) * len(before) > sum(before) * len(after)


def _seen(scenario: str, what: str, part: str, old: Sequence[Sample], new: Sequence[Sample]) -> Iterator[Difference]:
    """Compare how often each side has failed checks, symptoms and kernel messages."""
    names = dict.fromkeys(itertools.chain(*(getattr(sample, part) for sample in (*old, *new))))
    for name in names:
        before = [name in getattr(sample, part) for sample in old]
        after = [name in getattr(sample, part) for sample in new]
        verb = "failed" if what == "check" else "seen"
        word = judge_rate(before, after)
        if word == BETTER and _furthest(new) < _furthest(old):
            continue  # a stage that was not reached cannot fail; the verdict reports that
        yield Difference(
            scenario=scenario,
            what=f"{what} {name}",
            word=word,
            old=f"{verb} {sum(before)} of {len(before)}",
            new=f"{verb} {sum(after)} of {len(after)}",
            open=word == UNCLEAR and _more_often(before, after),
        )


def _figures(
    scenario: str, old: Sequence[Sample], new: Sequence[Sample], result: Comparison, factor: float
) -> Iterator[Difference]:
    names = dict.fromkeys(itertools.chain(*(sample.figures for sample in (*old, *new))))
    for name in names:
        before = [sample.figures[name] for sample in old if name in sample.figures]
        after = [sample.figures[name] for sample in new if name in sample.figures]
        if not before or not after:
            continue  # the drill ended too early; its verdict reports that
        word = judge(before, after, _tolerance(name, result, factor))
        yield Difference(
            scenario=scenario,
            what=name,
            word=FEWER if word == BETTER and name in _BELONG else word,
            old=_values(before),
            new=_values(after),
            change=_change(median(before), median(after)),
            open=word == UNCLEAR and may_become_worse(before, after, most=result.most_rounds),
        )


def _tolerance(name: str, result: Comparison, factor: float) -> Tolerance:
    if name.startswith(COUNTED):
        return Tolerance(budget=result.max_slower, least=_LEAST_COUNTED_S, values=_VALUES_OF_COUNTED)
    if name.endswith(", s"):
        return Tolerance(budget=result.max_slower, least=_LEAST_S * factor, values=_VALUES_OF_TIMES)
    least = _LEAST_PAGES if name.endswith("pages kept") else _LEAST_MIB
    return Tolerance(budget=result.max_larger, least=least, values=_VALUES)


def _values(values: Sequence[float]) -> str:
    """Return the median and the range of the values as text."""
    low, high = min(values), max(values)
    form = ",.0f" if median(values) >= 1000 else ".1f" if median(values) >= 10 else ".2f"
    spread = f" ({low:{form}} to {high:{form}})" if len(values) > 1 else ""
    return f"{median(values):{form}}{spread}"


def _change(before: float, after: float) -> str:
    if not before:
        return "" if not after else "from nothing"
    return f"{(after - before) / before:+.0%}"


def splats(console: str) -> tuple[str, ...]:
    """Return each warning of a kernel on a console once, without the numbers that differ from boot to boot."""
    found = (VARIABLE_NUMBER.sub("N", match.group().strip())[:160] for match in _SPLAT.finditer(console))
    return tuple(dict.fromkeys(found))
