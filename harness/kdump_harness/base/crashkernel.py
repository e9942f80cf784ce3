"""The crashkernel= parameters of a kernel command line: their words, and what a kernel reserves by them.

Sources: kernel/crash_reserve.c of Linux 6.7 to 7.3 (before, kernel/crash_core.c); admin-guide/kdump/kdump.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import UsageError
from .units import MIB

PARAMETER = "crashkernel="
AUTO = "auto"  # which kernels of some distributions take, and upstream's refuse
HIGH, LOW, CMA = ",high", ",low", ",cma"
LOW_DEFAULT_MIB = 256  # with a high part on x86_64, if no ,low asks for another size
CMA_SINCE = (6, 17)  # the first Linux that knows ,cma
EXAMPLES = "256M, 1G-4G:192M,4G-:256M or '256M,high crashkernel=72M,low'"

_SUFFIXES = (HIGH, LOW, CMA)
_ROUNDED_TO_MIB = 128  # the kernel rounds its memory up before it looks into ranges
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_MOST_DIGITS = 24  # of an octal number of 64 bits, and some
_NUMBER = re.compile(r"(0x[0-9a-f]+|0[0-7]*|[1-9]\d*|)([KMGTPE]?)", re.IGNORECASE | re.ASCII)
_WORD = re.compile(r"[\w@,:.+-]+", re.ASCII)
_WORDS = re.compile(rf"{PARAMETER}(\S*)")


class WordRefused(ValueError):
    """A parameter that the kernel does not accept: it reserves nothing by it."""

    def __init__(self, word: str, why: str) -> None:
        super().__init__(f"the kernel refuses {PARAMETER}{word}: {why}")
        self.word, self.why = word, why


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """The memory that the parameters of one command line ask for, by part."""

    main_mib: int = 0  # by the plain parameter, else by ,high
    low_mib: int = 0  # in addition to a high part
    cma_mib: int = 0
    high: bool = False  # the main part is asked for above 4 GiB
    remarks: tuple[str, ...] = ()  # sentences about the other words

    @property
    def fixed_mib(self) -> int:
        """The memory that only the capture kernel may use."""
        return self.main_mib + self.low_mib


@dataclass(frozen=True)
class Reservation:
    """A reservation as the user names it: values of crashkernel=, "none" or "default" (the distribution's)."""

    text: str | None

    @property
    def none(self) -> bool:
        """Whether no memory shall be reserved."""
        return self.text == "none"

    @property
    def distribution_default(self) -> bool:
        """Whether the distribution decides, and not the harness."""
        return self.text == "default"

    @property
    def words(self) -> tuple[str, ...]:
        """The values of crashkernel=; empty where the harness writes none."""
        if self.text is None or self.none or self.distribution_default:
            return ()
        return tuple(part.removeprefix(PARAMETER) for part in self.text.split(" "))

    @property
    def cma(self) -> str | None:
        """The word that asks for CMA memory."""
        return _last(self.words, CMA)

    @property
    def arguments(self) -> str:
        """The kernel arguments; empty where the harness writes none."""
        return " ".join(PARAMETER + word for word in self.words)

    def check(self, memory_mib: int | None = None) -> None:
        """Raise UsageError for a word that is not a crashkernel= value, or that a kernel with MEMORY_MIB refuses."""
        parts = self.text.split(" ") if self.text is not None else []
        for number, part in enumerate(parts):
            word = part.removeprefix(PARAMETER)
            if not _WORD.fullmatch(word) or (number and word == part):
                raise UsageError(
                    f"--crashkernel {self.text!r} cannot be a kernel argument: {part!r} is not a value of crashkernel="
                    f" (expected one as in {EXAMPLES})"
                )
        if memory_mib is not None:
            try:
                amounts(self.words, memory_mib)
                for word in self.words:  # the kernel reads no further than it needs
                    _size_bytes(word, _suffix(word), memory_mib * MIB)
            except WordRefused as error:
                raise UsageError(f"{error} (expected a value as in {EXAMPLES})") from None

    def with_main(self, value: str) -> str:
        """Return the text with another value in the main word, which keeps its suffix."""
        high = (main_word(self.words) or "").endswith(HIGH)
        others = [_last(self.words, suffix) for suffix in ((LOW, CMA) if high else (CMA,))]
        return joined([value + HIGH if high else value, *(word for word in others if word is not None)])


def joined(words: Sequence[str]) -> str:
    """Return words as one text, as --crashkernel takes it."""
    return f" {PARAMETER}".join(words)


def words_in(command_line: str) -> tuple[str, ...]:
    """Return the values of all crashkernel= parameters; the kernel looks for the name in other words, too."""
    return tuple(_WORDS.findall(command_line))


def main_word(words: Sequence[str]) -> str | None:
    """Return the word that decides where the capture kernel is loaded: the last plain one, else the last ,high."""
    return _last(words, None) or _last(words, HIGH)


def release_knows_cma(kernel: str) -> bool:
    """Return whether a kernel release is new enough to know the suffix ,cma."""
    found = re.match(r"(\d+)\.(\d+)", kernel)
    return found is not None and tuple(map(int, found.groups())) >= CMA_SINCE


def require_cma(reservation: Reservation, kernel: str, config: str, *, knows_cma: bool | None = None) -> None:
    """Raise UsageError for a word with ,cma that a kernel cannot reserve, by its release and configuration."""
    if reservation.cma is None:
        return
    if not (release_knows_cma(kernel) if knows_cma is None else knows_cma):
        raise UsageError(
            f"the kernel {kernel} refuses {PARAMETER}{reservation.cma}: Linux {'.'.join(map(str, CMA_SINCE))} and later"
            " know ,cma (choose a later kernel)"
        )
    if config and "CONFIG_CMA=y" not in config.splitlines():
        raise UsageError(
            f"the kernel {kernel} cannot reserve {PARAMETER}{reservation.cma}: it was built without CONFIG_CMA"
            " (choose another kernel)"
        )


def counted(words: Sequence[str], *, knows_cma: bool = True) -> tuple[str, ...]:
    """Return the words that a kernel uses, the main one first; empty where it has no main one."""
    known = _SUFFIXES if knows_cma else (HIGH, LOW)
    plain, high, low, cma = (_last(words, suffix, known) for suffix in (None, *_SUFFIXES))
    used = (plain, cma) if plain is not None else (high, low, cma) if high is not None else ()
    return tuple(word for word in used if word is not None)


def amounts(words: Sequence[str], memory_mib: int, *, knows_cma: bool = True) -> Amounts:
    """Return what a kernel with so much memory reserves by its crashkernel= WORDS. Raise WordRefused as it does.

    A kernel before 6.17 does not know the suffix ,cma, and takes such a word for a plain one.
    """
    known = _SUFFIXES if knows_cma else (HIGH, LOW)
    used = counted(words, knows_cma=knows_cma)
    sizes = {_suffix(word, known): _size_bytes(word, _suffix(word, known), memory_mib * MIB) for word in used}
    main_bytes = next(iter(sizes.values()), 0)
    if main_bytes >= memory_mib * MIB:
        raise WordRefused(used[0], f"the machine has only {memory_mib} MiB")
    if not main_bytes:  # the kernel reads no further
        return Amounts(remarks=(nothing(words, memory_mib),) if words else ())
    high = used[0].endswith(HIGH)
    return Amounts(
        main_mib=main_bytes // MIB,
        low_mib=sizes.get(LOW, LOW_DEFAULT_MIB * MIB) // MIB if high else 0,
        cma_mib=sizes.get(CMA, 0) // MIB,
        high=high,
        remarks=tuple(
            f"the kernel ignores {PARAMETER}{word} because of {PARAMETER}{_stronger(word, used)}"
            for word in dict.fromkeys(words)
            if word not in used
        ),
    )


def _size_bytes(word: str, suffix: str | None, memory: int) -> int:
    """Return the bytes that one word reserves. Raise WordRefused where the kernel does not accept it."""
    if suffix is not None:
        return _with_suffix(word, suffix)
    return _ranges(word, memory) if ":" in word else _simple(word)


def _stronger(word: str, used: Sequence[str]) -> str:
    """Return the used word that a kernel prefers to WORD: the last one of its kind, or the main one."""
    return next((other for other in used if _suffix(other) == _suffix(word)), used[0])


def nothing(words: Sequence[str], memory_mib: int) -> str:
    """Return why nothing is reserved by words that are all accepted."""
    if main_word(words) is None:
        return f"{PARAMETER}{joined(words)} reserves nothing: {words[-1]} needs a fixed part in addition (as in 128M)"
    return f"{PARAMETER}{joined(words)} reserves nothing on a machine with {memory_mib} MiB"


def reserved_mib(parameter: str, memory_mib: int) -> int | None:
    """Return the MiB of the main part that --crashkernel PARAMETER reserves, 0 for none; None if it is refused."""
    try:
        return amounts(Reservation(parameter).words, memory_mib).main_mib
    except WordRefused:
        return None


def rounded_mib(memory_mib: int) -> int:
    """Return the memory of a machine as its kernel compares it with ranges."""
    return -(-memory_mib // _ROUNDED_TO_MIB) * _ROUNDED_TO_MIB


def ranges(sizes: Mapping[int, int]) -> str:
    """Return the parameter that reserves so many MiB from each memory size (MiB) up to the next."""
    steps: list[tuple[int, int]] = []
    for memory_mib in sorted(sizes):
        most = max(sizes[memory_mib], steps[-1][1] if steps else 0)  # more memory never gets less
        if not steps or most > steps[-1][1]:
            steps.append((memory_mib, most))
    ends = [_size(start) for start, _ in steps[1:]] + [""]
    return ",".join(f"{_size(start)}-{end}:{mib}M" for (start, mib), end in zip(steps, ends, strict=True))


def parse_size_mib(text: str) -> int | None:
    """Return the MiB of a size like 512M or 2G (MiB without a unit); None for an invalid size."""
    found = re.fullmatch(r"(\d{1,7})([MG]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    return int(found.group(1)) * (1024 if found.group(2).upper() == "G" else 1) if found else None


# ---------------------------------------------------------------- the kernel's parsers


def _suffix(word: str, known: Sequence[str] = _SUFFIXES) -> str | None:
    return next((suffix for suffix in known if word.endswith(suffix)), None)


def _last(words: Sequence[str], suffix: str | None, known: Sequence[str] = _SUFFIXES) -> str | None:
    """Return the last word with this suffix (get_last_crashkernel); None stands for words without a known one."""
    return next((word for word in reversed(words) if _suffix(word, known) == suffix), None)


def _simple(word: str) -> int:
    """SIZE or SIZE@OFFSET (parse_crashkernel_simple)."""
    size, rest = _number(word, word)
    if rest.startswith("@"):
        return size
    _end(word, rest)
    return size


def _with_suffix(word: str, suffix: str) -> int:
    """SIZE with a suffix (parse_crashkernel_suffix); a range or an offset cannot have one."""
    size, rest = _number(word, word)
    if rest != suffix:
        raise WordRefused(word, f"unrecognized character {rest[:1]!r}, since only a plain size may have {suffix}")
    return size


def _ranges(word: str, memory: int) -> int:
    """Return the size of the first range that holds the memory (parse_crashkernel_mem); 0 without one."""
    total = rounded_mib(memory // MIB) * MIB
    rest = word
    while True:
        start, rest = _number(word, rest)
        rest = _expect(word, rest, "-")
        end = None
        if not rest.startswith(":"):
            end, rest = _number(word, rest)
            if end <= start:
                raise WordRefused(word, "a range ends at or before its start")
        size, rest = _number(word, _expect(word, rest, ":"))
        if size >= total:
            raise WordRefused(word, f"{size // MIB} MiB are more than the memory of {memory // MIB} MiB")
        if start <= total and (end is None or total < end):
            _, at, offset = rest.partition("@")
            if size and at:
                _number(word, offset)
            return size
        if not rest.startswith(","):
            return 0
        rest = rest[1:]


def _expect(word: str, rest: str, character: str) -> str:
    if not rest.startswith(character):
        raise WordRefused(word, f"{character!r} is missing in a range")
    return rest[1:]


def _number(word: str, rest: str) -> tuple[int, str]:
    """Return a number with its unit, and what follows it (memparse)."""
    found = _NUMBER.match(rest)
    assert found is not None
    digits, unit = found.groups()
    if not found.group():
        raise WordRefused(word, f"a size is missing before {rest[:1]!r}" if rest else "a size is missing at its end")
    if len(digits) > _MOST_DIGITS:
        raise WordRefused(word, f"a size has {len(digits)} digits, more than a number of 64 bits")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
    return int(digits or "0", base) << _SHIFTS[unit.upper()], rest[found.end() :]


def _end(word: str, rest: str) -> None:
    if rest:
        raise WordRefused(word, f"unrecognized character {rest[0]!r}")


def _size(mib: int) -> str:
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"
