"""The stream's listener: who may come in, what each path follows. Needs the `observe` extra."""

import random
import socket
from collections.abc import Callable, Sequence

import trio

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.front.access import Names, refuse_token_in_query
from yoi_daemon.front.connection import Connection, SessionHandler, UpgradeRequest
from yoi_daemon.front.websocket import WebSocketLimits, serve_websocket
from yoi_daemon.model.errors import Refused
from yoi_daemon.observe.protocol import (
    StreamRefused,
    Target,
    filter_of,
    find_position,
    find_target,
    read_query,
)
from yoi_daemon.observe.session import Session


class WebSocketTransport:
    """A session's transport over one WebSocket connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send_frames(self, frames: list[bytes]) -> None:
        await self._connection.send_frames(b"".join(frames))

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)


class ObserveServer:
    """Opens sessions on one daemon's log."""

    def __init__(
        self,
        daemon: Daemon,
        names: Names,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._daemon = daemon
        self._names = names
        self._uniform = uniform

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until the daemon drains and every session has ended."""
        limits = WebSocketLimits(connections=self._daemon.settings.observe.max_subscribers)
        await serve_websocket(
            sockets,
            self.admit,
            draining=self._daemon.draining,
            limits=limits,
            new_request_id=lambda: self._daemon.ids.new("req"),
            task_status=task_status,
        )

    async def admit(self, request: UpgradeRequest) -> SessionHandler:
        """Name, page and token are checked before the 101, and where `latest` is, is fixed.

        What is wrong with the rest is told on the stream, where a client can read it.
        """
        headers = dict(request.headers)
        self._names.check(headers.get("host"), headers.get("origin"), headers.get("sec-fetch-site"))
        refuse_token_in_query(request.query)
        principal = self._daemon.tokens.authenticate(headers.get("authorization"))
        principal.require("events:read")
        target = find_target(request.path)
        if self._daemon.draining.is_set():
            raise Refused("draining", "the daemon stops; come back", retry_after_s=2.0)
        try:
            asked = read_query(request.query)
            await self._check_target(target)
            wanted = filter_of(target, asked)
            position, resume = find_position(asked.cursor, self._daemon.event_log)
        except StreamRefused as refused:
            reason = refused

            async def refuse(connection: Connection) -> None:
                await self._session(connection).refuse(reason)

            return refuse

        async def follow(connection: Connection) -> None:
            observed = self._daemon.observed
            observed.subscribers += 1
            try:
                await self._session(connection).run(wanted, position, resume)
            finally:
                observed.subscribers -= 1

        return follow

    def _session(self, connection: Connection) -> Session:
        return Session(
            self._daemon.event_log,
            WebSocketTransport(connection),
            heartbeat_s=self._daemon.settings.observe.heartbeat_s,
            draining=self._daemon.draining,
            uniform=self._uniform,
        )

    async def _check_target(self, target: Target) -> None:
        try:
            if target.plugin_id is not None:
                self._daemon.plugins.service(target.plugin_id)
            if target.runtime_id is not None and target.worker_id is not None:
                await self._daemon.registry.runtime(target.runtime_id).worker(target.worker_id)
        except Refused as refused:
            raise StreamRefused(refused.code, refused.code, refused.detail) from refused
