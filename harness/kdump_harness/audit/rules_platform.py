"""The rules about the platform: signatures of capture kernels, and panics that kdump did not take."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.foreign import whole_number
from .facts import Facts
from .finding import Finding, failure, note, risk, span


def signature(facts: Facts) -> Iterator[Finding]:
    """Compare Secure Boot and lockdown with the image that kexec loads."""
    words = facts.text("signature").split()
    if not facts.locked_by or len(words) != 3:
        return
    path, _kind, signed = words
    if signed != "0":
        return
    seen = f"{facts.locked_by}, and {path} has no signature"
    if facts.state.loaded:
        yield risk("kexec-signature-rejected", f"{seen}: it is loaded, and the next load will be refused")
    else:
        yield failure("kexec-signature-rejected", seen)


def records(facts: Facts) -> Iterator[Finding]:
    """Look at the records of panics in pstore, which the kernel writes where no capture kernel takes over."""
    backend, _, rest = facts.text("pstore").partition("\n")
    if facts.root and backend.strip("()") in ("", "null", "none"):
        yield note("no-panic-record", "pstore has no backend")
    record_s = whole_number(rest.split("\n")[-1]) or 0
    newest_s = max((dump.changed_s for dump in facts.dumps("finished")), default=0)
    if not record_s or record_s < max(newest_s, facts.success.at_s if facts.success else 0):
        return
    seen = f"a record of a panic is {span(facts.state.clock_s - record_s)} old, and no dump is newer"
    if facts.text("notifiers").strip() not in ("Y", "1") and record_s > facts.changed_s:
        yield risk("panic-not-captured", f"{seen}; kdump has not changed since")
    else:
        yield note("panic-not-captured", seen)
