"""Print the picture of folders and imports in docs/architecture.md: python docs/generate/layers.py [--write]."""

from __future__ import annotations

import ast
import functools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "harness" / "kdump_harness"
PAGE = ROOT / "docs" / "architecture.md"

# From the bottom up: a module may import from its own folder and from the folders before it in this list.
FOLDERS = (
    "base",
    "configuration",
    "redaction",
    "vmcore/formats",
    "vmcore/translation",
    "vmcore",
    "diagnosis",
    "distro",
    "images",
    "vm/hypervisor",
    "vm/shells",
    "vm/hosts",
    "vm",
    "kdump/capture_image",
    "kdump",
    "triage",
    "fallback",
    "drill/shapes",
    "drill",
    "kernel",
    "campaigns",
    "campaigns/sweep",
    "campaigns/size",
    "campaigns/compare",
    "campaigns/kernels",
    "store/intake",
    "store",
    "store/bundles",
    "history",
    "report",
    "schedule",
    "cli",
    "cli/verbs",
    "audit/asking",
    "audit",
    "pytest_plugin",
    "fleet/protocol",
    "fleet/worker",
    "fleet",
    "",  # __main__.py composes the command line from cli and fleet
)
_WIDTH = 96
_NAME = 16
_BLOCK = re.compile(r"(?<=<!-- python docs/generate/layers.py --write -->\n```text\n).*?(?=```\n)", re.DOTALL)


def folder_of(path: Path) -> str:
    """Return the folder of a module, relative to the package."""
    folder = path.parent.relative_to(PACKAGE).as_posix()
    return "" if folder == "." else folder


@functools.cache
def sources() -> tuple[Path, ...]:
    """Return all modules of the package except its own __init__.py."""
    return tuple(sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"))


def sentence(folder: str, module: str = "__init__.py") -> str | None:
    """Return the first line of a folder's docstring, or of a module's in it."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / folder / module).read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else None


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return (folder, True) for each import from the package and (library, False) for each other one."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    package = path.parent.relative_to(PACKAGE).parts
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.split(".")[0], False
        elif isinstance(node, ast.ImportFrom):
            base = PACKAGE.joinpath(*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            for alias in node.names:
                found = base / alias.name if (base / alias.name).is_dir() else base
                if found != PACKAGE:  # the version
                    yield (found if found.is_dir() else found.parent).relative_to(PACKAGE).as_posix(), True


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements in a module, which are far fewer than its nodes."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        block = getattr(node, name, ())
        for child in block if isinstance(block, list) else ():
            yield child
            yield from _statements(child)


def picture() -> str:
    """Return the folders from the top down, each with its sentence and with the folders that it imports."""
    used: dict[str, set[str]] = {}
    for path in sources():
        mine = folder_of(path).split("/")[0]
        below = {name.split("/")[0] for name, internal in imports(path) if internal}
        used.setdefault(mine, set()).update(below - {mine})
    tops = list(dict.fromkeys(folder.split("/")[0] for folder in reversed(FOLDERS)))
    lines = []
    for top in tops:
        name, text = (f"{top}/", sentence(top)) if top else ("__main__.py", sentence("", "__main__.py"))
        lines += _row(name, text or "")
        for folder in FOLDERS:
            if folder.startswith(f"{top}/"):
                lines += _row(f"  {folder.removeprefix(top)[1:]}/", sentence(folder) or "")
        if imported := " ".join(name for name in tops if name in used[top]):
            lines += _row("", f"-> {imported}")
    return "".join(f"{line}\n" for line in lines)


def _row(name: str, text: str) -> list[str]:
    first, later = name.ljust(_NAME), " " * (_NAME + (3 if text.startswith("->") else 0))
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=later)


def page_with(drawn: str) -> str:
    """Return the text of docs/architecture.md with this picture in it."""
    return _BLOCK.sub(lambda _: drawn, PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with(picture()), encoding="utf-8")
    else:
        sys.stdout.write(picture())
