"""The kernel log out of a dump, from VMCOREINFO alone."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache

from .formats.damage import VmcoreError
from .formats.vmcoreinfo import Vmcoreinfo

ReadKernel = Callable[[int, int], bytes]

MAX_TEXT_BYTES = 64 << 20
_MAX_COUNT_BITS = 26
_MAX_RECORDS = 1 << 20  # a log of 32 MiB, the largest that a kernel is configured with
_MAX_UNREADABLE = 10_000
_MAX_BUFFER_BITS = 31

_STATE_SHIFT = 62
_ID_MASK = (1 << _STATE_SHIFT) - 1
_COMMITTED, _FINALIZED = 1, 2  # kernel/printk/printk_ringbuffer.h: enum desc_state
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CHUNK_BYTES = 4096  # no page of memory is smaller


def kernel_log(info: Vmcoreinfo, read: ReadKernel, *, last: int | None = None) -> str:
    """Return the log as dmesg prints it, or its last records. Raise VmcoreError when it cannot be found in the dump."""
    read = _in_chunks(read)
    if "SYMBOL(prb)" in info:
        records = _ring_buffer(info, read, last or _MAX_RECORDS)
    elif "SYMBOL(log_buf)" in info:
        records = iter(deque(_record_buffer(info, read), maxlen=last))
    else:
        raise VmcoreError("VMCOREINFO does not say where the kernel log is")
    lines: list[str] = []
    total = 0
    for ts_nsec, text in records:
        stamp = f"[{ts_nsec // 10**9:5d}.{ts_nsec % 10**9 // 1000:06d}] "
        added = [stamp + _printable(line) for line in text.split(b"\n")]
        lines += added
        total += len(text) + len(stamp) * len(added)
        if total > MAX_TEXT_BYTES or len(lines) > _MAX_RECORDS:
            break
    return "".join(line + "\n" for line in lines)


def _printable(line: bytes) -> str:
    """Escape all that is neither text nor tab as \\x.., like dmesg."""
    return _CONTROL.sub(lambda char: f"\\x{ord(char[0]):02x}", line.decode("utf-8", "replace"))


class _Layout:
    """The size and the members of a kernel struct, as VMCOREINFO gives them."""

    def __init__(self, info: Vmcoreinfo, name: str) -> None:
        self._info, self._name = info, name
        self.size_bytes = info.size(name)
        if not 0 < self.size_bytes <= 4096:
            raise VmcoreError(f"VMCOREINFO: SIZE({name}) is {self.size_bytes}")

    def place(self, member: str, size_bytes: int = 8, inner: int = 0) -> slice:
        """Return the bytes of an unsigned member; inner is added to its offset."""
        at = self._info.offset(f"{self._name}.{member}") + inner
        if not 0 <= at <= self.size_bytes - size_bytes:
            raise VmcoreError(f"VMCOREINFO: {self._name}.{member} lies outside {self._name}")
        return slice(at, at + size_bytes)

    def read(self, read: ReadKernel, address: int) -> bytes:
        """Return the bytes of the struct at an address."""
        return _exactly(read, address, self.size_bytes)


def _number(info: Vmcoreinfo, raw: bytes, place: slice) -> int:
    return info.unsigned(raw[place])


def _in_chunks(read: ReadKernel) -> ReadKernel:
    """Return a reader that keeps the last chunks of memory, since hundreds of records lie in one chunk."""
    chunk = lru_cache(maxsize=8)(lambda number: read(number * _CHUNK_BYTES, _CHUNK_BYTES))

    def read_in_chunks(address: int, length: int) -> bytes:
        number, inside = divmod(address, _CHUNK_BYTES)
        if inside + length <= _CHUNK_BYTES:
            return chunk(number)[inside : inside + length]
        return read(address, length)

    return read_in_chunks


def _exactly(read: ReadKernel, address: int, length: int) -> bytes:
    data = read(address, length)
    if len(data) != length:
        raise VmcoreError(f"kernel memory at {address:#x} is not in the dump")
    return data


def _variable(info: Vmcoreinfo, read: ReadKernel, name: str, size_bytes: int = 8) -> int:
    """Return the value of an unsigned variable of the kernel."""
    return info.unsigned(_exactly(read, info.symbol(name), size_bytes))


def _ring_buffer(info: Vmcoreinfo, read: ReadKernel, last: int) -> Iterator[tuple[int, bytes]]:
    """Yield time stamp and text of the last records in the lockless ring buffer (Linux 5.10 and later)."""
    ring_at = _variable(info, read, "prb")
    desc_ring, data_ring = _Layout(info, "prb_desc_ring"), _Layout(info, "prb_data_ring")
    descs = desc_ring.read(read, ring_at + info.offset("printk_ringbuffer.desc_ring"))
    texts = data_ring.read(read, ring_at + info.offset("printk_ringbuffer.text_data_ring"))
    counter = info.offset("atomic_long_t.counter")
    count_bits = _number(info, descs, desc_ring.place("count_bits", 4))
    size_bits = _number(info, texts, data_ring.place("size_bits", 4))
    if count_bits > _MAX_COUNT_BITS or not 3 <= size_bits <= _MAX_BUFFER_BITS:
        raise VmcoreError(f"the kernel log claims 2^{count_bits} records in 2^{size_bits} bytes")
    desc_at, info_at = _number(info, descs, desc_ring.place("descs")), _number(info, descs, desc_ring.place("infos"))
    data_at = _number(info, texts, data_ring.place("data"))
    head = _number(info, descs, desc_ring.place("head_id", inner=counter))
    tail = _number(info, descs, desc_ring.place("tail_id", inner=counter))
    count = min((head - tail & _ID_MASK) + 1, 1 << count_bits)
    desc, about = _Layout(info, "prb_desc"), _Layout(info, "printk_info")
    state_var = desc.place("state_var", inner=counter)
    begin = desc.place("text_blk_lpos", inner=info.offset("prb_data_blk_lpos.begin"))
    following = desc.place("text_blk_lpos", inner=info.offset("prb_data_blk_lpos.next"))
    text_len, ts_nsec = about.place("text_len", 2), about.place("ts_nsec")
    unreadable = found = 0
    for step in range(max(0, count - last), count):
        record_id = tail + step & _ID_MASK
        slot = record_id & (1 << count_bits) - 1
        try:
            raw = desc.read(read, desc_at + slot * desc.size_bytes)
            state = _number(info, raw, state_var)
            if state & _ID_MASK != record_id or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
                continue
            raw_info = about.read(read, info_at + slot * about.size_bytes)
            begins, ends, length = (
                _number(info, raw, begin),
                _number(info, raw, following),
                _number(info, raw_info, text_len),
            )
            text = _block(read, data_at, size_bits, begins, ends, length)
            found += 1
            yield _number(info, raw_info, ts_nsec), text
        except VmcoreError:
            unreadable += 1  # a page of the log is missing or damaged: give the rest
            if unreadable > _MAX_UNREADABLE:
                break
    if unreadable and not found:
        raise VmcoreError(f"none of its {count:,} records is in the dump")


def _block(read: ReadKernel, data_at: int, size_bits: int, begin: int, following: int, length: int) -> bytes:
    """Return the text of a data block, which begins with the 8 bytes of its descriptor's id."""
    if begin & 1:  # FAILED_LPOS and EMPTY_LINE_LPOS: a record without text
        return b""
    mask = (1 << size_bits) - 1
    first, last = begin & mask, following & mask
    if begin >> size_bits != following - 1 >> size_bits:
        first = 0  # a block never wraps: it was put at the start of the buffer instead
    elif last == 0:
        last = 1 << size_bits
    if last < first + 8:
        return b""
    return _exactly(read, data_at + first + 8, min(length, last - first - 8))


def _record_buffer(info: Vmcoreinfo, read: ReadKernel) -> Iterator[tuple[int, bytes]]:
    """Yield time stamp and text of each record in log_buf (Linux 3.5 to 5.9)."""
    name = "printk_log" if "SIZE(printk_log)" in info else "log"  # renamed in 3.11
    buffer_at = _variable(info, read, "log_buf")
    buffer_bytes = _variable(info, read, "log_buf_len", 4)
    at = _variable(info, read, "log_first_idx", 4)
    end = _variable(info, read, "log_next_idx", 4)
    header = _Layout(info, name)
    header_bytes = header.size_bytes
    record_len, record_text_len = header.place("len", 2), header.place("text_len", 2)
    ts_nsec = header.place("ts_nsec")
    if not 0 < buffer_bytes <= 1 << _MAX_BUFFER_BITS:
        raise VmcoreError(f"the kernel log claims {buffer_bytes:,} bytes")
    walked = records = 0
    while at != end and walked <= buffer_bytes and records < _MAX_RECORDS:
        records += 1
        if at + header_bytes > buffer_bytes:
            break
        record = header.read(read, buffer_at + at)
        length = _number(info, record, record_len)
        if length == 0:  # the rest of the buffer is unused: continue at its start
            if at == 0:
                break
            walked += buffer_bytes - at
            at = 0
            continue
        if length < header_bytes or at + length > buffer_bytes:
            break
        text_len = min(_number(info, record, record_text_len), length - header_bytes)
        yield _number(info, record, ts_nsec), _exactly(read, buffer_at + at + header_bytes, text_len)
        at += length
        walked += length


_PANICS = (
    r"Kernel panic - not syncing: .*",
    r"BUG: .*",
    r"(?:Oops|general protection fault|kernel BUG at|Internal error|Unable to handle kernel|double fault)\b.*",
    r"sysrq: Trigger a crash.*|SysRq : Trigger a crash.*",
)


def panic_line(log: str) -> str | None:
    """Return the line that says why the kernel died; None when the log has none.

    The first panic counts; without one, the last BUG, oops or crash request.
    """
    for number, pattern in enumerate(_PANICS):
        found = re.findall(pattern, log)
        if found:
            return str(found[0] if number == 0 else found[-1]).strip()
    return None
