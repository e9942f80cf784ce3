"""The client of a fleet: submits tasks and yields the result of each one once."""

from __future__ import annotations

import contextlib
import queue
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
from dask._task_spec import Task as Spec
from distributed.security import Security

from ..base.board import Board
from ..base.clock import now_s
from ..base.errors import EXIT_BROKEN, EXIT_HOST, EXIT_OK, HarnessError, HostError
from ..base.evidence import EvidenceRoot
from ..base.output import printable
from .protocol import wire_format
from .protocol.archive import unpack
from .protocol.needs import Needs
from .protocol.results import BadResult, TaskResult, read_result, relocate
from .protocol.tasks import FleetTask
from .worker.worker import TOPIC

EVENT_WAIT_S = 1.0
FIT_EVERY_S = 5.0
CONNECT_S = 20.0
LOST_S = 60.0  # wait for a lost scheduler


@dataclass(frozen=True, kw_only=True)
class Order:
    """A task and the resources that a host needs for it."""

    number: int
    task: FleetTask
    needs: Needs
    kind: str  # tasks of one kind take about the same time


class Fleet:
    """A connection to a scheduler; use as a context manager."""

    def __init__(
        self,
        scheduler: str,
        *,
        security: Security | None,
        wait_s: float,
        at_once: int | None = None,
        direct: bool = False,
        quiet: bool = False,
    ) -> None:
        """Set up a connection; wait_s limits the wait of a task for a suitable worker."""
        self._address, self._security, self._quiet = scheduler, security, quiet
        self._wait_s, self._at_once, self._direct = wait_s, at_once, direct
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Fleet:
        wire_format.restrict()
        try:
            self._client = distributed.Client(
                self._address, security=self._security, timeout=CONNECT_S, set_as_default=False,
                direct_to_workers=self._direct, name="kdump-harness",
            )  # fmt: skip
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise HostError(f"the scheduler at {self._address} cannot be reached: {error}") from None
        for topic in (TOPIC, "all"):
            self._client.subscribe_topic(topic, lambda event, topic=topic: self._events.put((topic, event)))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def run(self, orders: Sequence[Order], *, evidence: Path, run_name: str) -> Iterator[tuple[Order, TaskResult]]:
        """Yield the result of each order when it arrives; its evidence is below evidence/run_name."""
        board = Board((order.kind for order in orders), quiet=self._quiet)
        try:
            yield from _Run(self._client, self._events, board, self._wait_s, self._direct).all(
                orders, self._at_once or len(orders), evidence, run_name
            )
        finally:
            board.close()


class _Run:
    """The orders of one run and their state."""

    def __init__(
        self, client: Any, events: queue.SimpleQueue[tuple[str, Any]], board: Board, wait_s: float, direct: bool
    ) -> None:
        self._client, self._events, self._board, self._wait_s, self._direct = client, events, board, wait_s, direct
        self._name = secrets.token_hex(4)
        self._submitted: dict[str, tuple[Order, Any]] = {}
        self._fits: dict[Needs, float | None] = {}  # since when no worker has these resources; None if one does
        self._fit_s = 0.0
        self._lost_since_s: float | None = None

    def all(
        self, orders: Sequence[Order], at_once: int, evidence: Path, run_name: str
    ) -> Iterator[tuple[Order, TaskResult]]:
        """Submit the orders, at most at_once at a time, and yield the results."""
        waiting = list(reversed(orders))
        try:
            while waiting or self._submitted:
                room = min(at_once - len(self._submitted), len(waiting))
                self._submit([waiting.pop() for _ in range(room)])
                for order, result in self._next():
                    yield order, self._with_evidence(order, result, evidence, run_name)
                self._board.tick()
        finally:
            for _, future in self._submitted.values():
                with contextlib.suppress(Exception):
                    future.release()

    def _submit(self, orders: Sequence[Order]) -> None:
        """Submit orders in sequence, those with equal needs in one message."""
        alike: dict[Needs, list[Order]] = {}
        for order in orders:
            alike.setdefault(order.needs, []).append(order)
        for needs, batch in alike.items():
            self._fits.setdefault(needs, now_s())
            self._fit_s = 0.0
            keys = {f"{order.kind}-{order.number:05}-{self._name}": order for order in batch}
            graph = {key: Spec(key, wire_format.asked, order.task.to_text()) for key, order in keys.items()}
            futures = self._client.get(
                graph, list(keys), sync=False, resources=needs.resources(), priority=-batch[0].number
            )
            for (key, order), future in zip(keys.items(), futures, strict=True):
                self._submitted[key] = (order, future)
                future.add_done_callback(self._note_done)

    def _note_done(self, future: Any) -> None:
        self._events.put(("done", future.key))

    def _next(self) -> Iterator[tuple[Order, tuple[TaskResult, memoryview]]]:
        """Wait a moment for events and yield the finished tasks."""
        try:
            events = [self._events.get(timeout=EVENT_WAIT_S)]
        except queue.Empty:
            events = []
        with contextlib.suppress(queue.Empty):
            while len(events) < 1000:
                events.append(self._events.get_nowait())
        for topic, what in events:
            if topic == "done":
                yield from self._done(what)
            else:
                self._show(topic, what)
        self._check_connection()
        yield from self._give_up()

    def _show(self, topic: str, event: Any) -> None:
        """Show an event of a worker or the scheduler; no decision depends on it."""
        try:
            _, what = event
            if topic == TOPIC and what["key"] in self._submitted:
                key, order = what["key"], self._submitted[what["key"]][0]
                if what.get("what") == "began":
                    self._board.began(
                        key,
                        label=order.task.label,
                        kind=order.kind,
                        worker=printable(str(what["name"]))[:60],
                        address=str(what["address"]),
                    )
                elif "step" in what:
                    self._board.step(key, printable(str(what["step"]))[:120])
            elif topic == "all" and what.get("action") in ("add-worker", "remove-worker"):
                self._fit_s = 0.0
                if what["action"] == "remove-worker" and (lost := self._board.lost(str(what.get("worker")))):
                    self._board.say(f"a worker was lost; its tasks are given to others: {', '.join(lost)}")
        except (KeyError, TypeError, ValueError, AttributeError):
            pass

    def _done(self, key: str) -> Iterator[tuple[Order, tuple[TaskResult, memoryview]]]:
        """Yield the result of a task that Dask calls done, once."""
        if key not in self._submitted:
            return
        order, future = self._submitted[key]
        nothing = memoryview(b"")
        if future.status == "finished":
            try:
                found = read_result(self._client.gather(future, direct=self._direct))
            except BadResult as error:
                found = (TaskResult(worker="?", problem=str(error)), nothing)
            except Exception as error:  # Dask documents no exceptions here
                if future.status == "pending":  # the worker was lost with the result: Dask repeats the task
                    future.add_done_callback(self._note_done)
                    return
                found = (TaskResult(worker="?", problem=f"its result did not arrive: {error}"), nothing)
        elif future.status == "error":
            found = (
                TaskResult(worker="?", problem="every worker that ran the task was lost"),
                nothing
            )  # fmt: skip
        else:
            return  # cancelled because the scheduler is lost, see _check_connection
        yield self._taken(key, order, found)

    def _taken(
        self, key: str, order: Order, found: tuple[TaskResult, memoryview]
    ) -> tuple[Order, tuple[TaskResult, memoryview]]:
        _, future = self._submitted.pop(key)
        future.release()
        self._board.ended(key, order.kind, took_s=found[0].took_s, ok=found[0].status == EXIT_OK)
        return order, found

    def _with_evidence(
        self, order: Order, found: tuple[TaskResult, memoryview], evidence: Path, run_name: str
    ) -> TaskResult:
        """Unpack the evidence on this host and return the result."""
        result, archive = found
        worker = "".join(one if one.isalnum() or one in "-." else "-" for one in result.worker).strip("-.")[:40]
        if not archive:
            return result
        root = result.root
        try:
            directory = EvidenceRoot(evidence, part=(run_name, f"{order.number:04}-{worker or 'worker'}")).run
            unpack(
                bytes(archive), directory, limit_bytes=(order.task.evidence_mib + 1) << 20,
                edit=lambda name, data: (
                    data.replace(root.encode(), str(directory).encode()) if root and name.endswith(".json") else data
                ),
            )  # fmt: skip
            relocate(result, str(directory))
        except HarnessError as error:
            # A result without its evidence is not trusted.
            return TaskResult(worker=result.worker, status=EXIT_BROKEN, took_s=result.took_s, problem=str(error))
        return result

    def _check_connection(self) -> None:
        """Check the connection. HostError when the scheduler stays lost."""
        if self._client.status == "running" and not any(
            future.status in ("cancelled", "lost") for _, future in self._submitted.values()
        ):
            self._lost_since_s = None
            return
        self._lost_since_s = self._lost_since_s or now_s()
        cancelled = any(future.status == "cancelled" for _, future in self._submitted.values())
        if cancelled or self._client.status == "closed" or now_s() - self._lost_since_s > LOST_S:
            raise HostError("the connection to the scheduler is lost; results so far are kept (continue with --resume)")

    def _give_up(self) -> Iterator[tuple[Order, tuple[TaskResult, memoryview]]]:
        """Give up tasks that no worker was able to run for wait_s."""
        now = now_s()
        if now - self._fit_s < FIT_EVERY_S:
            return
        changed, self._fit_s = not self._fit_s, now
        waiting = {order.needs for order, _ in self._submitted.values()}
        if not changed and all(self._fits[needs] is None for needs in waiting):
            return
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except Exception:
            return
        for needs in waiting:
            has = any(not needs.lacking(worker["resources"]) for worker in workers.values())
            since = self._fits.get(needs)
            self._fits[needs] = None if has else since or now
        for key, (order, future) in list(self._submitted.items()):
            since = self._fits[order.needs]
            if since is None or now - since < self._wait_s or key in self._board.running:
                continue
            best = min((order.needs.lacking(one["resources"]) for one in workers.values()), key=len, default=None)
            why = "the fleet has no worker" if best is None else f"no worker has {', '.join(best)}"
            future.cancel(force=True)
            result = TaskResult(worker="-", status=EXIT_HOST, problem=f"{why} (waited {self._wait_s:.0f} s)")
            yield self._taken(key, order, (result, memoryview(b"")))
