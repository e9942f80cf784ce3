"""A little of the fuzzing of tests/fuzz/readers.py, so that a reader without an answer is found at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from readers import READERS, fuzz


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Give the handler of the alarm back."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_answers_to_damaged_bytes(name: str) -> None:
    said: list[str] = []
    assert not fuzz([name], 20, 25, report=said.append), "\n".join(said)


def test_a_reader_without_an_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes, _: object) -> int:
        return int(data.decode())

    monkeypatch.setitem(READERS, "json", type(READERS["json"])(read=careless, examples=lambda: [b"12"], answers=()))
    assert fuzz(["json"], 20, 25, report=lambda _: None)["json"] > 5
