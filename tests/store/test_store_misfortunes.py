"""A store whose clock jumps, whose disk becomes read-only, or whose index is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base import sqlite
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.store import store as store_module
from kdump_harness.store.index import Dump
from kdump_harness.store.policy import Policy
from kdump_harness.store.reindex import reindex
from kdump_harness.store.retention import decide, prune
from kdump_harness.store.store import Store
from kdump_harness.store.wall_clock import Reading
from store_factory import LOGS, admit, examine_once, make_dump, put

DAY_S = 86400.0
NOW_S = 1_800_000_000.0
WEEK_OLD = Policy(keep_days=7)


@pytest.fixture(autouse=True)
def one_look_at_each_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of this file share the results of the examining process."""
    monkeypatch.setattr("kdump_harness.store.store.examine", examine_once)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store(tmp_path / "store", create=True) as made:
        yield made


# ---------------------------------------------------------------- the clock


class Clock:
    """Both clocks of a machine, for a test to set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.up_s, self.boot = NOW_S, 1000.0, "first"
        monkeypatch.setattr(time, "time", lambda: self.wall_s)
        monkeypatch.setattr(Reading, "now", lambda: Reading(wall_s=self.wall_s, up_s=self.up_s, boot=self.boot))

    def run(self, days: float) -> None:
        """Let time pass."""
        self.wall_s += days * DAY_S
        self.up_s += days * DAY_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the store's machine."""
    return Clock(monkeypatch)


def removed(kept: Store, **more: Any) -> int:
    return sum(not one.kept_because for one in prune(kept, WEEK_OLD, dry_run=False, **more))


def three_dumps(kept: Store) -> None:
    for number in range(3):
        put(kept, make_dump(number, added_s=NOW_S - number))


@pytest.mark.parametrize("jump_days", [400.0, -400.0])
def test_a_jump_of_the_clock_deletes_nothing_and_is_reported(kept: Store, clock: Clock, jump_days: float) -> None:
    three_dumps(kept)
    assert removed(kept) == 0
    clock.wall_s += jump_days * DAY_S
    for decision in prune(kept, Policy(keep_per_host=1), dry_run=False):
        assert decision.doubted
        way = "ahead of" if jump_days > 0 else "behind"
        assert f"clock is 400.0 days {way} that of the last look" in decision.kept_because
    clock.wall_s -= jump_days * DAY_S
    clock.run(days=8)
    assert removed(kept) == 2


@pytest.mark.parametrize("boot", ["first", "second"])
def test_time_that_passed_is_believed(kept: Store, clock: Clock, boot: str) -> None:
    """A suspended machine has the same boot; one that was off for some days has another."""
    three_dumps(kept)
    assert removed(kept) == 0
    clock.run(days=400 if boot == "first" else 6.9)
    clock.boot = boot
    assert removed(kept) == (2 if boot == "first" else 0)


def test_a_clock_that_jumped_is_believed_after_a_day_or_when_a_person_says_so(kept: Store, clock: Clock) -> None:
    three_dumps(kept)
    assert removed(kept) == 0
    clock.wall_s += 400 * DAY_S
    clock.boot = "second"
    for _ in range(4):
        assert removed(kept) == 0
        clock.run(days=0.3)
    assert removed(kept) == 2
    put(kept, make_dump(7, added_s=clock.wall_s))
    clock.wall_s += 400 * DAY_S
    assert removed(kept) == 0
    assert removed(kept, trust_clock=True) == 1


def test_a_dry_run_keeps_no_reading(kept: Store, clock: Clock) -> None:
    three_dumps(kept)
    prune(kept, WEEK_OLD, dry_run=True)
    assert kept.index.clock() == []


def test_the_real_clocks_are_read() -> None:
    first, second = Reading.now(), Reading.now()
    assert second.follows(first)
    assert first.boot


def test_a_dump_that_came_before_the_clock_was_set_is_as_old_as_its_crash() -> None:
    dumps = [make_dump(number, added_s=946_684_800.0 + number, crash_s=int(NOW_S) - 60) for number in range(3)]
    assert decide(dumps[::-1], Policy(keep_days=90), now_s=NOW_S) == []


def test_the_order_of_arrival_does_not_depend_on_the_clock(kept: Store) -> None:
    old = put(kept, make_dump(0, added_s=NOW_S))
    new = put(kept, make_dump(1, added_s=946_684_800.0))  # the clock had lost its battery
    assert kept.index.dumps() == [new, old]
    (decision,) = decide(kept.index.dumps(), Policy(keep_per_host=1), now_s=NOW_S)
    assert decision.dump == old


def test_the_watching_store_says_why_it_keeps_a_dump_once(
    kept: Store, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    three_dumps(kept)
    (kept.directory / "store.toml").write_text("keep_days = 7\nsettle_s = 0.01\n")
    removed(kept)
    clock.wall_s += 400 * DAY_S
    (tmp_path / "incoming").mkdir()
    monkeypatch.setattr("kdump_harness.base.clock.pause", lambda _: None)
    arguments = ["store", "watch", str(tmp_path / "incoming"), "--once", "--store", str(kept.directory)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("clock is 400.0 days ahead") == 2
    assert len(kept.index.dumps()) == 3


# ---------------------------------------------------------------- a read-only disk


@pytest.fixture
def read_only(kept: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Dump]:
    """The directory of a store on a read-only disk, and a dump of it.

    Only root can mount; here each system call that makes or changes something in the directory fails.
    """
    dump = admit(kept, LOGS / "6.1.0.kdump")
    kept.close()
    real = os.statvfs

    class Status:
        def __init__(self, path: Any) -> None:
            self._real = real(path)
            self.f_flag = self._real.f_flag | os.ST_RDONLY

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    def statvfs(path: Any) -> Any:
        return Status(path) if Path(os.fspath(path)).is_relative_to(kept.directory) else real(path)

    for path in (kept.directory, kept.dumps, kept.incoming):
        path.chmod(0o500)
    monkeypatch.setattr(sqlite.os, "statvfs", statvfs)

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    for name in ("mkdir", "chmod", "write_text", "unlink", "rename"):
        monkeypatch.setattr(Path, name, refuse)
    return kept.directory, dump


@pytest.mark.parametrize(
    "action",
    [("list",), ("show", "ID"), ("patterns",), ("prune", "--dry-run", "--keep-days", "1"),
     ("bundle", "ID", "--out", "OUT", "--redact")],
    ids=lambda action: action[0],
)  # fmt: skip
def test_a_store_on_a_read_only_disk_can_be_read(
    read_only: tuple[Path, Dump], action: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, dump = read_only
    words = [{"ID": dump.id, "OUT": str(tmp_path / "bundle.tar")}.get(word, word) for word in action]
    before = sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*"))
    assert main(["store", *words, "--store", str(directory)]) == 0, capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*")) == before


@pytest.mark.parametrize(
    "action", [("hold", "ID", "--why", "INC"), ("add", "FILE"), ("reindex",)], ids=lambda action: action[0]
)
def test_a_change_of_a_read_only_store_is_a_sentence(
    read_only: tuple[Path, Dump], action: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, dump = read_only
    words = [{"ID": dump.id, "FILE": str(LOGS / "6.12.107.kdump")}.get(word, word) for word in action]
    assert main(["store", *words, "--store", str(directory)]) == 3
    assert "read-only" in capsys.readouterr().err


def test_an_index_with_an_unfinished_transaction_is_read_on_a_read_only_disk(
    read_only: tuple[Path, Dump], tmp_path: Path
) -> None:
    """SQLite must undo the transaction of the process that died, which it cannot do there."""
    directory, dump = read_only
    journal = directory / "index.sqlite-journal"
    assert journal.exists()
    with Store(directory) as store:
        assert [one.id for one in store.index.dumps()] == [dump.id]
        with pytest.raises(HostError, match="its disk is read-only"), store.index.database.writing():
            pass


# ---------------------------------------------------------------- a lost index


def rebuilt(kept: Store) -> list[str]:
    kept.close()
    return [row.outcome for row in reindex(kept.directory)]


def test_a_lost_index_is_rebuilt_with_all_that_was_known(kept: Store) -> None:
    first, second = admit(kept, LOGS / "6.1.0.kdump"), admit(kept, LOGS / "6.12.107.kdump")
    held = kept.hold(first.id, "INC-77")
    traits = kept.index.traits()
    kept.close()
    (kept.directory / "index.sqlite").unlink()
    with pytest.raises(UsageError, match="store reindex makes one from them"):
        Store(kept.directory)
    rebuilt(kept)
    with Store(kept.directory) as again:
        assert sorted(again.index.dumps(), key=lambda dump: dump.id) == sorted([held, second], key=lambda dump: dump.id)
        assert again.index.traits() == traits
    assert rebuilt(kept) == []


def test_a_damaged_index_is_set_aside(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    kept.close()
    index = kept.directory / "index.sqlite"
    index.write_bytes(b"no database" * 1000)
    assert main(["store", "list", "--store", str(kept.directory)]) == 2
    assert "store reindex" in capsys.readouterr().err
    assert main(["store", "reindex", "--store", str(kept.directory)]) == 0
    (aside,) = (path for path in kept.directory.glob("index.sqlite.damaged-*") if "journal" not in path.name)
    assert aside.read_bytes() == b"no database" * 1000
    with Store(kept.directory) as again:
        assert again.index.dumps() == [dump]


def test_a_dump_without_a_record_is_examined_again_and_held(kept: Store) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    (kept.place_of(dump) / "record.json").write_text("[" * 5000)
    kept.close()
    (kept.directory / "index.sqlite").unlink()
    assert "its row is there again; held: its record was lost with the index" in rebuilt(kept)[0]
    with Store(kept.directory) as again:
        (found,) = again.index.dumps()
        assert (found.id, found.host, found.signature) == (dump.id, dump.host, dump.signature)


def test_bytes_that_have_changed_get_no_row(kept: Store) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    (kept.place_of(dump) / "vmcore").write_bytes(b"other bytes")
    (kept.dumps / "notes").mkdir()
    (kept.dumps / "notes" / "vmcore").write_bytes(b"a user's")
    kept.close()
    (kept.directory / "index.sqlite").unlink()
    outcomes = sorted(rebuilt(kept))
    assert outcomes[0].startswith("its dump has changed since it came")
    assert outcomes[1].startswith("not a directory of a dump, by its name")


def test_a_record_that_cannot_be_written_is_not_left_wrong(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = admit(kept, LOGS / "6.1.0.kdump")
    record = kept.place_of(dump) / store_module.RECORD
    assert record.exists()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert kept.hold(dump.id, "INC-1").hold == "INC-1"
    assert not record.exists()
