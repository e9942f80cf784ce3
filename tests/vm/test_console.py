"""The lines of a console, from chunks of any size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kdump_harness.base.clock import now_s
from kdump_harness.base.errors import ConsoleLost, UnexpectedPanic, WaitedInVain
from kdump_harness.vm.console import ByteQueue, Console, ConsoleLine, clean

BOOT = b"\x1b[0;32m  OK  \x1b[0m Started ssh.service.\r\nDebian GNU/Linux 12 guest ttyS0\r\n\r\nguest login: "
CRASH = b"[   60.1] sysrq: Trigger a crash\r\n[   60.2] Kernel panic - not syncing: sysrq triggered crash\r\n"


class Trickle(ByteQueue):
    """A serial line on which the next chunk arrives only with a read."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.gather_s = 0.0  # nothing comes by itself here
        self._pieces = iter(pieces)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        if (piece := next(self._pieces, None)) is not None:
            self.put(piece)
        return super().read_nonblocking(size, timeout)


@pytest.fixture(params=[1, 7, 4096], ids="chunk{}".format)
def replay(request: pytest.FixtureRequest):
    def make(data: bytes, *, ends: bool = False) -> Console:
        pieces = [data[start : start + request.param] for start in range(0, len(data), request.param)]
        return Console("guest", Trickle(pieces + [b""] * ends), see=Path("console.log"))

    return make


def test_lines_lose_their_colours(replay) -> None:
    line = replay(BOOT).read_line(timeout_s=1)
    assert line is not None
    assert line.text == "  OK   Started ssh.service."


def test_a_prompt_is_seen_without_a_line_end(replay) -> None:
    line = replay(BOOT).wait_for("login prompt", r"login: ?$", timeout_s=5)
    assert line.prompt
    assert line.text == "guest login: "


def test_a_panic_nobody_asked_for_is_named_in_the_error(replay) -> None:
    with pytest.raises(UnexpectedPanic, match="sysrq triggered crash"):
        replay(CRASH).wait_for("login prompt", "login: ", timeout_s=5)


def test_an_expected_panic_is_a_line_like_any_other(replay) -> None:
    console = replay(CRASH)
    with console.expecting_panic():
        line = console.wait_for("panic", "Kernel panic", timeout_s=5)
    assert line.text.endswith("sysrq triggered crash")


def test_the_end_of_the_line_quotes_its_last_words(replay) -> None:
    with pytest.raises(ConsoleLost, match=r"Debian GNU/Linux 12 guest ttyS0") as caught:
        replay(BOOT[:-14], ends=True).wait_for("login prompt", "login: ", timeout_s=5)
    assert "console.log" in str(caught.value)


@pytest.mark.usefixtures("fake_clock")
def test_silence_is_told_from_slowness(replay) -> None:
    with pytest.raises(WaitedInVain, match="silent for"):
        replay(b"one line\r\n").wait_for("login prompt", "login: ", timeout_s=30, silence_s=0.2)


@pytest.mark.usefixtures("fake_clock")
def test_silence_before_a_wait_does_not_count(replay) -> None:
    console = replay(b"one line\r\n")
    for _ in range(2):
        began_s = now_s()
        with pytest.raises(WaitedInVain, match="silent for"):
            console.wait_for("login prompt", "login: ", timeout_s=900, silence_s=300)
        assert now_s() - began_s > 300


@pytest.mark.usefixtures("fake_clock")
def test_a_wait_grows_with_the_load_and_does_not_shrink_again(replay) -> None:
    loads = [1.0, 1.0, 4.0]
    began_s = now_s()
    with pytest.raises(WaitedInVain, match="silent for"):
        replay(b"one line\r\n").wait_for(
            "login prompt", "login: ", timeout_s=30, silence_s=0.3, stretch=lambda: loads.pop(0) if loads else 1.0
        )
    assert now_s() - began_s > 1.2


@pytest.mark.usefixtures("fake_clock")
def test_a_wait_says_what_it_waited_for_and_what_came_last(replay) -> None:
    with pytest.raises(WaitedInVain, match="no login prompt in 0 s; the last line was 'one line'"):
        replay(b"one line\r\n").wait_for("login prompt", "login: ", timeout_s=0.3)


def test_a_wait_ends_when_it_has_become_hopeless(replay) -> None:
    def give_up(line: ConsoleLine) -> str | None:
        return "the disk is gone" if "I/O error" in line.text else None

    with pytest.raises(WaitedInVain, match="the disk is gone"):
        replay(b"I/O error, dev vda\r\n").wait_for("login prompt", "login: ", timeout_s=30, give_up=give_up)


def test_of_a_progress_bar_the_last_state_counts() -> None:
    raw = b"Copying data : [ 10.0 %] /\rCopying data : [ 55.5 %] -\rCopying data : [100.0 %] |\r\n"
    assert clean(raw) == "Copying data : [100.0 %] |"


def test_a_progress_bar_of_many_kilobytes_costs_little() -> None:
    """A search from each of its bytes took 7 s for 20 KB, and libvirt gave up the connection meanwhile."""
    source = ByteQueue()
    source.gather_s = 0.0
    console = Console("guest", source)
    began_s = time.process_time()
    for percent in range(100):
        source.put(b"\rCopying data                      : [%4.1f %%] -    eta: 33s" % percent * 20)
        assert console.read_line(timeout_s=0) is None
    assert console.pending == "Copying data                      : [99.0 %] -    eta: 33s"
    source.put(b"\r\nguest login: ")
    assert console.read_line(timeout_s=5) is not None
    login = console.read_line(timeout_s=5)
    assert login is not None
    assert login.prompt
    assert time.process_time() - began_s < 2


def test_noise_that_is_no_text_does_not_disturb() -> None:
    assert clean(b"\xff\xfe\x00abc\x07\r\n").endswith("abc")


def test_a_shell_of_the_initramfs_is_a_prompt(replay) -> None:
    line = replay(b"BusyBox v1.35.0 built-in shell (ash)\r\n(initramfs) \x1b[6n").wait_for(
        "shell", "initramfs", timeout_s=5
    )
    assert line.prompt
