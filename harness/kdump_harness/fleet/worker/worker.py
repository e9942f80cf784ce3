"""The worker: Dask's, restricted to named scenarios and drills."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import distributed
from dask._task_spec import Task as Spec
from distributed.security import Security

from ...base import foreign
from ...base.clock import now_s
from ...images.state import State
from ..protocol import wire_format
from .peer_server import CACHES, NoCopy, PeerServer, copy_entry, entries, shuffled
from .task_runner import Host, Unwanted, perform

TOPIC = "kdump-fleet"
REPORT_EVERY_S = 2.0
TRIES = 4  # peers that may fail
BUSY_WAITS = 20
BUSY_S = 15.0
HOLDERS = "kdump-entries"  # key in the scheduler's metadata


class FleetWorker(distributed.Worker):  # type: ignore[misc]
    """A worker that runs the guests of one host."""

    start_s = 20.0  # limit for joining the fleet

    def __init__(self, scheduler: str, host: Host, *, slots: int, security: Security | None, listen: str) -> None:
        super().__init__(
            scheduler,
            name=host.name,
            nthreads=slots,
            resources=dict(host.resources),
            host=listen,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            extensions={},
            memory_limit=0,
            local_directory=str(host.evidence),
            security=security,
            heartbeat_interval="2s",
            death_timeout=self.start_s,
        )
        wire_format.keep_handlers(self, wire_format.WORKER_HANDLERS)
        self.kdump_host = host
        self._state_directory = State(host.state)
        self._peer_server = PeerServer(self._state_directory)
        self._published: set[str] = set()
        self._reported_s: dict[str, float] = {}
        self._listener: asyncio.AbstractServer | None = None
        self._tasks_active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_task: Any = lambda what, text: None
        self.handlers |= {
            "kdump_entry": self._entry,
            "kdump_piece": self._piece,
            "kdump_entry_done": self._entry_done,
        }

    # ------------------------------------------------------------ tasks

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        """Run a task from its text alone; all other parts of the message are dropped."""
        task = self.state.tasks[key]
        if not isinstance(getattr(task.run_spec, "func", None), _Own):
            text = wire_format.task_text(task.run_spec)
            own = _Own(self.kdump_perform, key, text, dict(task.resource_restrictions or {}))
            task.run_spec = Spec(key, own)
        return await super().execute(key, stimulus_id=stimulus_id)

    async def kdump_perform(self, key: Any, text: str | None, stated: Mapping[str, float]) -> bytes:
        """Run a task given as text and return its result as bytes."""

        def wanted() -> bool:
            found = self.state.tasks.get(key)
            return found is not None and found.state != "cancelled"

        self.kdump_report(key, {"what": "began"})
        self.on_task("began", text)
        self._tasks_active += 1
        self._idle.clear()
        try:
            result = await perform(
                text, self.kdump_host, stated=stated, wanted=wanted, report=lambda more: self.kdump_report(key, more)
            )
        except Unwanted:
            self.on_task("ended, as its result is no longer wanted:", text)
            raise distributed.Reschedule from None
        except asyncio.CancelledError:
            self.on_task("ended, as the scheduler is lost:", text)
            raise
        finally:
            self._tasks_active -= 1
            if not self._tasks_active:
                self._idle.set()
        with contextlib.suppress(Exception):
            await self.publish_entries()
        self.on_task("done", text)
        return result

    async def kdump_idle(self) -> None:
        """Wait until all processes of tasks have ended."""
        await self._idle.wait()

    def kdump_report(self, key: Any, what: dict[str, Any]) -> None:
        """Publish the progress of a task; steps at most every REPORT_EVERY_S."""
        if "step" in what and now_s() - self._reported_s.get(key, 0.0) < REPORT_EVERY_S:
            return
        self._reported_s = {one: at for one, at in self._reported_s.items() if one in self.state.tasks} | {key: now_s()}
        with contextlib.suppress(Exception):
            self.log_event(TOPIC, {"key": key, "name": self.kdump_host.name, "address": self.address, **what})

    # ------------------------------------------------------------ disks

    async def start_unsafe(self) -> Any:
        """Start the worker, publish its cache entries and listen for requests for disks."""
        await super().start_unsafe()
        if self.kdump_host.socket is not None:
            self.kdump_host.socket.unlink(missing_ok=True)
            before = os.umask(0o077)
            try:
                self._listener = await asyncio.start_unix_server(self._answer_task, self.kdump_host.socket)
            finally:
                os.umask(before)
        await self.publish_entries()
        return self

    async def close(self, *arguments: Any, **more: Any) -> Any:
        """Stop listening, then shut down."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        return await super().close(*arguments, **more)

    async def publish_entries(self) -> None:
        """Publish the cache entries of this host in the scheduler's metadata."""
        found = set(await asyncio.to_thread(entries, self._state_directory))
        for name in sorted(found - self._published):
            await self.scheduler.set_metadata(keys=[HOLDERS, name, self.address], value=1)
        self._published = found

    async def _entry(self, cache: str, key: str, by: str) -> Any:
        return await asyncio.to_thread(self._peer_server.describe, cache, key, by=str(by)[:200], now_s=now_s())

    async def _piece(self, cache: str, key: str, file: str, offset: int, by: str) -> Any:
        return await asyncio.to_thread(
            self._peer_server.piece, cache, key, file, offset, by=str(by)[:200], now_s=now_s()
        )

    async def _entry_done(self, by: str) -> None:
        self._peer_server.done(str(by)[:200])

    async def _answer_task(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a local task that needs a disk: copy it from a peer, if one has it."""

        async def send(**what: Any) -> None:
            writer.write(json.dumps(what).encode() + b"\n")
            await writer.drain()

        try:
            wanted = foreign.parse_object(await reader.readline())
            meta = None
            if wanted["cache"] in CACHES:
                meta = await self._copy_from_peer(str(wanted["cache"]), str(wanted["key"]), send)
            await send(done=True, meta=meta)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the task has ended, or another program connected
        finally:
            writer.close()

    async def _copy_from_peer(self, cache: str, key: str, send: Any) -> dict[str, Any] | None:
        """Copy an entry from a peer and return its meta.json; None if no peer can send it."""
        tries = 0
        for _ in range(BUSY_WAITS):
            holders = await self._holders(f"{cache}/{key}")
            busy = False
            for address in holders:
                try:
                    copied = await copy_entry(self._asker(address), self._state_directory, cache, key, me=self.address)
                except NoCopy as error:
                    busy |= "serves others" in str(error)
                    tries += "serves others" not in str(error)
                    if "serves others" not in str(error):
                        await send(say=f"{cache}/{key} is not copied from {address}: {error}")
                    if tries >= TRIES:
                        return None
                else:
                    await send(say=f"{cache}/{key}: copied from {address}, {copied.data_bytes >> 20} MiB")
                    return copied.meta
            if not busy:
                return None
            await send(say=f"waiting for a peer that has {cache}/{key} and serves others")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), BUSY_S)
        return None

    async def _holders(self, name: str) -> list[str]:
        found = await self.scheduler.get_metadata(keys=[HOLDERS, name], default={})
        active = await self.scheduler.ncores()
        return [address for address in shuffled(found, self.address) if address in active]

    def _asker(self, address: str) -> Any:
        async def ask(name: str, **what: Any) -> Any:
            return await getattr(self.rpc(address), name)(**what)

        return ask


class _Own(functools.partial[Any]):
    """The only function that a worker runs: created locally from a task's text, never received."""
