"""The files of docs/schemas are those that the script writes."""

from __future__ import annotations

import schemas


def test_the_files_are_up_to_date() -> None:
    written = {path.stem: path.read_text(encoding="utf-8") for path in schemas.SCHEMAS.glob("*.json")}
    expected = {name: schemas.text_of(schema) for name, schema in schemas.schemas().items()}
    assert written == expected, "out of date: python docs/generate/schemas.py"
