"""The daemon's own parts on a real socket, published into by its log's public interface.

usage: daemon_server.py DIRECTORY. It prints its port, then obeys lines "EVENTS MODE": as many events to
everybody, `burst` at once or `apart`, each when the one before is committed; or `scoped`, at once, each of
the next of the workers w0, w1, …, as many as there are subscribers. The token is $BENCH_TOKEN.
"""

import gc
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import structlog
import trio

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.front.access import names_of
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.addresses import parse_listen
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.events import Draft
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import MemoryStoreSettings, Settings
from yoi_daemon.observe.server import ObserveServer
from yoi_daemon.serve import COLLECT_EVERY

EVENT_BYTES = 300


def draft(fill: str, worker_id: str | None) -> Draft:
    return Draft(
        kind="bench.event",
        runtime_id=None if worker_id is None else EMBEDDED_RUNTIME_ID,
        worker_id=worker_id,
        data={"sent": time.monotonic_ns(), "fill": fill},
    )


async def find_fill(log: EventLog, worker_id: str | None) -> str:
    """What makes an event 300 bytes long, give or take the digits in its envelope."""
    seq = log.append(draft("", worker_id))
    await log.committed(seq)
    (entry,) = log.read(seq - 1, 1)
    return "x" * (EVENT_BYTES - len(entry.message))


async def obey(daemon: Daemon, fill: str, scoped_fill: str) -> None:
    log = daemon.event_log
    async for line in lines_of_input():
        events, mode = line.split()
        workers = [f"w{i}" for i in range(daemon.observed.subscribers)]
        for number in range(int(events)):
            if mode == b"scoped":
                log.append(draft(scoped_fill, workers[number % len(workers)]))
            else:
                seq = log.append(draft(fill, None))
                if mode == b"apart":
                    await log.committed(seq)
            await log.room()


async def lines_of_input() -> AsyncGenerator[bytes]:
    rest = b""
    async for data in trio.lowlevel.FdStream(os.dup(0)):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


async def main() -> None:
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])  # as the daemon does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    root = Path(sys.argv[1])
    directories = Directories(root / "config", root / "state", root / "secrets")
    (listening,) = open_sockets([parse_listen("127.0.0.1:0")], "[observe] listen")
    directories.state.mkdir()
    # The peers keep nothing either.
    settings = Settings(store=MemoryStoreSettings())
    tokens = Tokens(os.environ["BENCH_TOKEN"])
    names = names_of([listening.address], [], [])
    async with (
        open_daemon(directories, settings, tokens, environ={}) as daemon,
        trio.open_nursery() as nursery,
    ):
        log = daemon.event_log
        fill, scoped_fill = await find_fill(log, None), await find_fill(log, "w")
        await nursery.start(ObserveServer(daemon, names).serve, [listening.socket])
        print(listening.socket.getsockname()[1], flush=True)
        await obey(daemon, fill, scoped_fill)
        nursery.cancel_scope.cancel()


trio.run(main)
