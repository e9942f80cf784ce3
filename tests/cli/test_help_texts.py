"""The help of every verb is recorded, so that a change of the command line shows in a review."""

from __future__ import annotations

import sys

import pytest
from help_texts import GOLDEN, file_of, help_texts


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse formats options differently since Python 3.13")
def test_the_help_is_the_recorded_one() -> None:
    recorded = {words: file_of(words).read_text(encoding="utf-8") for words in help_texts()}
    assert recorded == help_texts(), "run python docs/generate/help_texts.py"


def test_each_recorded_help_has_its_verb() -> None:
    assert set(GOLDEN.glob("*.txt")) == set(map(file_of, help_texts()))
