"""The rules for prose in CONTRIBUTING.md: the number of violations may only fall."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("harness", "scenarios", "images", "docs", "benchmarks", "tests")
RULES = {
    "relative clause as subject": r"(?:^|(?<=[.:;!?]\s)|(?<=\n\n))(?:What|Who|Whoever|Whose|Of)\b(?![^.?!\n]*\?)",
    "is no X": r"\b(?:is|are|was|were|be) no(?:ne)?\b(?! longer| more)",
    "told, tell": r"\b(?i:told|tells?|telling)\b",
    "we, us, ours": r"\b(?:we|us|ours?)\b",
    "somebody": r"\b(?i:nobody|somebody|whoever|anybody|everybody)\b",
    "of ours, of its own": r"\bof (?:ours|the user's|its own|theirs)\b",
    "goes on": r"\b(?i:goes|go|went|going) on\b",
    "beside": r"\b(?i:beside)\b",
}
# A string, which may contain a #, or a comment of one or more lines.
COMMENTS = re.compile(
    r"""(?s:("{3}|'{3})(?:\\.|[^\\])*?\1)|(["'])(?:\\.|[^\\\n])*?\2"""
    r"|(?P<lines>\#[^\n]*(?:\n\s*\#[^\n]*)*)"
)
# The number of violations today. A change may not add any; lower the number when it removes some.
ALLOWED = {
    "relative clause as subject": 0,
    "is no X": 7,
    "told, tell": 0,
    "we, us, ours": 2,
    "somebody": 2,
    "of ours, of its own": 4,
    "goes on": 0,
    "beside": 1,
}


def texts(path: Path) -> Iterator[str]:
    """Yield the comments and strings of a Python file, and the paragraphs of any other file without its code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from (part for part in re.split(r"\n\s*\n", source) if not part.lstrip().startswith("```"))
        return
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    yield from (text for text in strings if isinstance(text, str) and " " in text)
    for comment in COMMENTS.finditer(source):
        if comment["lines"]:
            yield " ".join(line.strip().lstrip("# ") for line in comment["lines"].splitlines() if line.strip())


def test_the_violations_of_each_rule_are_as_many_as_the_table_allows() -> None:
    found: Counter[str] = Counter()
    for path in [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]:
        is_data = "data" in path.relative_to(ROOT).parts or path.name == "CHANGELOG.md" or path == Path(__file__)
        if path.suffix in (".py", ".md", ".toml") and not is_data:
            for text in texts(path):
                found.update({rule: len(re.findall(pattern, text)) for rule, pattern in RULES.items()})
    more = {rule: found[rule] for rule in RULES if found[rule] > ALLOWED[rule]}
    assert not more, "more violations than ALLOWED:\n" + "\n".join(f"{rule}: {count}" for rule, count in more.items())
    today = "\n".join(f'    "{rule}": {found[rule]},' for rule in RULES)
    assert found == Counter(ALLOWED), f"fewer violations; the table is now\nALLOWED = {{\n{today}\n}}"
