"""Jobs of a schedule: one drill or one audit each, as the arguments of its verb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..base.errors import UsageError

DRILL, KERNEL, AUDIT = "drill", "kernel", "audit"
VERBS = (DRILL, KERNEL, AUDIT)


@dataclass(frozen=True)
class Job:
    """One scheduled drill or audit."""

    subject: str  # image, file, domain or kernel, or the machines of an audit
    words: tuple[str, ...]  # arguments of the verb
    verb: str = DRILL

    @property
    def noun(self) -> str:
        """Word for a run of the job."""
        return AUDIT if self.verb == AUDIT else DRILL

    @property
    def name(self) -> str:
        """Name under which the outcome is remembered."""
        words = self.words if self.verb == DRILL else (self.verb, *self.words)
        return " ".join(words)


def image_jobs(images: Sequence[str], domains: Sequence[str], options: Sequence[str]) -> Iterator[Job]:
    """Yield the drills of images, files and domains with common options."""
    for image in images:
        yield Job(image, (image, *options))
    for domain in domains:
        yield Job(domain, ("--domain", domain, *options))


def split_verb(words: Sequence[str], text: str) -> tuple[str, tuple[str, ...]]:
    """Return the verb of a job and its arguments. Raises UsageError for any other verb."""
    if not words or words[0] not in VERBS:
        raise UsageError(f"invalid --job: got {text!r}, expected arguments that begin with {', '.join(VERBS)}")
    return words[0], tuple(words[1:])
