"""Add the man page and the shell completions, which argparse's parsers describe, to the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
# Where a prefix has them, by file.
PLACES = {
    "kdump-harness.1": "share/man/man1/kdump-harness.1",
    "kdump-harness.bash": "share/bash-completion/completions/kdump-harness",
    "_kdump-harness": "share/zsh/site-functions/_kdump-harness",
}
_TITLES = {"description": "prove that kdump works, by crashes of throw-away guests", "manual_title": "kdump-harness"}


class CommandPages(BuildHookInterface):
    """The hook of the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files next to the wheel, and name them as data of the prefix."""
        directory = Path(self.directory) / "pages"
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            (directory / name).write_text(text, encoding="utf-8")
            build_data.setdefault("shared_data", {})[str(directory / name)] = PLACES[name]


def pages() -> dict[str, str]:
    """Return the man page and the completions by the name of their file."""
    sys.path.insert(0, str(ROOT / "harness"))
    import shtab
    from argparse_manpage.manpage import Manpage
    from kdump_harness.__main__ import make_parser

    parser = make_parser()
    return {
        "kdump-harness.1": str(Manpage(parser, _TITLES, format="single-commands-section")),
        "kdump-harness.bash": shtab.complete(parser, "bash"),
        "_kdump-harness": shtab.complete(parser, "zsh"),
    }
