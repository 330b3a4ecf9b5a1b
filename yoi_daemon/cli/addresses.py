"""How a worker is written on a command line."""

from typing import NamedTuple

import click

from yoi_daemon.client.rest import path_of
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID


class WorkerAddress(NamedTuple):
    """What a worker is addressed by."""

    runtime_id: str
    worker_id: str

    def path(self, *rest: str) -> str:
        """Returns the route of the worker, or of something below it."""
        return path_of("runtimes", self.runtime_id, "workers", self.worker_id, *rest)


def parse_worker(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> WorkerAddress | None:
    """`WORKER` or `RUNTIME/WORKER`; without a runtime it is one of the daemon's own."""
    if value is None:
        return None
    runtime_id, slash, worker_id = value.partition("/")
    if not slash:
        runtime_id, worker_id = EMBEDDED_RUNTIME_ID, runtime_id
    if not runtime_id or not worker_id or "/" in worker_id:
        raise click.BadParameter(
            "expected WORKER or RUNTIME/WORKER, as 'yoi-daemon worker list' shows it", ctx, param
        )
    return WorkerAddress(runtime_id, worker_id)
