"""Jobs of a schedule: one drill each, as the arguments of its verb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..base.errors import UsageError

DRILL, KERNEL = "drill", "kernel"
VERBS = (DRILL, KERNEL)  # verbs whose result is a verdict


@dataclass(frozen=True)
class Job:
    """One scheduled drill."""

    subject: str  # image, file, domain or kernel
    words: tuple[str, ...]  # arguments of the verb
    verb: str = DRILL

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
    """Return the verb of a job and its arguments. Raises UsageError for a verb that gives no verdict."""
    if not words or words[0] not in VERBS:
        raise UsageError(f"invalid --job: got {text!r}, expected arguments that begin with {' or '.join(VERBS)}")
    return words[0], tuple(words[1:])
