"""The picture in docs/architecture.md is what the imports are today."""

from __future__ import annotations

from layers import PAGE, page_with, picture


def test_the_picture_is_what_the_command_prints() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert picture() in text, "out of date: python docs/generate/layers.py --write"
    assert page_with(picture()) == text
