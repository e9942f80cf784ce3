"""The restricted format of Dask's messages: text, numbers and tasks that are text, never code of the sender.

Dask's messages hold pickles, and a pickle names functions and classes to call. Each name is looked up in a short list
of harmless ones. Any other name becomes a placeholder that does nothing, so that the message still arrives and its
task can be refused with a reason.

The requests that a server answers are reduced to a list as well: Dask's include running functions, adding plugins and
importing files from the message.
"""

from __future__ import annotations

import copyreg
import io
import logging
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dask
import dask._expr
import dask._task_spec
import distributed
import distributed.protocol.pickle
from distributed.security import Security

from ...base.errors import HostError, UsageError

# Builtins that are harmless with any arguments: they only create an object.
_BUILTIN = frozenset({"bytes", "bytearray", "set", "frozenset"})

# The requests of Dask that each kind of server still answers.
WORKER_HANDLERS = frozenset({"connection_stream", "echo", "get_data", "identity", "keys", "ping", "versions"})
SCHEDULER_HANDLERS = frozenset(
    {
        "add_keys", "connection_stream", "echo", "gather", "get_metadata", "has_what", "heartbeat_worker", "identity",
        "log_event", "ncores", "ping", "processing", "register-client", "register-worker", "set_metadata",
        "set_resources", "unregister", "versions", "who_has",
    }
)  # fmt: skip


class _Fixed:
    """An object that a pickle may call but not change."""

    __slots__ = ()

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{name} is read-only")


class _Asked(_Fixed):
    """The function that every task of a fleet names; workers read the task's text and never call it."""

    __slots__ = ()

    def __call__(self, _text: str) -> bytes:
        raise RuntimeError("only a worker of kdump-harness runs this task")

    def __reduce__(self) -> str:
        return "asked"


class _Graph(_Fixed):
    """A constructor of a client's graph that keeps only the tasks by their keys."""

    __slots__ = ()

    def __call__(self, _kind: object, tasks: object, *_: object) -> Any:
        return dask._expr.LLGExpr(dict(tasks) if isinstance(tasks, Mapping) else {})


asked = _Asked()
_KNOWN = {
    ("dask._task_spec", "Task"): dask._task_spec.Task,
    ("dask._expr", "LLGExpr"): "LLGExpr",
    ("dask._expr", "Expr._reconstruct"): _Graph(),
    (__name__, "asked"): asked,
}


class _Kind(type):
    """The class of placeholders for unknown classes and functions."""

    what = ""


class _Foreign(Exception, metaclass=_Kind):
    """A placeholder that accepts any call and does nothing; an exception because Dask expects one in errors."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(type(self).what)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __setstate__(self, _state: object) -> None: ...
    def __setitem__(self, _key: object, _value: object) -> None: ...
    def append(self, _item: object) -> None: ...
    def extend(self, _items: object) -> None: ...


class _MakeForeign(_Fixed):
    """A constructor of the placeholder for an unknown name."""

    __slots__ = ()

    def __call__(self, what: str) -> type:
        return _Kind("Foreign", (_Foreign,), {"what": str(what)[:200], "__module__": __name__})

    def __reduce__(self) -> str:
        return "foreign"


foreign = _MakeForeign()
_KNOWN[__name__, "foreign"] = foreign


def _reduce(kind: _Kind) -> Any:
    return foreign, (kind.what,)


copyreg.pickle(_Kind, _reduce)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "builtins" and name in _BUILTIN:
            return super().find_class(module, name)
        if module.partition(".")[0] == "tblib":
            raise AttributeError("tracebacks are not sent")  # the error that Dask expects for an unreadable traceback
        return foreign(f"{module}.{name}")

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent references are not supported")


class _Pickle:
    """The replacement of the module pickle within Dask."""

    def __getattr__(self, name: str) -> Any:
        if name in ("load", "Unpickler"):
            raise AttributeError(f"pickle.{name} is disabled within Dask")
        return getattr(pickle, name)

    @staticmethod
    def loads(data: Any, *, buffers: Iterable[Any] | None = None, **_: object) -> Any:
        return _Unpickler(io.BytesIO(data), buffers=buffers or None).load()


_PICKLE = _Pickle()
_SILENT = logging.CRITICAL + 1  # the fleet reports errors itself


def restrict() -> None:
    """Keep Dask from running received code in this process from now on."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("dask", "distributed") and getattr(module, "pickle", None) is pickle:
            module.pickle = _PICKLE  # type: ignore[attr-defined]
    dask.config.set(
        {
            "distributed.scheduler.allowed-imports": [],  # names of enumerations in messages
            "distributed.scheduler.pickle": True,
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
            "distributed.worker.memory.terminate": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.target": False,
            # Drills take minutes, so a worker that is silent for this long is lost.
            "distributed.scheduler.worker-ttl": "60s",
            # Lost workers per task, waiting or running, before it is given up: a drill can kill its host.
            "distributed.scheduler.allowed-failures": 8,
            "distributed.scheduler.work-stealing": True,
            "distributed.scheduler.unknown-task-duration": "3m",
            # Dask's monitoring, fifty times a second by default, would take processor time from drills.
            "distributed.admin.tick.interval": "1s",
            "distributed.admin.system-monitor.interval": "5s",
            "distributed.worker.profile.enabled": False,
            "distributed.admin.large-graph-warning-threshold": "1GB",
            "distributed.comm.timeouts.connect": "20s",
            "distributed.comm.timeouts.tcp": "30s",
            "distributed.diagnostics.computations.max-history": 0,
            "distributed.diagnostics.computations.nframes": 0,
        }
    )
    logging.getLogger("distributed").setLevel(_SILENT)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed."):
            logging.getLogger(name).setLevel(_SILENT)


def keep_handlers(server: Any, kept: frozenset[str]) -> None:
    """Remove all request handlers of a server except these."""
    server.handlers = {name: handler for name, handler in server.handlers.items() if name in kept}
    # A server adds its scratch directory, to import received files.
    while server.local_directory in sys.path:
        sys.path.remove(server.local_directory)


def task_text(spec: Any) -> str | None:
    """Return the text of a task of kdump-harness; None for any other task."""
    if type(spec) is not dask._task_spec.Task or spec.func is not asked or spec.kwargs or len(spec.args) != 1:
        return None
    text = spec.args[0]
    return text if type(text) is str else None


def security(*, ca: Path | None, cert: Path | None, key: Path | None) -> Security | None:
    """Return the TLS settings of a fleet; None if no certificates are given."""
    given = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if not any(given.values()):
        return None
    if missing := [name for name, path in given.items() if path is None]:
        raise UsageError(f"TLS also needs {', '.join(missing)}")
    for name, path in given.items():
        try:
            assert path is not None
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{name} {path} cannot be read: {error.strerror}") from None
    one = {f"tls_{role}_{what}": str(path) for role in ("client", "scheduler", "worker") for what, path in
           (("cert", cert), ("key", key))}  # fmt: skip
    try:
        made = Security(tls_ca_file=str(ca), require_encryption=True, **one)
        made.get_connection_args("client")  # reads the files
    except OSError as error:
        raise HostError(f"the certificates cannot be used: {error.strerror or error}") from None
    return made


def versions() -> Mapping[str, str]:
    """Return the versions of the libraries that the fleet uses."""
    return {"dask": dask.__version__, "distributed": distributed.__version__}
