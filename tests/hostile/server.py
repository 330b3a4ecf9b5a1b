"""A process with both listeners and nothing behind them: what the hostile clients are let loose on.

usage: server.py guarded|stock [key=value ...]
Prints one line of JSON when ready: {"pid", "http", "websocket"}; with tls=1 "https" and "wss" too. SIGTERM ends it with exit code 0.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import hypercorn.trio
import structlog
import trio
import trio_websocket
from hypercorn.config import Config
from quart import request
from quart_trio import QuartTrio

from yoi_daemon.front.connection import Connection, SessionHandler, UpgradeRequest
from yoi_daemon.front.http import HttpLimits, serve_http
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.tls import Certificate
from yoi_daemon.front.websocket import WebSocketLimits, serve_websocket
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.frames import text_frame

_CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
BLOCK = b"data: " + b"x" * 8000 + b"\n\n"


def make_app(draining: trio.Event) -> QuartTrio:
    app = QuartTrio(__name__)
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = 2
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024

    async def ping() -> dict[str, Any]:
        return {"ok": True}

    async def echo() -> dict[str, Any]:
        return {"bytes": len(await request.get_data())}

    async def flood() -> tuple[AsyncIterator[bytes], dict[str, str]]:
        async def blocks() -> AsyncIterator[bytes]:
            while not draining.is_set():
                yield BLOCK

        return blocks(), {"content-type": "text/event-stream"}

    async def stream() -> tuple[AsyncIterator[bytes], dict[str, str]]:
        async def blocks() -> AsyncIterator[bytes]:
            yield b"data: begun\n\n"
            await draining.wait()
            yield b"data: ended\n\n"

        return blocks(), {"content-type": "text/event-stream"}

    async def broken() -> tuple[AsyncIterator[bytes], dict[str, str]]:
        async def blocks() -> AsyncIterator[bytes]:
            yield b"some"
            raise RuntimeError("secret words")

        return blocks(), {"content-type": "text/plain"}

    async def raises() -> str:
        raise RuntimeError("secret words")

    app.add_url_rule("/ping", "ping", ping)
    app.add_url_rule("/echo", "echo", echo, methods=["POST"])
    app.add_url_rule("/raises", "raises", raises)
    for view in (flood, stream, broken):
        app.add_url_rule(f"/{view.__name__}", view.__name__, view)
    return app


async def send(connection: Connection, payload: bytes) -> None:
    await trio.lowlevel.checkpoint()
    connection.offer(text_frame(payload))
    await connection.drained()


async def gate(draining: trio.Event, upgrade: UpgradeRequest) -> SessionHandler:
    if upgrade.path == "/refused":
        raise Refused("unauthenticated", "give a token")
    if upgrade.path == "/gate-raises":
        raise RuntimeError("secret words")

    async def ticks(connection: Connection) -> None:
        if upgrade.path == "/raises":
            raise RuntimeError("secret words")
        await send(connection, json.dumps({"path": upgrade.path, "query": upgrade.query}).encode())
        while upgrade.path == "/flood" and not draining.is_set():
            await send(connection, b"x" * 8000)
        with trio.move_on_after(60):
            await draining.wait()
        await connection.close("shutting_down")

    return ticks


async def guarded(draining: trio.Event, options: dict[str, float]) -> None:
    tls = Certificate(_CERTIFICATES / "server.pem", _CERTIFICATES / "server.key")
    kinds: dict[str, Certificate | None] = {"http": None, "websocket": None}
    if options.get("tls"):
        kinds |= {"https": tls, "wss": tls}
    opened = dict(zip(kinds, open_sockets([TcpAddress("127.0.0.1", 0)] * len(kinds)), strict=True))
    http_limits = HttpLimits(
        connections=int(options.get("connections", 2048)),
        head_s=options.get("head_s", 10),
        idle_s=options.get("idle_s", 15),
        stall_s=options.get("stall_s", 10),
        linger_s=0.5,
        abandon_s=1,
    )
    websocket_limits = WebSocketLimits(
        connections=int(options.get("connections", 4096)),
        stall_s=options.get("stall_s", 10),
        close_s=0.5,
        linger_s=0.5,
    )
    async with trio.open_nursery() as nursery:
        for kind, certificate in kinds.items():
            if kind.startswith("http"):
                serve = partial(serve_http, make_app(draining), graceful_s=1, limits=http_limits)
            else:
                serve = partial(
                    serve_websocket,
                    gate=partial(gate, draining),
                    handshake_s=options.get("head_s", 5),
                    limits=websocket_limits,
                )
            sockets = [opened[kind].socket]
            await nursery.start(
                partial(serve, sockets=sockets, draining=draining, certificate=certificate)
            )
        ready({kind: one.address.port for kind, one in opened.items()})
        await draining.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 2


async def stock(draining: trio.Event, options: dict[str, float]) -> None:
    config = Config()
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 1
    config.bind = ["127.0.0.1:0"]

    async def ticks(opening: trio_websocket.WebSocketRequest) -> None:
        connection = await opening.accept()
        await connection.send_message("hello")
        await draining.wait()

    async with trio.open_nursery() as nursery:
        binds = await nursery.start(
            partial(
                hypercorn.trio.serve,  # pyright: ignore[reportUnknownMemberType] - its WSGI half
                make_app(draining),
                config,
                shutdown_trigger=draining.wait,
            )
        )
        server = await nursery.start(trio_websocket.serve_websocket, ticks, "127.0.0.1", 0, None)
        ready({"http": int(binds[0].rpartition(":")[2]), "websocket": server.port})
        await draining.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 2


def ready(ports: dict[str, int]) -> None:
    print(json.dumps({"pid": os.getpid(), **ports}), flush=True)


async def main(variant: str, options: dict[str, float]) -> None:
    draining = trio.Event()
    async with trio.open_nursery() as nursery:

        async def end_on_signal(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    draining.set()
                    return

        await nursery.start(end_on_signal)
        await {"guarded": guarded, "stock": stock}[variant](draining, options)


if __name__ == "__main__":
    logging.disable(
        logging.ERROR
    )  # quart reports each exception of a view; that is no failure here
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = dict(argument.split("=") for argument in sys.argv[2:])
    trio.run(main, sys.argv[1], {name: float(value) for name, value in given.items()})
