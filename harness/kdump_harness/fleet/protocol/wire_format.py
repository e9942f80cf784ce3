"""What Dask may make of the bytes that it is sent: text, numbers, and a task that is text; never code of the sender's.

Dask's messages hold pickles, and a pickle names functions and classes that are to be called. Here each name is
looked up in a short list of harmless ones. Any other name becomes a mark that does nothing, so that a message that
holds one still arrives, and the task in it can be refused in a sentence.

The names that others have for standing requests are cut down to a list, too: Dask's own include running functions,
adding plugins and importing files that were sent along.
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

# What is called with anything at all and changes nothing but what it makes.
_BUILTIN = frozenset({"bytes", "bytearray", "set", "frozenset"})

# What each kind of server still answers, of all that Dask's own does.
WORKER_HANDLERS = frozenset({"connection_stream", "echo", "get_data", "identity", "keys", "ping", "versions"})
SCHEDULER_HANDLERS = frozenset(
    {
        "add_keys", "connection_stream", "echo", "gather", "get_metadata", "has_what", "heartbeat_worker", "identity",
        "log_event", "ncores", "ping", "processing", "register-client", "register-worker", "set_metadata",
        "set_resources", "unregister", "versions", "who_has",
    }
)  # fmt: skip


class _Fixed:
    """Something that a pickle may call, and cannot change."""

    __slots__ = ()

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{name} stays as it is")


class _Asked(_Fixed):
    """What every task of a fleet names as its function; workers take its text, and nobody calls it."""

    __slots__ = ()

    def __call__(self, _text: str) -> bytes:
        raise RuntimeError("only a worker of kdump-harness does this, and not by calling it")

    def __reduce__(self) -> str:
        return "asked"


class _Graph(_Fixed):
    """Makes the description of what a client submits: tasks by their keys, and nothing that its sender says beside."""

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
    """The class of what stands for a class or function that is not known here."""

    what = ""


class _Foreign(Exception, metaclass=_Kind):
    """It takes whatever it is given and does nothing; an exception, since Dask looks for one in errors."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(type(self).what)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __setstate__(self, _state: object) -> None: ...
    def __setitem__(self, _key: object, _value: object) -> None: ...
    def append(self, _item: object) -> None: ...
    def extend(self, _items: object) -> None: ...


class _MakeForeign(_Fixed):
    """Makes the mark for a name that is not known here."""

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
            raise AttributeError("tracebacks stay where they are")  # as Dask expects of one that it cannot read
        return foreign(f"{module}.{name}")

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("nothing is referred to")


class _Pickle:
    """Stands for the module pickle within Dask."""

    def __getattr__(self, name: str) -> Any:
        if name in ("load", "Unpickler"):
            raise AttributeError(f"pickle.{name} is not for Dask here")
        return getattr(pickle, name)

    @staticmethod
    def loads(data: Any, *, buffers: Iterable[Any] | None = None, **_: object) -> Any:
        return _Unpickler(io.BytesIO(data), buffers=buffers or None).load()


_PICKLE = _Pickle()
_SILENT = logging.CRITICAL + 1  # what matters is said by our own words


def restrict() -> None:
    """From now on nothing that Dask receives in this process runs code of its sender."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("dask", "distributed") and getattr(module, "pickle", None) is pickle:
            module.pickle = _PICKLE  # type: ignore[attr-defined]
    dask.config.set(
        {
            "distributed.scheduler.allowed-imports": [],  # by the names of enumerations
            "distributed.scheduler.pickle": True,
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
            "distributed.worker.memory.terminate": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.target": False,
            # Drills take minutes, so a worker that is silent for this long is lost.
            "distributed.scheduler.worker-ttl": "60s",
            # Of those that were lost with a task waiting or running: a drill that kills its host is given up.
            "distributed.scheduler.allowed-failures": 8,
            "distributed.scheduler.work-stealing": True,
            "distributed.scheduler.unknown-task-duration": "3m",
            # A host that drills has better things to do than to watch itself fifty times a second.
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
    """Leave a server only these of its answers."""
    server.handlers = {name: handler for name, handler in server.handlers.items() if name in kept}
    # A server puts its scratch directory there, to import what it is sent.
    while server.local_directory in sys.path:
        sys.path.remove(server.local_directory)


def asked_text(spec: Any) -> str | None:
    """The text of a task that is what one of ours is; None for any other."""
    if type(spec) is not dask._task_spec.Task or spec.func is not asked or spec.kwargs or len(spec.args) != 1:
        return None
    text = spec.args[0]
    return text if type(text) is str else None


def security(*, ca: Path | None, cert: Path | None, key: Path | None) -> Security | None:
    """Certificates by which all of a fleet know one another; None where none are given."""
    given = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if not any(given.values()):
        return None
    if missing := [name for name, path in given.items() if path is None]:
        raise UsageError(f"TLS needs {', '.join(missing)}, too")
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
        made.get_connection_args("client")  # reads them
    except OSError as error:
        raise HostError(f"the certificates cannot be used: {error.strerror or error}") from None
    return made


def versions() -> Mapping[str, str]:
    """Of what the fleet is built on."""
    return {"dask": dask.__version__, "distributed": distributed.__version__}
