"""A hook of mkdocs: the pages in the root of the repository become pages of the site (mkdocs.yml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Files of the root by the name of their page; docs/README.md is the first page.
PAGES = {"start.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the files of the root."""
    from mkdocs.structure.files import File

    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text with links as the site has them."""
    return rewritten(markdown, in_root=page.file.src_uri in PAGES)


def rewritten(markdown: str, *, in_root: bool) -> str:
    """Return a page of the root, or of docs, with the links of the site."""
    for page, name in PAGES.items():
        markdown = markdown.replace(f"]({'' if in_root else '../'}{name}", f"]({page}")
    return re.sub(r"\]\(docs/", "](", markdown) if in_root else markdown
