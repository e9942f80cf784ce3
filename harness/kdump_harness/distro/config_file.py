"""Reads and writes the configuration files of kdump: text in, text out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..base.errors import UsageError

# makedumpfile: -c is zlib, -l LZO, -p snappy, -z zstd; tutorials that call -l zlib are wrong.
COMPRESS_FLAGS: Mapping[str, str] = {"none": "", "zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z"}
MAX_LEVEL = 31

_WITH_VALUE = "bdgixL"  # options of makedumpfile that take a value


@dataclass(frozen=True)
class Collection:
    """How a dump is written."""

    level: int
    compress: str
    elf: bool = False  # an ELF file instead of kdump's own format
    misread: str | None = None  # the text of a level that is not a number, which makedumpfile takes for another one
    refused: str = ""  # the reason why makedumpfile writes no dump


# ---------------------------------------------------------------- syntaxes


@dataclass(frozen=True)
class Syntax:
    """How a line of the file says that a key has a value."""

    read: Callable[[str, str], str | None]  # line and key; None when the line is about something else
    write: Callable[[str, str], str]  # key and value


def _read_assignment(line: str, key: str) -> str | None:
    """Return the value of a shell assignment, without quotes and comment."""
    name, equals, value = line.partition("=")
    if not equals or name.lstrip() != key:
        return None
    try:
        return next(iter(shlex.split(value, comments=True)), "")
    except ValueError:  # a quote that is not closed
        return value.strip().strip("\"'")


def _write_assignment(key: str, value: str) -> str:
    """In the double quotes that these files have, except where the shell would look into them."""
    return f"{key}={shlex.quote(value)}" if re.search(r'["$`\\]', value) else f'{key}="{value}"'


def _read_directive(line: str, key: str) -> str | None:
    """Return the value of a directive as kdumpctl reads it: a "#" ends it, and quotes around it go."""
    words = line.split(None, 1)
    if not words or words[0] != key:
        return None
    value = words[1].partition("#")[0].strip() if len(words) > 1 else ""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _write_directive(key: str, value: str) -> str:
    return f"{key} {value}"


def last_assignment(text: str, key: str) -> str | None:
    """Return the value of the last assignment of a key in a file that a shell reads; None without one."""
    found = [value for line in text.splitlines() if (value := _read_assignment(line, key)) is not None]
    return found[-1] if found else None


def with_assignment(text: str, key: str, value: str) -> str:
    """Return the text with one assignment of the key."""
    kept = [line for line in text.splitlines() if _read_assignment(line, key) is None]
    return "".join(f"{line}\n" for line in [*kept, _write_assignment(key, value)])


SYNTAXES: Mapping[str, Syntax] = {
    "assignment": Syntax(_read_assignment, _write_assignment),  # KEY="value", read by a shell
    "directive": Syntax(_read_directive, _write_directive),  # kdump.conf(5)
}


# ---------------------------------------------------------------- the file


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A family's configuration file: its key for each setting, and the defaults."""

    file: str
    syntax: str  # one of SYNTAXES
    collector: str  # how level and compression are written: one of COLLECTORS
    keys: Mapping[str, str]  # by setting; an empty key says that this release does not have it
    old_keys: Mapping[str, str] = field(default_factory=dict)  # by setting: older names that are read, too
    other_keys: tuple[str, ...] = ()  # that the programs which read the file know, too
    defaults: Mapping[str, str] = field(default_factory=dict)  # by setting
    settings: Mapping[str, str] = field(default_factory=dict)  # that arming writes, by setting
    options: str = field(default="", metadata={"holes": ("flags", "level")})  # of makedumpfile
    formats: Mapping[str, str] = field(default_factory=dict)  # the file's word for each compression
    private: bool = False  # only root may read the file
    in_initramfs: bool = False  # the capture initramfs has a copy: a change needs a new one
    off: str = ""  # pattern of the values of enabled with which the service loads no capture kernel
    waits: str = ""  # pattern of the values of on_failure with which the machine does not come back

    @property
    def mode(self) -> int:
        """The file's permission bits."""
        return 0o600 if self.private else 0o644

    def get(self, text: str, setting: str) -> str | None:
        """Return the value in force: the last one, as for the programs that read the file."""
        value = self.defaults.get(setting)
        if self.keys.get(setting):
            for line in text.splitlines():
                if (found := self._read(line, setting)) is not None:
                    value = found or self.defaults.get(setting)
        return value

    def _read(self, line: str, setting: str) -> str | None:
        """Return the value that a line gives a setting, by any of its names; None where it is about something else."""
        names = filter(None, (self.keys.get(setting), self.old_keys.get(setting)))
        values = (SYNTAXES[self.syntax].read(line, name) for name in names)
        return next((value for value in values if value is not None), None)

    def edit(self, text: str, values: Mapping[str, str | None]) -> str:
        """Return the text with these settings (None removes one); lines that need no change stay."""
        syntax = SYNTAXES[self.syntax]
        for setting, value in values.items():
            key = self.keys.get(setting)
            if not key:
                raise UsageError(f"{self.file} has no setting for {setting} (it has {', '.join(self.known)})")
            lines = text.splitlines()
            kept = [line for line in lines if self._read(line, setting) is None]
            if kept == lines if value is None else self.get(text, setting) == value:
                continue
            text = "".join(f"{line}\n" for line in [*kept, *([] if value is None else [syntax.write(key, value)])])
        return text

    @property
    def known(self) -> tuple[str, ...]:
        """The settings that the file has."""
        return tuple(setting for setting, key in self.keys.items() if key)

    @property
    def compressions(self) -> tuple[str, ...]:
        """Return the compressions that the file can ask for; "none" only where the file has a word for it."""
        return tuple(self.formats or COMPRESS_FLAGS)

    def core_collector(self, text: str) -> Collection:
        """How a dump will be written."""
        return COLLECTORS[self.collector].read(self, text)

    def with_collection(self, text: str, level: int, compress: str) -> str:
        """Return the text that asks for this level and compression."""
        if compress not in self.compressions:
            raise UsageError(
                f"{self.file} cannot ask for compression {compress} (known: {', '.join(self.compressions)})"
            )
        return self.edit(text, COLLECTORS[self.collector].write(self, level, compress))

    def directory(self, text: str) -> str | None:
        """Where dumps go in this guest; None when they go elsewhere."""
        place = self.get(text, "directory") or ""
        if place.lower().startswith("file://"):
            place = place[len("file://") :]
        return None if "://" in place else place


# ---------------------------------------------------------------- level and compression


@dataclass(frozen=True)
class CoreCollector:
    """How a configuration says level and compression."""

    read: Callable[[ConfigFile, str], Collection]
    write: Callable[[ConfigFile, int, str], Mapping[str, str]]


def _read_options(config: ConfigFile, text: str) -> Collection:
    """From the options of makedumpfile, which follow its name where another program could be set."""
    words = (config.get(text, "collector") or "").split()
    if not config.options.startswith("{") and (not words or "makedumpfile" not in words[0]):
        return Collection(0, "none", elf=True)  # cp, scp, dd: /proc/vmcore as it is
    return parse_options(words)


def _write_options(config: ConfigFile, level: int, compress: str) -> Mapping[str, str]:
    text = config.options.replace("{flags}", COMPRESS_FLAGS[compress]).replace("{level}", str(level))
    return {"collector": " ".join(text.split())}


def _read_format(config: ConfigFile, text: str) -> Collection:
    """Read a level and a format, which have separate keys."""
    level, named = config.get(text, "level") or "", config.get(text, "format") or ""
    word = named.lower()
    compress = next((name for name, known in config.formats.items() if known.lower() == word), "none")
    unfiltered = word == "raw"
    number, misread = (0, None) if unfiltered or not level else read_level(level)
    if not 0 <= number <= MAX_LEVEL:
        number, misread = 0, level  # kdump-save of openSUSE takes 0 instead
    refused = f"{config.keys['format']} is 'none', with which only the kernel log is saved" if named == "none" else ""
    elf = unfiltered or word == "elf"
    return Collection(level=number, compress=compress, elf=elf, misread=misread, refused=refused)


def _write_format(config: ConfigFile, level: int, compress: str) -> Mapping[str, str]:
    return {"level": str(level), "format": config.formats[compress]}


COLLECTORS: Mapping[str, CoreCollector] = {
    "options": CoreCollector(_read_options, _write_options),
    "format": CoreCollector(_read_format, _write_format),
}


def read_level(text: str) -> tuple[int, str | None]:
    """Return the level that makedumpfile reads, by atoi(3), and the text if it is not a decimal number.

    "0x1f" and "abc" are level 0, without a message and with exit status 0.
    """
    number = re.match(r"\s*[+-]?\d+", text)
    return int(number[0]) if number else 0, None if re.fullmatch(r"[0-9]+", text) else text


def parse_options(words: list[str]) -> Collection:
    """Level and compression among makedumpfile's options; the last one of a kind counts, as for getopt."""
    level, compress, elf, refused = 0, "none", False, ""
    misread: str | None = None
    names = {flag[1:]: name for name, flag in COMPRESS_FLAGS.items() if flag}
    rest = iter(words)
    for word in rest:
        if word == "--dump-dmesg":
            refused = f"{word} writes the kernel log only"
        if not word.startswith("-") or word.startswith("--"):
            continue
        for at, letter in enumerate(word[1:], start=2):
            compress = names.get(letter, compress)
            elf = elf or letter == "E"
            if letter in _WITH_VALUE:
                value = word[at:] or next(rest, "")
                if letter == "d":
                    level, misread = read_level(value.partition(",")[0])  # 11,31: 31 when the disk is full
                    if any(not 0 <= read_level(part)[0] <= MAX_LEVEL for part in value.split(",")):
                        refused = f"makedumpfile refuses the dump level {value!r}"
                break
    return Collection(level, compress, elf, None if refused else misread, refused)
