"""Write the words and literals of the patterns of the symptoms and marks: python docs/generate/pattern_words.py."""

from __future__ import annotations

import json

from kdump_harness.base.tables import load_toml
from kdump_harness.diagnosis.patterns import WORDS, checked_literals, checked_pattern
from kdump_harness.diagnosis.table import MARKS, SYMPTOMS


def pattern_words() -> str:
    """Return the JSON of all patterns. Raise PatternError for one that is not allowed."""
    found = {}
    for path, key in ((SYMPTOMS, "symptom"), (MARKS, "mark")):
        for row in load_toml(path)[key]:
            texts = [(text, True) for text in row.get("patterns", [])] + [
                (text, False) for text in row.get("unless", [])
            ]
            for text, needs_word in texts:
                pattern = checked_pattern(text, needs_word=needs_word)
                best = sorted(checked_literals(text)) if needs_word else []
                found[text] = [sorted(pattern.words), sorted(map(sorted, pattern.others)), best]
    lines = [f"{json.dumps(text)}: {json.dumps(words)}" for text, words in sorted(found.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    WORDS.write_text(pattern_words(), encoding="utf-8")
