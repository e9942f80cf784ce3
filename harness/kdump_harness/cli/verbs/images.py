"""The verb images: the catalogue, and the cache of downloads."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...base.errors import EXIT_FAILED, EXIT_HOST, EXIT_OK, HostError, TableError, UsageError
from ..options import add_json, add_state
from ..parser import Verbs, add_verb
from ..types import count

if TYPE_CHECKING:
    from ...images.catalog import Catalog, Image
    from ...images.refresh import RowState
    from ...images.state import State


MIB = 1 << 20


def add_images(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "images",
        "List the catalogue of images; check, download or remove cached images.",
        run=images,
        epilog="examples:\n"
        "  kdump-harness images --refresh\n"
        "  kdump-harness images --fetch rocky-9 'alma-*'\n"
        "  kdump-harness images --prune --dry-run",
    )
    parser.add_argument("pattern", nargs="*", help="names or globs of images (default: all)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--refresh",
        action="store_true",
        help="check whether each image still exists, and whether it is newer than the cached one",
    )
    action.add_argument("--fetch", action="store_true", help="download the current version of the named images")
    action.add_argument(
        "--prune",
        action="store_true",
        help="remove superseded and unfinished downloads, and those of images that left the catalogue",
    )
    parser.add_argument(
        "--keep", type=count(most=999_999), metavar="N", help="versions of each image that --prune keeps (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what --prune would remove")
    add_state(parser)
    add_json(parser)


def images(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, print_table, write_json
    from ...images.catalog import load_catalog
    from ...images.state import State

    if not arguments.prune and (arguments.dry_run or arguments.keep is not None):
        raise UsageError(f"{'--dry-run' if arguments.dry_run else '--keep'} needs --prune")
    check_output(arguments.json)
    catalog, state = load_catalog(), State(arguments.state)
    if arguments.prune:
        return _prune_images(arguments, catalog, state)
    chosen = catalog.match(arguments.pattern) if arguments.pattern else catalog.images
    if arguments.refresh:
        return _refresh_images(arguments, chosen, state)
    if arguments.fetch:
        if not arguments.pattern:
            raise UsageError("no images to fetch: name some, or give '*' for all (they can fill a disk)")
        return _fetch_images(arguments, chosen, state)
    built = {str(meta.get("recipe", {}).get("name")) for meta in state.metas("built")}
    rows = [_listed(image, state, built) for image in chosen]
    write_json(arguments.json, rows)
    if arguments.json != "-":
        shown = [{**row, "cpu": f"v{row['cpu']}"} for row in rows]
        print_table(("name", "family", "release", "cpu", "cached", "how", "source"), shown)
    if arguments.pattern or not catalog.faults:
        return EXIT_OK
    raise TableError("; ".join(map(str, catalog.faults.values())))


def _listed(image: Image, state: State, built: set[str]) -> dict[str, Any]:
    from ...images.download import cached

    have = cached(image, state.images) is not None
    fields = ("checksums", "checksum_form", "login", "firmware", "root_filesystem", "notes")
    return {
        "name": image.name,
        "family": image.family,
        "release": image.release,
        "cpu": image.cpu,
        "source": f"{image.file} from {image.manual}, to be put into {state.images / image.name}/"
        if image.manual
        else image.source,
        "how": "download or build" if image.build else "by hand" if image.manual else "download",
        "cached": ("brought" if image.manual else "downloaded") if have else "built" if image.name in built else "",
        **{field: getattr(image, field) for field in fields},
    }


def _refresh_images(arguments: argparse.Namespace, chosen: Sequence[Image], state: State) -> int:
    from ...base.output import out, print_table, write_json
    from ...base.progress import Progress
    from ...images.refresh import BY_HAND, ROTTED, STATES, UNREACHABLE, refresh

    progress = Progress()
    seen: list[RowState] = []

    def on_row(row: RowState) -> None:
        seen.append(row)
        progress.detail(f"{len(seen)} of {len(chosen)}")

    with progress.step(f"asking after {len(chosen)} images", usual_s=20):
        rows = refresh(chosen, state.images, on_row=on_row)
    write_json(arguments.json, [row.to_json() for row in rows])
    asked = [row for row in rows if row.state != BY_HAND]
    if asked and not any(row.answered for row in asked):
        raise HostError(f"none of {len(asked)} images could be checked, as if without a network: {asked[0].detail}")
    if arguments.json != "-":
        print_table(("name", "state", "cached", "detail"), [row.to_json() for row in rows])
        counts = Counter(row.state for row in rows)
        out.print(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return EXIT_FAILED if any(row.state in (ROTTED, UNREACHABLE) for row in rows) else EXIT_OK


def _fetch_images(arguments: argparse.Namespace, chosen: Sequence[Image], state: State) -> int:
    from rich.markup import escape

    from ...base.output import out, write_json
    from ...base.progress import Progress
    from ...images.download import fetch

    progress = Progress()
    rows: list[dict[str, Any]] = []
    for image in chosen:
        try:
            with progress.step(f"fetching {image.name}"):
                path = fetch(image, state.images, progress=progress.bytes, report=progress.say)
        except HostError as error:
            progress.say(f"{image.name}: {error}")
            rows.append({"name": image.name, "path": None, "problem": str(error)})
        else:
            rows.append({"name": image.name, "path": str(path), "problem": ""})
    write_json(arguments.json, rows)
    if arguments.json != "-":
        for row in rows:
            out.print(escape(f"{row['name']}: {row['path'] or row['problem']}"), soft_wrap=True)
    return EXIT_HOST if any(row["problem"] for row in rows) else EXIT_OK


def _prune_images(arguments: argparse.Namespace, catalog: Catalog, state: State) -> int:
    from rich.markup import escape

    from ...base.output import out, write_json
    from ...images.prune import prune

    keep = 1 if arguments.keep is None else arguments.keep
    found = prune(state, catalog, arguments.pattern or ["*"], keep=keep, dry_run=arguments.dry_run)
    freed_bytes = sum(one.size_bytes for one in found if not one.kept_because)
    write_json(
        arguments.json,
        {"dry_run": arguments.dry_run, "freed_bytes": freed_bytes, "found": [one.to_json() for one in found]},
    )
    if arguments.json != "-":
        doing, freeing = ("would remove", "would free") if arguments.dry_run else ("removed", "freed")
        for one in found:
            did, because = ("kept", f", but {one.kept_because}") if one.kept_because else (doing, "")
            text = f"{did} {one.what} ({one.size_bytes / MIB:.0f} MiB): {one.why}{because}"
            out.print(escape(text), soft_wrap=True)
        out.print(f"{freeing} {freed_bytes / MIB:.0f} MiB" if found else "nothing to remove")
    return EXIT_OK
