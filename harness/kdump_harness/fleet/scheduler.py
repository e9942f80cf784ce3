"""The scheduler: Dask's, restricted so that it runs no code it receives."""

from __future__ import annotations

from typing import Any

import distributed
from distributed.security import Security
from distributed.stealing import WorkStealing

from .protocol import wire_format

PORT = 8786  # Dask's


class FleetScheduler(distributed.Scheduler):  # type: ignore[misc]
    """A scheduler that assigns tasks by resources, and again when a worker is lost."""

    def __init__(self, *, listen: str, port: int, security: Security | None) -> None:
        super().__init__(
            host=listen,
            port=port,
            protocol="tls" if security is not None else "tcp",
            security=security,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            extensions={"stealing": WorkStealing},
        )
        wire_format.keep_handlers(self, wire_format.SCHEDULER_HANDLERS)

    async def close(self, *arguments: Any, **more: Any) -> Any:
        """Shut down; clients cannot call this."""
        return await super().close(*arguments, **more)
