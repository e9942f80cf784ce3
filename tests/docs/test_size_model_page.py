"""The page of the size model has the points of the package."""

from __future__ import annotations

from size_model_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python docs/generate/size_model_page.py"
    assert text.count("<!-- end -->") == 5
